// Secure rounds through the runner: real sessions, in-process clients.
#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/sim_random.h"
#include "coordinator/aggregate/group_rule.h"
#include "coordinator/runner/secure_round.h"
#include "coordinator/runner/update_sum.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/runner/secure_fleet.h"

namespace choir::runner {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

std::vector<std::string> Names(int count) {
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i) names.push_back(absl::StrCat("c", 100 + i));
  return names;
}

class SecureRunnerTest : public ::testing::Test {
 protected:
  SecureRunnerTest() {
    WriteBaseModel(base_);
    store_ = *store::Store::Open(base::JoinPath(folder_.path(), "store"),
                                 base::Durability::kProcessCrash, clock_);
  }

  config::JobOptions Job(int rounds, int clients, int min_survivors) const {
    config::JobOptions job = FleetJob(base_, rounds, clients);
    job.rounds.min_survivors = min_survivors;
    job.evaluation.every = 0;
    job.aggregation.max_examples_per_client = 1000;
    job.secure_aggregation.enabled = true;
    job.secure_aggregation.min_clients = 3;
    return job;
  }

  std::unique_ptr<SecureFleet> Fleet(const config::JobOptions& job,
                                     base::ThreadPool* pool = nullptr) {
    auto fleet = std::make_unique<SecureFleet>(
        Names(job.rounds.cohort_size), *store_, clock_, ++fleets_);
    const absl::Status started = fleet->Start(job, {}, pool);
    EXPECT_TRUE(started.ok()) << started;
    return fleet;
  }

  static std::vector<v1::RoundCommitted> Committed(const SecureFleet& fleet) {
    std::vector<v1::RoundCommitted> rounds;
    for (const v1::JournalRecord& record : fleet.records()) {
      if (record.has_round_committed()) {
        rounds.push_back(record.round_committed());
      }
    }
    return rounds;
  }

  static std::vector<std::string> SurvivorsOf(const v1::RoundCommitted& round) {
    return {round.survivors().begin(), round.survivors().end()};
  }

  std::string Aggregate(const v1::RoundCommitted& round) {
    return *store_->blobs().Read(round.aggregate().digest());
  }

  // The sums in the open of those who handed in a masked vector in this
  // attempt, group by group.
  static std::vector<aggregate::IntegerSum> PlainGroups(
      const SecureFleet& fleet, uint32_t attempt) {
    std::map<uint32_t, std::vector<std::string>> members;
    for (const v1::JournalRecord& record : fleet.records()) {
      const v1::SecurePhaseClosed& closed = record.secure_phase_closed();
      if (closed.phase() != engine::kMaskedInput ||
          closed.key().attempt() != attempt) {
        continue;
      }
      for (const auto& client : closed.clients()) {
        members[client.group()].push_back(client.client());
      }
    }
    std::vector<aggregate::IntegerSum> groups;
    for (const auto& [group, names] : members) {
      groups.push_back(fleet.PlainSum(1, names));
    }
    return groups;
  }

  static int PhasesClosed(const SecureFleet& fleet) {
    return static_cast<int>(std::count_if(
        fleet.records().begin(), fleet.records().end(),
        [](const v1::JournalRecord& record) {
          return record.has_secure_phase_closed();
        }));
  }

  int MaskedBlobs() const {
    int count = 0;
    const std::vector<std::string> blobs = *store_->blobs().List();
    for (const std::string& digest : blobs) {
      count += IsMaskedBlob(store_->blobs(), digest);
    }
    return count;
  }

  TempFolder folder_;
  base::ManualClock clock_{absl::UnixEpoch()};
  std::string base_ = base::JoinPath(folder_.path(), "base");
  std::unique_ptr<store::Store> store_;
  uint64_t fleets_ = 0;
};

TEST_F(SecureRunnerTest, TheJobEqualsThePlainOneBitForBit) {
  config::JobOptions job = Job(3, 5, 5);
  job.evaluation.every = 1;
  auto fleet = Fleet(job);
  const absl::Status ran = fleet->Run();
  ASSERT_TRUE(ran.ok()) << ran;
  const std::vector<v1::RoundCommitted> secure = Committed(*fleet);
  ASSERT_THAT(secure, SizeIs(3));

  job.secure_aggregation.enabled = false;
  const auto plain_store =
      *store::Store::Open(base::JoinPath(folder_.path(), "plain"),
                          base::Durability::kProcessCrash, clock_);
  FakeFleet plain(Names(5), *plain_store, clock_);
  ASSERT_TRUE(plain.Start(job).ok());
  ASSERT_TRUE(plain.Run().ok());
  size_t round = 0;
  for (const v1::JournalRecord& record : plain.records()) {
    if (!record.has_round_committed()) continue;
    const v1::RoundCommitted& open = record.round_committed();
    EXPECT_EQ(secure[round].aggregate().digest(), open.aggregate().digest());
    EXPECT_EQ(secure[round].adapter().digest(), open.adapter().digest());
    EXPECT_EQ(secure[round].total_weight(), open.total_weight());
    EXPECT_EQ(secure[round].survivors_size(), open.survivors_size());
    EXPECT_NEAR(secure[round].mean_train_loss(), 2.0, 1e-3);
    EXPECT_GT(secure[round].rounding_error_l2(), 0.0);
    EXPECT_LT(secure[round].rounding_error_l2(), 1e-4);
    ++round;
  }
  EXPECT_EQ(round, 3u);
  EXPECT_EQ(MaskedBlobs(), 0);
}

TEST_F(SecureRunnerTest, DropoutsInEveryPhaseLeaveTheExactSumOfTheSurvivors) {
  for (const absl::string_view phase :
       {engine::kAdvertiseKeys, engine::kShareKeys, engine::kMaskedInput,
        engine::kConfirm, engine::kUnmask}) {
    config::JobOptions job = Job(1, 6, 5);
    job.name = absl::StrCat("job-", phase);
    base::ThreadPool pool(2);
    auto fleet = Fleet(job, &pool);
    fleet->vanishes = [&](const std::string& client, const v1::TaskKey&,
                          absl::string_view its_phase) {
      return client == "c102" && its_phase == phase;
    };
    const absl::Status ran = fleet->Run();
    ASSERT_TRUE(ran.ok()) << phase << ": " << ran;
    const std::vector<v1::RoundCommitted> rounds = Committed(*fleet);
    ASSERT_THAT(rounds, SizeIs(1));
    EXPECT_EQ(rounds[0].attempt(), 1u);
    const bool masked_before =
        phase == engine::kConfirm || phase == engine::kUnmask;
    EXPECT_THAT(rounds[0].survivors(), SizeIs(masked_before ? 6 : 5));
    EXPECT_EQ(Aggregate(rounds[0]),
              fleet->PlainSum(1, SurvivorsOf(rounds[0])).Encode());
    std::vector<std::string> dropped;
    for (const v1::JournalRecord& record : fleet->records()) {
      if (!record.has_secure_phase_closed()) continue;
      for (const std::string& client :
           record.secure_phase_closed().dropped()) {
        dropped.push_back(
            absl::StrCat(record.secure_phase_closed().phase(), client));
      }
    }
    EXPECT_THAT(dropped, ElementsAre(absl::StrCat(phase, "c102")));
    EXPECT_EQ(MaskedBlobs(), 0);
  }
}

TEST_F(SecureRunnerTest, TooFewSurvivorsBeginAgainWithAnotherSession) {
  auto fleet = Fleet(Job(1, 6, 5));
  fleet->vanishes = [](const std::string& client, const v1::TaskKey& key,
                       absl::string_view phase) {
    return key.attempt() == 1 && client >= "c103" &&
           phase == engine::kMaskedInput;
  };
  const absl::Status ran = fleet->Run();
  ASSERT_TRUE(ran.ok()) << ran;
  const std::vector<v1::RoundCommitted> rounds = Committed(*fleet);
  ASSERT_THAT(rounds, SizeIs(1));
  EXPECT_EQ(rounds[0].attempt(), 2u);
  EXPECT_THAT(rounds[0].survivors(), SizeIs(6));
  EXPECT_EQ(Aggregate(rounds[0]),
            fleet->PlainSum(1, SurvivorsOf(rounds[0])).Encode());
}

TEST_F(SecureRunnerTest, GroupsAreSummedByThemselvesAndCombinedRobustly) {
  config::JobOptions job = Job(1, 12, 12);
  job.secure_aggregation.group_size = 4;
  job.secure_aggregation.group_rule = config::GroupRule::kMedian;
  auto fleet = Fleet(job);
  const absl::Status ran = fleet->Run();
  ASSERT_TRUE(ran.ok()) << ran;
  const v1::RoundCommitted round = Committed(*fleet).at(0);
  ASSERT_THAT(round.group_aggregates(), SizeIs(3));
  const std::vector<aggregate::IntegerSum> groups = PlainGroups(*fleet, 1);
  ASSERT_THAT(groups, SizeIs(3));
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(*store_->blobs().Read(round.group_aggregates(i).digest()),
              groups[i].Encode());
  }
  EXPECT_EQ(Aggregate(round),
            aggregate::CombineGroups(config::GroupRule::kMedian, groups)
                ->Encode());
}

TEST_F(SecureRunnerTest, ALostGroupCostsItsOwnMembersOnly) {
  config::JobOptions job = Job(1, 16, 12);
  job.secure_aggregation.group_size = 4;
  job.secure_aggregation.group_rule = config::GroupRule::kMean;
  auto fleet = Fleet(job);
  fleet->vanishes = [&](const std::string& client, const v1::TaskKey&,
                        absl::string_view phase) {
    if (phase != engine::kMaskedInput) return false;
    for (const v1::JournalRecord& record : fleet->records()) {
      for (const auto& one : record.secure_phase_closed().clients()) {
        if (one.client() == client && one.group() == 2) return true;
      }
    }
    return false;
  };
  const absl::Status ran = fleet->Run();
  ASSERT_TRUE(ran.ok()) << ran;
  const v1::RoundCommitted round = Committed(*fleet).at(0);
  EXPECT_EQ(round.attempt(), 1u);
  EXPECT_THAT(round.survivors(), SizeIs(12));
  EXPECT_EQ(Aggregate(round),
            fleet->PlainSum(1, SurvivorsOf(round)).Encode());
}

TEST_F(SecureRunnerTest, RepeatedMessagesChangeNothing) {
  auto fleet = Fleet(Job(1, 5, 5));
  fleet->times = 3;
  const absl::Status ran = fleet->Run();
  ASSERT_TRUE(ran.ok()) << ran;
  const v1::RoundCommitted round = Committed(*fleet).at(0);
  EXPECT_EQ(Aggregate(round),
            fleet->PlainSum(1, SurvivorsOf(round)).Encode());
  EXPECT_EQ(MaskedBlobs(), 0);
}

// One message of one client of 24 is lost, comes twice, comes too late or
// comes broken: the round is committed with the exact sum, at the first try.
TEST_F(SecureRunnerTest, ARoundOf24SurvivesWhateverBefallsOneMessage) {
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

TEST_F(SecureRunnerTest, ADiskThatIsFullNowAndThenCostsNothing) {
  FaultyStore store(*store::Store::Open(
      base::JoinPath(folder_.path(), "faulty"),
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

TEST_F(SecureRunnerTest, ACoordinatorKilledInAnyPhaseBeginsTheAttemptAnew) {
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
TEST_F(SecureRunnerTest, WrongSharesOfOthersSpoilNothing) {
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
TEST_F(SecureRunnerTest, WhoSharesRubbishIsLeftOutOfTheNextAttempt) {
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
TEST_F(SecureRunnerTest, ACoordinatorKilledAmidGroupsFormsThemAnew) {
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
    EXPECT_EQ(Aggregate(round),
              aggregate::CombineGroups(config::GroupRule::kMedian, groups)
                  ->Encode());
    EXPECT_EQ(MaskedBlobs(), 0);
  }
}

TEST_F(SecureRunnerTest, ARefusalIsJournaledWithItsReason) {
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

TEST_F(SecureRunnerTest, BrokenMessagesAreRefusedAndChangeNothing) {
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
  EXPECT_EQ(Aggregate(round),
            fleet->PlainSum(1, SurvivorsOf(round)).Encode());
}

TEST_F(SecureRunnerTest, StrangersAndLateMessagesGetNowhere) {
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

TEST_F(SecureRunnerTest, AMaskedVectorHasToBeUploaded) {
  auto fleet = Fleet(Job(1, 5, 5));
  int asked = 0;
  fleet->tamper = [&](const std::string& client,
                      v1::SecureExchangeRequest& request, std::string&) {
    if (client != "c102" || !request.message().has_masked()) return;
    ++asked;
    EXPECT_TRUE(absl::IsNotFound(
        fleet->runner().PostSecure(client, request).status()));
  };
  ASSERT_TRUE(fleet->Run().ok());
  EXPECT_EQ(asked, 1);
}

// Everything below `root`, whole.
std::string AllBytes(const std::string& root) {
  std::string bytes;
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(root)) {
    if (!entry.is_regular_file()) continue;
    bytes += *base::ReadFile(entry.path().string(), 1 << 28);
    bytes += '\n';
  }
  return bytes;
}

TEST_F(SecureRunnerTest, NothingSecretIsEverWritten) {
  config::JobOptions job = Job(2, 6, 5);
  job.secure_aggregation.phase_deadline = absl::Seconds(5);
  auto fleet = Fleet(job);
  fleet->vanishes = [](const std::string& client, const v1::TaskKey& key,
                       absl::string_view phase) {
    return client == "c104" && key.round() == 1 &&
           phase == engine::kMaskedInput;
  };
  // Looked for while the round goes on as well as afterwards.
  std::string everything;
  const std::string root = store_->root();
  std::string session;
  while (!fleet->runner().finished()) {
    ASSERT_TRUE(fleet->Turn().ok());
    everything += AllBytes(root);
  }
  for (const v1::JournalRecord& record : fleet->records()) {
    if (record.has_round_started()) {
      session = record.round_started().secure_session().session_id();
    }
  }
  fleet->StopRunner();
  ASSERT_TRUE(store_->Close().ok());
  everything += AllBytes(root);
  EXPECT_TRUE(absl::StrContains(everything, session))
      << "the search finds what is there";
  ASSERT_GT(fleet->secrets().size(), 100u);
  for (const std::string& secret : fleet->secrets()) {
    ASSERT_GE(secret.size(), 16u);
    ASSERT_FALSE(absl::StrContains(everything, secret.substr(0, 16)));
    ASSERT_FALSE(
        absl::StrContains(everything, absl::BytesToHexString(secret)));
  }
}

TEST_F(SecureRunnerTest, JobsThatCannotWorkAreRefusedNamingTheWayOut) {
  config::JobOptions job = Job(1, 24, 12);
  EXPECT_THAT(std::string(CheckSecureJob(job).message()),
              HasSubstr("fewer than 17"));
  job.rounds.min_survivors = 17;
  EXPECT_TRUE(CheckSecureJob(job).ok()) << CheckSecureJob(job);
  job.secure_aggregation.corrupt_fraction = 0.85;
  job.secure_aggregation.dropout_fraction = 0.0;
  const absl::Status hopeless = CheckSecureJob(job);
  if (!hopeless.ok()) {
    EXPECT_THAT(std::string(hopeless.message()), HasSubstr("24"));
  }
  job.secure_aggregation.enabled = false;
  EXPECT_TRUE(CheckSecureJob(job).ok());
}

}  // namespace
}  // namespace choir::runner
