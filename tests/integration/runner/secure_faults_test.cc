// What may befall a secure round: messages lost, late or broken, full disks,
// kills, and clients that lie.
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/sim_random.h"
#include "coordinator/aggregate/group_rule.h"
#include "coordinator/runner/secure_round.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/runner/secure_runner_fixture.h"

namespace choir::runner {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

class SecureFaultsTest : public SecureRunnerTest {};

// One message of one client of 24 is lost, comes twice, comes too late or
// comes broken: the round is committed with the exact sum, at the first try.
TEST_F(SecureFaultsTest, ARoundOf24SurvivesWhateverBefallsOneMessage) {
  enum class Fault { kLost, kTwice, kLate, kBroken };
  base::SimRandom random(24);
  for (const absl::string_view phase :
       {engine::kAdvertiseKeys, engine::kShareKeys, engine::kMaskedInput,
        engine::kConfirm, engine::kUnmask}) {
    for (const Fault fault :
         {Fault::kLost, Fault::kTwice, Fault::kLate, Fault::kBroken}) {
      config::JobOptions job = Job(1, 24, 20);
      job.name = absl::StrCat("job-", phase, static_cast<int>(fault));
      const std::string victim = absl::StrCat("c", 100 + random.Below(24));
      SCOPED_TRACE(absl::StrCat(job.name, " ", victim));
      auto fleet = Fleet(job);
      v1::SecureExchangeRequest late;
      fleet->vanishes = [&](const std::string& client, const v1::TaskKey&,
                            absl::string_view its) {
        return client == victim && its == phase && fault == Fault::kLost;
      };
      fleet->tamper = [&](const std::string& client,
                          v1::SecureExchangeRequest& request,
                          std::string& payload) {
        if (client != victim || PhaseOf(request.message()) != phase) return;
        late = request;
        if (fault == Fault::kTwice) {
          if (!payload.empty()) {
            ASSERT_TRUE(store_->blobs().Put(payload).ok());
          }
          EXPECT_TRUE(fleet->runner().PostSecure(client, request).ok());
        } else if (fault == Fault::kBroken) {
          v1::SecureExchangeRequest broken = request;
          std::string bytes = request.message().SerializeAsString();
          bytes[bytes.size() - 3] ^= 0x20;
          v1::SecureClientMessage message;
          if (!message.ParseFromString(bytes)) return;
          *broken.mutable_message() = message;
          // Whoever notices; the right one follows.
          fleet->runner().PostSecure(client, broken).status().IgnoreError();
        } else if (fault == Fault::kLate) {
          request.mutable_key()->set_attempt(99);
        }
      };
      const absl::Status ran = fleet->Run();
      ASSERT_TRUE(ran.ok()) << ran;
      const std::vector<v1::RoundCommitted> rounds = Committed(*fleet);
      ASSERT_THAT(rounds, SizeIs(1));
      EXPECT_EQ(rounds[0].attempt(), 1u);
      EXPECT_GE(rounds[0].survivors_size(), 23);
      EXPECT_EQ(Aggregate(rounds[0]),
                fleet->PlainSum(1, SurvivorsOf(rounds[0])).Encode());
      if (fault == Fault::kLate) {
        EXPECT_FALSE(fleet->runner().PostSecure(victim, late).ok());
      }
    }
  }
}

TEST_F(SecureFaultsTest, ADiskThatIsFullNowAndThenCostsNothing) {
  FaultyStore store(
      *store::Store::Open(base::JoinPath(folder_.path(), "faulty"),
                          base::Durability::kProcessCrash, clock_));
  base::SimRandom random(3);
  store.append_fault = [&](bool after) {
    return !after && random.Below(3) == 0 && store.appends > 2
               ? absl::ResourceExhaustedError("disk full")
               : absl::OkStatus();
  };
  store.put_fault = [&] {
    return random.Below(10) == 0 && store.appends > 2
               ? absl::ResourceExhaustedError("disk full")
               : absl::OkStatus();
  };
  const config::JobOptions job = Job(3, 5, 5);
  SecureFleet fleet(Names(5), store, clock_, 77);
  ASSERT_TRUE(fleet.Start(job).ok());
  int failures = 0;
  for (int turn = 0; turn < 2000 && !fleet.runner().finished(); ++turn) {
    const absl::Status turned = fleet.Turn();
    failures += turned.ok() ? 0 : 1;
    clock_.Advance(absl::Milliseconds(1));
  }
  ASSERT_TRUE(fleet.runner().finished());
  EXPECT_GT(failures, 5);
  for (const v1::RoundCommitted& round : Committed(fleet)) {
    EXPECT_EQ(round.attempt(), 1u);
    EXPECT_EQ(*store.blobs().Read(round.aggregate().digest()),
              fleet.PlainSum(round.round(), SurvivorsOf(round)).Encode());
  }
  EXPECT_THAT(Committed(fleet), SizeIs(3));
}

TEST_F(SecureFaultsTest, ACoordinatorKilledInAnyPhaseBeginsTheAttemptAnew) {
  for (int closed = 1; closed <= 4; ++closed) {
    config::JobOptions job = Job(1, 5, 5);
    job.name = absl::StrCat("job-", closed);
    std::string first_session;
    {
      auto fleet = Fleet(job);
      while (PhasesClosed(*fleet) < closed) ASSERT_TRUE(fleet->Turn().ok());
      for (const v1::JournalRecord& record : fleet->records()) {
        if (record.has_round_started()) {
          first_session = record.round_started().secure_session().session_id();
        }
      }
      // A masked vector that had arrived and was not added.
      ASSERT_TRUE(store_->blobs().Put("CHV1 left over").ok());
    }
    auto fleet = Fleet(job);
    EXPECT_EQ(MaskedBlobs(), 0);
    ASSERT_FALSE(fleet->records().empty());
    EXPECT_THAT(fleet->records()[0].round_lost().reason(),
                HasSubstr("the coordinator was restarted in phase"));
    const absl::Status ran = fleet->Run();
    ASSERT_TRUE(ran.ok()) << ran;
    const v1::RoundCommitted round = Committed(*fleet).at(0);
    EXPECT_EQ(round.attempt(), 2u);
    EXPECT_NE(round.secure_session().session_id(), first_session);
    EXPECT_EQ(Aggregate(round),
              fleet->PlainSum(1, SurvivorsOf(round)).Encode());
  }
}

// One client hands back wrong shares of everybody, where one share more than
// needed comes, and where two more do: the round is summed at the first try.
TEST_F(SecureFaultsTest, WrongSharesOfOthersSpoilNothing) {
  for (const int clients : {6, 7}) {
    config::JobOptions job = Job(1, clients, 5);
    job.name = absl::StrCat("job-", clients);
    auto fleet = Fleet(job);
    fleet->tamper = [](const std::string& client,
                       v1::SecureExchangeRequest& request, std::string&) {
      if (client != "c102" || !request.message().has_unmask()) return;
      v1::UnmaskShares& shares = *request.mutable_message()->mutable_unmask();
      for (auto& share : *shares.mutable_shares()) {
        share.mutable_self_mask()->back() ^= 1;
      }
    };
    const absl::Status ran = fleet->Run();
    ASSERT_TRUE(ran.ok()) << ran;
    const v1::RoundCommitted round = Committed(*fleet).at(0);
    EXPECT_EQ(round.attempt(), 1u);
    EXPECT_THAT(round.survivors(), SizeIs(clients));
    EXPECT_EQ(Aggregate(round),
              fleet->PlainSum(1, SurvivorsOf(round)).Encode());
  }
}

// One client shares what nobody can open, and falls silent or not: the attempt
// is lost, its name is journaled, and the next goes without it.
TEST_F(SecureFaultsTest, WhoSharesRubbishIsLeftOutOfTheNextAttempt) {
  for (const bool silent : {true, false}) {
    config::JobOptions job = Job(1, 7, 5);
    job.name = silent ? "silent" : "loud";
    auto fleet = Fleet(job);
    fleet->tamper = [](const std::string& client,
                       v1::SecureExchangeRequest& request, std::string&) {
      if (client != "c103" || !request.message().has_share()) return;
      v1::ShareKeys& shares = *request.mutable_message()->mutable_share();
      for (auto& share : *shares.mutable_shares()) {
        share.mutable_sealed()->back() ^= 1;
      }
    };
    fleet->vanishes = [&](const std::string& client, const v1::TaskKey& key,
                          absl::string_view phase) {
      return silent && client == "c103" && key.attempt() == 1 &&
             phase == engine::kMaskedInput;
    };
    const absl::Status ran = fleet->Run();
    ASSERT_TRUE(ran.ok()) << ran;
    std::vector<std::string> blamed;
    for (const v1::JournalRecord& record : fleet->records()) {
      for (const auto& group : record.secure_phase_closed().groups()) {
        blamed.insert(blamed.end(), group.blamed().begin(),
                      group.blamed().end());
      }
    }
    EXPECT_THAT(blamed, ElementsAre("c103"));
    const v1::RoundCommitted round = Committed(*fleet).at(0);
    EXPECT_EQ(round.attempt(), 2u);
    EXPECT_THAT(round.survivors(), SizeIs(6));
    EXPECT_EQ(Aggregate(round),
              fleet->PlainSum(1, SurvivorsOf(round)).Encode());
  }
}

// A coordinator killed amid groups, one of whose members vanishes in the second
// attempt: what is committed is the median of the groups' sums in the open, bit
// for bit.
TEST_F(SecureFaultsTest, ACoordinatorKilledAmidGroupsFormsThemAnew) {
  for (int closed = 1; closed <= 4; ++closed) {
    config::JobOptions job = Job(1, 15, 12);
    job.name = absl::StrCat("job-", closed);
    job.secure_aggregation.group_size = 5;
    job.secure_aggregation.group_rule = config::GroupRule::kMedian;
    {
      auto fleet = Fleet(job);
      while (PhasesClosed(*fleet) < closed) ASSERT_TRUE(fleet->Turn().ok());
    }
    auto fleet = Fleet(job);
    ASSERT_FALSE(fleet->records().empty());
    EXPECT_THAT(fleet->records()[0].round_lost().reason(),
                HasSubstr("the coordinator was restarted in phase"));
    fleet->vanishes = [](const std::string& client, const v1::TaskKey&,
                         absl::string_view phase) {
      return client == "c107" && phase == engine::kMaskedInput;
    };
    const absl::Status ran = fleet->Run();
    ASSERT_TRUE(ran.ok()) << ran;
    const v1::RoundCommitted round = Committed(*fleet).at(0);
    EXPECT_EQ(round.attempt(), 2u);
    EXPECT_THAT(round.survivors(), SizeIs(14));
    const std::vector<aggregate::IntegerSum> groups = PlainGroups(*fleet, 2);
    ASSERT_THAT(groups, SizeIs(3));
    EXPECT_EQ(
        Aggregate(round),
        aggregate::CombineGroups(config::GroupRule::kMedian, groups)->Encode());
    EXPECT_EQ(MaskedBlobs(), 0);
  }
}

TEST_F(SecureFaultsTest, ARefusalIsJournaledWithItsReason) {
  auto fleet = Fleet(Job(1, 6, 5));
  fleet->tamper = [&](const std::string& client,
                      v1::SecureExchangeRequest& request, std::string&) {
    if (client != "c103" || !request.message().has_share()) return;
    v1::SecureRefusal& refusal = *request.mutable_message()->mutable_refusal();
    refusal.set_reason(v1::SecureRefusal::ROSTER_TOO_SMALL);
    refusal.set_detail("6 < 10\n");
  };
  const absl::Status ran = fleet->Run();
  ASSERT_TRUE(ran.ok()) << ran;
  std::vector<std::string> reasons;
  for (const v1::JournalRecord& record : fleet->records()) {
    if (record.has_client_lost()) {
      reasons.push_back(record.client_lost().reason());
    }
  }
  EXPECT_THAT(reasons, ElementsAre("refused the secure session: "
                                   "ROSTER_TOO_SMALL: 6 < 10?"));
  EXPECT_THAT(Committed(*fleet).at(0).survivors(), SizeIs(5));
}

TEST_F(SecureFaultsTest, BrokenMessagesAreRefusedAndChangeNothing) {
  auto fleet = Fleet(Job(1, 5, 5));
  std::set<std::string> broken;
  std::vector<absl::StatusCode> codes;
  fleet->tamper = [&](const std::string& client,
                      v1::SecureExchangeRequest& request,
                      std::string& payload) {
    // Each kind of message once wrong, then right.
    v1::SecureExchangeRequest wrong = request;
    v1::SecureClientMessage& message = *wrong.mutable_message();
    const std::string kind(PhaseOf(message));
    if (client == "c100" || !broken.insert(kind).second) return;
    if (message.has_advertise()) {
      message.mutable_advertise()->set_client("c100");
    } else if (message.has_share()) {
      message.mutable_share()->mutable_shares()->RemoveLast();
    } else if (message.has_masked()) {
      message.mutable_masked()->set_size(payload.size() - 1);
    } else if (message.has_confirm()) {
      message.mutable_confirm()->set_signature(std::string(64, 'x'));
    } else if (message.has_unmask()) {
      message.mutable_unmask()->mutable_shares(0)->set_peer(99);
    }
    codes.push_back(fleet->runner().PostSecure(client, wrong).status().code());
  };
  const absl::Status ran = fleet->Run();
  ASSERT_TRUE(ran.ok()) << ran;
  ASSERT_THAT(codes, SizeIs(5));
  EXPECT_EQ(codes[0], absl::StatusCode::kPermissionDenied);
  for (size_t i = 1; i < codes.size(); ++i) {
    EXPECT_EQ(codes[i], absl::StatusCode::kInvalidArgument) << i;
  }
  const v1::RoundCommitted round = Committed(*fleet).at(0);
  EXPECT_EQ(round.attempt(), 1u);
  EXPECT_EQ(Aggregate(round), fleet->PlainSum(1, SurvivorsOf(round)).Encode());
}

TEST_F(SecureFaultsTest, StrangersAndLateMessagesGetNowhere) {
  auto fleet = Fleet(Job(1, 5, 5));
  v1::SecureExchangeRequest kept;
  fleet->tamper = [&](const std::string& client,
                      v1::SecureExchangeRequest& request, std::string&) {
    if (client == "c100" && request.message().has_advertise()) kept = request;
    if (client != "c101" || !request.message().has_share()) return;
    EXPECT_TRUE(absl::IsAborted(
        fleet->runner().PostSecure("stranger", request).status()));
    v1::SecureExchangeRequest early = request;
    early.mutable_message()->mutable_unmask();
    EXPECT_TRUE(absl::IsFailedPrecondition(
        fleet->runner().PostSecure("c101", early).status()));
    v1::SecureExchangeRequest other = request;
    other.mutable_key()->set_attempt(9);
    EXPECT_TRUE(
        absl::IsAborted(fleet->runner().PostSecure("c101", other).status()));
    v1::SecureExchangeRequest empty = request;
    empty.clear_message();
    EXPECT_TRUE(absl::IsInvalidArgument(
        fleet->runner().PostSecure("c101", empty).status()));
  };
  ASSERT_TRUE(fleet->Run().ok());
  EXPECT_TRUE(
      absl::IsAborted(fleet->runner().PostSecure("c100", kept).status()));
}

TEST_F(SecureFaultsTest, AMaskedVectorHasToBeUploaded) {
  auto fleet = Fleet(Job(1, 5, 5));
  int asked = 0;
  fleet->tamper = [&](const std::string& client,
                      v1::SecureExchangeRequest& request, std::string&) {
    if (client != "c102" || !request.message().has_masked()) return;
    ++asked;
    EXPECT_TRUE(
        absl::IsNotFound(fleet->runner().PostSecure(client, request).status()));
  };
  ASSERT_TRUE(fleet->Run().ok());
  EXPECT_EQ(asked, 1);
}

// A vector that comes when its phase is over, one that the session refuses, and
// one of an attempt that is over are gone at once or with their phase.
TEST_F(SecureFaultsTest, VectorsThatAreNotSummedGoWithTheirPhase) {
  config::JobOptions job = Job(1, 6, 5);
  auto fleet = Fleet(job);
  v1::SecureExchangeRequest late;
  std::string vector;
  fleet->vanishes = [](const std::string& client, const v1::TaskKey&,
                       absl::string_view phase) {
    return client == "c104" && phase == engine::kMaskedInput;
  };
  fleet->tamper = [&](const std::string& client,
                      v1::SecureExchangeRequest& request,
                      std::string& payload) {
    if (client != "c102" || !request.message().has_masked()) return;
    late = request;
    vector = payload;
    // Of the right size, and not of this session.
    std::string wrong = payload;
    wrong[4] ^= 1;
    v1::SecureExchangeRequest refused = request;
    v1::MaskedInput& masked = *refused.mutable_message()->mutable_masked();
    masked.set_digest(store_->blobs().Put(wrong)->digest());
    EXPECT_TRUE(absl::IsInvalidArgument(
        fleet->runner().PostSecure(client, refused).status()));
    EXPECT_EQ(MaskedBlobs(), 1);
  };
  while (PhasesClosed(*fleet) < 3) ASSERT_TRUE(fleet->Turn().ok());
  ASSERT_FALSE(vector.empty());
  EXPECT_EQ(MaskedBlobs(), 0);
  const auto post = [&](const std::string& client) {
    EXPECT_TRUE(store_->blobs().Put(vector).ok());
    const absl::Status status =
        fleet->runner().PostSecure(client, late).status();
    EXPECT_EQ(MaskedBlobs(), 0) << client;
    return status;
  };
  EXPECT_TRUE(post("c102").ok()) << "it is in the sum";
  EXPECT_TRUE(absl::IsAborted(post("c104"))) << "too late";
  ASSERT_TRUE(fleet->Run().ok());
  const v1::RoundCommitted round = Committed(*fleet).at(0);
  EXPECT_THAT(round.survivors(), SizeIs(5));
  EXPECT_EQ(Aggregate(round), fleet->PlainSum(1, SurvivorsOf(round)).Encode());
  EXPECT_TRUE(absl::IsAborted(post("c102"))) << "the round is over";
  // What is no masked vector stays, whoever names it.
  late.mutable_message()->mutable_masked()->set_digest(
      round.aggregate().digest());
  EXPECT_FALSE(fleet->runner().PostSecure("c102", late).ok());
  EXPECT_TRUE(store_->blobs().Contains(round.aggregate().digest()));
}

// Vectors that had arrived in time are summed, however long it takes: their
// phase's time is over when the first is added.
TEST_F(SecureFaultsTest, WhoWasInTimeIsNotLateForHavingQueued) {
  config::JobOptions job = Job(1, 5, 5);
  auto fleet = Fleet(job);
  bool waited = false;
  fleet->tamper = [&](const std::string&, v1::SecureExchangeRequest& request,
                      std::string&) {
    if (!request.message().has_masked()) {
      fleet->runner().ArrivedAt(absl::InfiniteFuture());
    } else if (!waited) {
      waited = true;
      fleet->runner().ArrivedAt(clock_.Now());
      clock_.Advance(job.secure_aggregation.phase_deadline + absl::Seconds(1));
    }
  };
  const absl::Status ran = fleet->Run();
  ASSERT_TRUE(ran.ok()) << ran;
  EXPECT_TRUE(waited);
  const v1::RoundCommitted round = Committed(*fleet).at(0);
  EXPECT_EQ(round.attempt(), 1u);
  EXPECT_THAT(round.survivors(), SizeIs(5));
}

}  // namespace
}  // namespace choir::runner
