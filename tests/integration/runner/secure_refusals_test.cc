// Every reason for which a client refuses: the coordinator tells one client
// something wrong, its own session finds out, and the reason that it gives
// stands in the journal. A new reason without a lie here fails the test.
#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "privacy/secagg/transcript.h"
#include "tests/integration/runner/secure_fleet.h"

namespace choir::runner {
namespace {

using ::testing::SizeIs;
using ::testing::StartsWith;
using v1::SecureRefusal;

constexpr int kClients = 6;
constexpr char kVictim[] = "c103";

// Makes the coordinator of `fleet` lie to the victim.
using Lie = std::function<void(SecureFleet& fleet)>;
using Change = std::function<void(v1::SecureServerMessage& message)>;

// When it says what it says in phase `kind`, it says something else.
Lie Telling(v1::SecureServerMessage::MessageCase kind, Change change) {
  return [kind, change](SecureFleet& fleet) {
    fleet.mislead = [kind, change](const std::string& client,
                                   v1::SecureServerMessage& message) {
      if (client == kVictim && message.message_case() == kind) change(message);
    };
  };
}
Lie OtherRoster(const std::function<void(v1::Roster&)>& change) {
  return Telling(v1::SecureServerMessage::kRoster,
                 [change](auto& m) { change(*m.mutable_roster()); });
}
Lie OtherShares(const std::function<void(v1::ReceivedShares&)>& change) {
  return Telling(v1::SecureServerMessage::kShares,
                 [change](auto& m) { change(*m.mutable_shares()); });
}
Lie OtherSession(const std::function<void(v1::SecureSession&)>& change) {
  return [change](SecureFleet& fleet) {
    fleet.mislead_at_start = [change](const std::string& client,
                                      v1::SecureSession& session) {
      if (client == kVictim) change(session);
    };
  };
}

// One of the peers alone has shared.
void LeaveOneSharer(v1::ReceivedShares& shares) {
  std::vector<bool> sharers =
      *secagg::UnpackPositions(shares.sharers(), kClients);
  while (shares.shares_size() > 1) {
    sharers[shares.shares(shares.shares_size() - 1).peer()] = false;
    shares.mutable_shares()->RemoveLast();
  }
  shares.set_sharers(secagg::PackPositions(sharers));
}

std::map<int, Lie> RosterLies() {
  return {
      {SecureRefusal::ROSTER_TOO_SMALL, OtherRoster([](auto& roster) {
         roster.mutable_entry_digests()->DeleteSubrange(2, kClients - 2);
       })},
      {SecureRefusal::NOT_IN_ROSTER, OtherRoster([](auto& roster) {
         roster.set_position((roster.position() + 1) % kClients);
       })},
      {SecureRefusal::LISTED_TWICE, OtherRoster([](auto& roster) {
         const int own = static_cast<int>(roster.position());
         *roster.mutable_entry_digests(own == 0 ? 1 : own - 1) =
             roster.entry_digests(own);
       })},
      {SecureRefusal::BAD_PEER_KEY, OtherRoster([](auto& roster) {
         roster.mutable_neighbours(0)->mutable_keys()->set_signature(
             std::string(64, 'x'));
       })},
      {SecureRefusal::BAD_PARAMETERS,
       OtherRoster([](auto& roster) { roster.set_threshold(2); })},
      {SecureRefusal::OUT_OF_ORDER,
       Telling(v1::SecureServerMessage::kRoster,
               [](auto& message) { message.mutable_shares(); })},
      {SecureRefusal::MALFORMED,
       Telling(v1::SecureServerMessage::kRoster,
               [](auto& message) { message.Clear(); })},
  };
}

std::map<int, Lie> LaterLies() {
  return {
      {SecureRefusal::DECLARED_DROPPED, OtherShares([](auto& shares) {
         shares.set_sharers(std::string(1, '\0'));
       })},
      {SecureRefusal::CONFLICTING_LISTS, OtherShares([](auto& shares) {
         shares.mutable_shares()->RemoveLast();
       })},
      {SecureRefusal::UNKNOWN_PEER, OtherShares([](auto& shares) {
         shares.mutable_shares(0)->set_peer(99);
       })},
      {SecureRefusal::REPEATED_PEER, OtherShares([](auto& shares) {
         *shares.add_shares() = v1::EncryptedShare(shares.shares(0));
       })},
      {SecureRefusal::TOO_FEW_ALIVE, OtherShares(LeaveOneSharer)},
      {SecureRefusal::BAD_SHARE, OtherShares([](auto& shares) {
         for (auto& share : *shares.mutable_shares()) {
           share.mutable_sealed()->back() ^= 1;
         }
       })},
      {SecureRefusal::NOT_CONFIRMED,
       Telling(v1::SecureServerMessage::kUnmask,
               [](auto& message) {
                 message.mutable_unmask()->clear_signatures();
               })},
  };
}

std::map<int, Lie> AllLies() {
  std::map<int, Lie> lies = RosterLies();
  lies.merge(LaterLies());
  lies[SecureRefusal::OTHER_MODEL] =
      OtherSession([](auto& session) { session.set_model_digest("other"); });
  lies[SecureRefusal::OTHER_CONFIG] =
      OtherSession([](auto& session) { session.set_config_digest("other"); });
  lies[SecureRefusal::REPLAYED] = [](SecureFleet& fleet) {
    fleet.mislead_at_start = [&fleet](const std::string& client,
                                      v1::SecureSession& session) {
      if (client != kVictim) return;
      EXPECT_TRUE(fleet.history(client)
                      .Remember(absl::StrCat("session ", session.session_id()))
                      .ok());
    };
  };
  // No lie, but misfortune.
  lies[SecureRefusal::CLIENT_FAILED] = [](SecureFleet& fleet) {
    fleet.history(kVictim).Break(absl::ResourceExhaustedError("disk full"));
  };
  return lies;
}

class SecureRefusalsTest : public ::testing::Test {
 protected:
  SecureRefusalsTest() { WriteBaseModel(base_); }

  config::JobOptions Job(int rounds) const {
    config::JobOptions job = FleetJob(base_, rounds, kClients);
    job.rounds.min_survivors = kClients - 1;
    job.evaluation.every = 0;
    job.aggregation.max_examples_per_client = 1000;
    job.secure_aggregation.enabled = true;
    job.secure_aggregation.min_clients = 3;
    job.secure_aggregation.dropout_fraction = 0.2;
    return job;
  }

  static std::vector<std::string> Names() {
    std::vector<std::string> names;
    for (int i = 0; i < kClients; ++i) {
      names.push_back(absl::StrCat("c", 100 + i));
    }
    return names;
  }

  std::unique_ptr<store::Store> OpenStore(const std::string& name) {
    return *store::Store::Open(base::JoinPath(folder_.path(), name),
                               base::Durability::kProcessCrash, clock_);
  }

  // Asked a second time, for another list: refused when the rest has not come
  // yet (`late` false), or when the sum is there.
  void ExpectNoSecondAnswer(bool late);

  void Expect(SecureRefusal::Reason reason, const Lie& lie) {
    const std::string name = SecureRefusal::Reason_Name(reason);
    SCOPED_TRACE(name);
    const auto store = OpenStore(name);
    SecureFleet fleet(Names(), *store, clock_, static_cast<uint64_t>(reason));
    ASSERT_TRUE(fleet.Start(Job(1)).ok());
    lie(fleet);
    const absl::Status ran = fleet.Run();
    ASSERT_TRUE(ran.ok()) << ran;

    // Said by the client, ...
    ASSERT_THAT(fleet.refusals, SizeIs(1));
    EXPECT_EQ(SecureRefusal::Reason_Name(fleet.refusals[0].reason()), name);
    EXPECT_NE(fleet.refusals[0].detail(), "");
    // ... journaled with its name, ...
    std::vector<std::string> journaled;
    for (const v1::JournalRecord& record : fleet.records()) {
      if (!record.has_client_lost()) continue;
      EXPECT_EQ(record.client_lost().client(), kVictim);
      journaled.push_back(record.client_lost().reason());
    }
    ASSERT_THAT(journaled, SizeIs(1));
    EXPECT_THAT(journaled[0], StartsWith(absl::StrCat(
                                  "refused the secure session: ", name, ": ")));
    // ... and the others are summed without it, or with it if its vector came.
    const v1::JournalRecord& last = fleet.records().back();
    const auto committed = std::find_if(
        fleet.records().begin(), fleet.records().end(),
        [](const auto& record) { return record.has_round_committed(); });
    ASSERT_NE(committed, fleet.records().end()) << last.ShortDebugString();
    const auto& survivors = committed->round_committed().survivors();
    EXPECT_THAT(survivors,
                SizeIs(reason == SecureRefusal::NOT_CONFIRMED ? kClients
                                                              : kClients - 1));
    EXPECT_EQ(
        *store->blobs().Read(committed->round_committed().aggregate().digest()),
        fleet.PlainSum(1, {survivors.begin(), survivors.end()}).Encode());
  }

  TempFolder folder_;
  base::ManualClock clock_{absl::UnixEpoch()};
  std::string base_ = base::JoinPath(folder_.path(), "base");
};

void SecureRefusalsTest::ExpectNoSecondAnswer(bool late) {
  const auto store = OpenStore(late ? "late" : "early");
  SecureFleet fleet(Names(), *store, clock_, late ? 100 : 101);
  ASSERT_TRUE(fleet.Start(Job(2)).ok());
  v1::SecureServerMessage asked;
  int told = 0;
  fleet.mislead = [&](const std::string& client,
                      v1::SecureServerMessage& message) {
    if (client != kVictim || told > 0) return;
    if (message.has_unmask() && asked.ByteSizeLong() == 0) {
      asked = message;
      asked.mutable_unmask()->mutable_survivors()->set_survivors("\x1f");
    } else if (late && message.has_done()) {
      message = asked;
      ++told;
    }
  };
  fleet.vanishes = [&](const std::string& client, const v1::TaskKey& key,
                       absl::string_view phase) {
    const bool last = !late && client == "c105" && key.round() == 1 &&
                      phase == engine::kUnmask;
    if (last) {
      fleet.Tell(kVictim, asked);
      ++told;
    }
    return last;
  };
  const absl::Status ran = fleet.Run();
  ASSERT_TRUE(ran.ok()) << ran;
  EXPECT_EQ(told, 1);
  ASSERT_THAT(fleet.refusals, SizeIs(1));
  EXPECT_EQ(fleet.refusals[0].reason(), SecureRefusal::OUT_OF_ORDER);
  std::vector<std::string> lost;
  std::vector<std::string> refused;
  int committed = 0;
  for (const v1::JournalRecord& record : fleet.records()) {
    if (record.has_round_committed()) {
      ++committed;
      EXPECT_EQ(record.round_committed().attempt(), 1u);
      EXPECT_THAT(record.round_committed().survivors(), SizeIs(kClients));
      // What it says before the sum stands before the sum.
      EXPECT_EQ(lost.size(), late ? 0u : 1u);
    } else if (record.has_client_lost()) {
      EXPECT_EQ(record.client_lost().client(), kVictim);
      lost.push_back(record.client_lost().reason());
    } else if (record.has_update_refused()) {
      EXPECT_EQ(record.update_refused().client(), kVictim);
      EXPECT_EQ(record.update_refused().key().round(), 1u);
      refused.push_back(record.update_refused().reason());
    }
  }
  EXPECT_EQ(committed, 2);
  EXPECT_THAT(lost, SizeIs(late ? 0 : 1));
  EXPECT_THAT(refused, SizeIs(late ? 1 : 0));
  EXPECT_THAT((late ? refused : lost).at(0),
              StartsWith("refused the secure session: OUT_OF_ORDER: "));
}

TEST_F(SecureRefusalsTest, ASecondRequestToUnmaskIsRefusedAndJournaled) {
  ExpectNoSecondAnswer(false);
  ExpectNoSecondAnswer(true);
}

TEST_F(SecureRefusalsTest, EveryReasonIsReportedAndJournaled) {
  const std::map<int, Lie> lies = AllLies();
  const auto* reasons = SecureRefusal::Reason_descriptor();
  int tried = 0;
  for (int i = 0; i < reasons->value_count(); ++i) {
    const int number = reasons->value(i)->number();
    if (number == SecureRefusal::REASON_UNSPECIFIED) continue;
    const auto lie = lies.find(number);
    ASSERT_NE(lie, lies.end())
        << reasons->value(i)->name() << " has nothing here that triggers it";
    Expect(static_cast<SecureRefusal::Reason>(number), lie->second);
    ++tried;
  }
  EXPECT_EQ(tried, static_cast<int>(lies.size()));
}

}  // namespace
}  // namespace choir::runner
