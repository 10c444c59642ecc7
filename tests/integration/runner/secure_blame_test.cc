// Clients that bring keys which others cannot use: old ones, or with more than
// was signed; and clients that only say so of others.
#include <set>
#include <string>
#include <vector>

#include "coordinator/runner/secure_round.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "privacy/secagg/transcript.h"
#include "tests/integration/runner/secure_runner_fixture.h"

namespace choir::runner {
namespace {

using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::StrEq;

constexpr char kMallory[] = "c103";

class SecureBlameTest : public SecureRunnerTest {
 protected:
  static std::vector<v1::ClientBlamed> Blamed(const SecureFleet& fleet) {
    std::vector<v1::ClientBlamed> blamed;
    for (const v1::JournalRecord& record : fleet.records()) {
      if (record.has_client_blamed()) blamed.push_back(record.client_blamed());
    }
    return blamed;
  }

  // The message of `client` with the public keys of `old`, signed for the
  // attempt in progress.
  static v1::AdvertiseKeys WithOldKeys(const SecureFleet& fleet,
                                       const std::string& client,
                                       v1::AdvertiseKeys keys,
                                       const v1::AdvertiseKeys& old) {
    v1::SecureSession session;
    for (const v1::JournalRecord& record : fleet.records()) {
      if (record.has_round_started()) {
        session = record.round_started().secure_session();
      }
    }
    keys.set_mask_public_key(old.mask_public_key());
    keys.set_share_public_key(old.share_public_key());
    keys.set_signature(*fleet.signer(client).Sign(secagg::AdvertiseText(
        secagg::SessionDigest(session), secagg::EntryDigest(keys))));
    return keys;
  }

  // From the second round on she insists on the keys of her first.
  static void MakeMalloryReplay(SecureFleet& fleet) {
    fleet.stubborn = {kMallory};
    fleet.tamper = [&fleet, old = v1::AdvertiseKeys()](
                       const std::string& client,
                       v1::SecureExchangeRequest& request,
                       std::string&) mutable {
      if (!request.message().has_advertise() || client != kMallory) return;
      v1::AdvertiseKeys& keys = *request.mutable_message()->mutable_advertise();
      if (request.key().round() == 1) {
        old = keys;
      } else {
        keys = WithOldKeys(fleet, client, keys, old);
      }
    };
  }
};

// Of its own or of another client: it is not taken, and nobody leaves.
TEST_F(SecureBlameTest, AKeyOfAnEarlierAttemptIsNotTaken) {
  for (const bool own : {true, false}) {
    config::JobOptions job = Job(2, 7, 5);
    job.name = own ? "own" : "others";
    auto fleet = Fleet(job);
    v1::AdvertiseKeys old;
    int tried = 0;
    fleet->tamper = [&](const std::string& client,
                        v1::SecureExchangeRequest& request, std::string&) {
      if (!request.message().has_advertise()) return;
      const v1::AdvertiseKeys& keys = request.message().advertise();
      if (request.key().round() == 1 && client == (own ? kMallory : "c101")) {
        old = keys;
      }
      if (request.key().round() != 2 || client != kMallory) return;
      v1::SecureExchangeRequest replay = request;
      *replay.mutable_message()->mutable_advertise() =
          WithOldKeys(*fleet, client, keys, old);
      const absl::Status taken =
          fleet->runner().PostSecure(client, replay).status();
      EXPECT_TRUE(absl::IsInvalidArgument(taken)) << taken;
      EXPECT_THAT(std::string(taken.message()),
                  HasSubstr("used in an earlier attempt"));
      ++tried;
    };
    const absl::Status ran = fleet->Run();
    ASSERT_TRUE(ran.ok()) << ran;
    EXPECT_EQ(tried, 1);
    EXPECT_THAT(fleet->refusals, IsEmpty());
    const std::vector<v1::RoundCommitted> rounds = Committed(*fleet);
    ASSERT_THAT(rounds, SizeIs(2));
    EXPECT_EQ(rounds[1].attempt(), 1u);
    EXPECT_THAT(rounds[1].survivors(), SizeIs(7)) << "it has answered anew";
    EXPECT_EQ(Aggregate(rounds[1]),
              fleet->PlainSum(2, SurvivorsOf(rounds[1])).Encode());
  }
}

TEST_F(SecureBlameTest, ARoundGoesOnWithoutWhoHasOldKeysOnly) {
  auto fleet = Fleet(Job(3, 7, 5));
  MakeMalloryReplay(*fleet);
  const absl::Status ran = fleet->Run();
  ASSERT_TRUE(ran.ok()) << ran;
  EXPECT_THAT(fleet->refusals, IsEmpty());
  const std::vector<v1::RoundCommitted> rounds = Committed(*fleet);
  ASSERT_THAT(rounds, SizeIs(3));
  for (const uint32_t round : {2u, 3u}) {
    EXPECT_EQ(rounds[round - 1].attempt(), 1u);
    EXPECT_THAT(SurvivorsOf(rounds[round - 1]),
                ElementsAre("c100", "c101", "c102", "c104", "c105", "c106"));
  }
}

// The coordinator has forgotten the keys, the neighbours have not: they leave,
// and name her.
TEST_F(SecureBlameTest, AnOldKeyAfterARestartCostsOneAttemptAndNamesWho) {
  const config::JobOptions job = Job(3, 7, 5);
  auto fleet = Fleet(job);
  MakeMalloryReplay(*fleet);
  // Her own session does not know the keys that she has sent.
  fleet->vanishes = [](const std::string& client, const v1::TaskKey&,
                       absl::string_view phase) {
    return client == kMallory && phase.empty();
  };
  while (Committed(*fleet).empty()) ASSERT_TRUE(fleet->Turn().ok());
  ASSERT_TRUE(fleet->records().back().has_round_committed());
  fleet->StopRunner();
  ASSERT_TRUE(fleet->Start(job).ok());
  const absl::Status ran = fleet->Run();
  ASSERT_TRUE(ran.ok()) << ran;

  const std::vector<v1::ClientBlamed> blamed = Blamed(*fleet);
  ASSERT_THAT(blamed, SizeIs(1));
  EXPECT_EQ(blamed[0].client(), kMallory);
  EXPECT_EQ(blamed[0].key().round(), 2u);
  EXPECT_EQ(blamed[0].key().attempt(), 1u);
  EXPECT_GE(blamed[0].accusers_size(), 2);
  EXPECT_THAT(blamed[0].accusers(), Not(Contains(StrEq(kMallory))));
  ASSERT_GE(fleet->refusals.size(), 2u);
  for (const v1::SecureRefusal& refusal : fleet->refusals) {
    EXPECT_EQ(refusal.reason(), v1::SecureRefusal::REPLAYED);
    EXPECT_THAT(refusal.peers(), ElementsAre(kMallory));
  }
  const std::vector<v1::RoundCommitted> rounds = Committed(*fleet);
  ASSERT_THAT(rounds, SizeIs(3));
  EXPECT_EQ(rounds[1].attempt(), 2u);
  // In the next round the coordinator knows the key again.
  EXPECT_EQ(rounds[2].attempt(), 1u);
  for (const v1::RoundCommitted& round : {rounds[1], rounds[2]}) {
    EXPECT_THAT(SurvivorsOf(round), SizeIs(6));
    EXPECT_THAT(SurvivorsOf(round), Each(Not(StrEq(kMallory))));
    EXPECT_EQ(Aggregate(round),
              fleet->PlainSum(round.round(), SurvivorsOf(round)).Encode());
  }
}

// One in seven may collude: one alone blames nobody, two do.
TEST_F(SecureBlameTest, OneLiarBlamesNobody) {
  for (const bool two : {false, true}) {
    config::JobOptions job = Job(1, 7, 5);
    job.name = two ? "two" : "one";
    auto fleet = Fleet(job);
    fleet->tamper = [&](const std::string& client,
                        v1::SecureExchangeRequest& request, std::string&) {
      const bool lies = client == "c103" || (two && client == "c104");
      if (!lies || !request.message().has_share()) return;
      v1::SecureRefusal& refusal =
          *request.mutable_message()->mutable_refusal();
      refusal.set_reason(v1::SecureRefusal::REPLAYED);
      refusal.set_detail("a lie");
      for (const char* peer : {"c101", "c101", "c103", "stranger"}) {
        refusal.add_peers(peer);
      }
    };
    const absl::Status ran = fleet->Run();
    ASSERT_TRUE(ran.ok()) << ran;
    EXPECT_THAT(Blamed(*fleet), SizeIs(two ? 1 : 0));
    for (const v1::JournalRecord& record : fleet->records()) {
      if (!record.has_client_lost()) continue;
      const v1::ClientLost& lost = record.client_lost();
      if (lost.client() == "c103") {
        EXPECT_THAT(lost.accused(), ElementsAre("c101"));
      }
    }
    const v1::RoundCommitted round = Committed(*fleet).at(0);
    EXPECT_EQ(round.attempt(), 1u) << "two of seven may drop out";
    EXPECT_THAT(SurvivorsOf(round), Contains(StrEq("c101")));
  }
}

// In a ring, only those who share with a client can know its keys: eight of
// them are believed, ten others are not.
TEST_F(SecureBlameTest, InALargeCohortOnlyNeighboursAreHeard) {
  for (const bool neighbours : {true, false}) {
    config::JobOptions job = Job(1, 64, 52);
    job.name = neighbours ? "neighbours" : "others";
    job.secure_aggregation.dropout_fraction = 0.2;
    auto fleet = Fleet(job);
    std::set<std::string> liars;
    fleet->mislead = [&](const std::string& client,
                         v1::SecureServerMessage& message) {
      if (!message.has_roster() || client == "c101" || liars.size() == 10) {
        return;
      }
      bool is_one = false;
      for (const auto& neighbour : message.roster().neighbours()) {
        is_one |= neighbour.keys().client() == "c101";
      }
      if (is_one == neighbours) liars.insert(client);
    };
    fleet->tamper = [&](const std::string& client,
                        v1::SecureExchangeRequest& request, std::string&) {
      if (!request.message().has_share() || liars.count(client) == 0) return;
      v1::SecureRefusal& refusal =
          *request.mutable_message()->mutable_refusal();
      refusal.set_reason(v1::SecureRefusal::BAD_PEER_KEY);
      refusal.add_peers("c101");
    };
    const absl::Status ran = fleet->Run();
    ASSERT_TRUE(ran.ok()) << ran;
    ASSERT_THAT(liars, SizeIs(10));
    const std::vector<v1::ClientBlamed> blamed = Blamed(*fleet);
    ASSERT_THAT(blamed, SizeIs(neighbours ? 1 : 0));
    if (neighbours) {
      EXPECT_THAT(blamed[0].accusers(), SizeIs(8));
    }
    for (const v1::JournalRecord& record : fleet->records()) {
      EXPECT_EQ(record.client_lost().accused_size(),
                neighbours && record.has_client_lost() ? 1 : 0);
    }
    EXPECT_THAT(Committed(*fleet), SizeIs(1));
  }
}

TEST_F(SecureBlameTest, WhatIsNotSignedReachesNobody) {
  auto fleet = Fleet(Job(1, 7, 5));
  fleet->tamper = [&](const std::string& client,
                      v1::SecureExchangeRequest& request, std::string&) {
    if (!request.message().has_advertise() || client != kMallory) return;
    const auto pad = [&](size_t bytes) {
      v1::AdvertiseKeys& keys = *request.mutable_message()->mutable_advertise();
      keys.DiscardUnknownFields();
      keys.GetReflection()->MutableUnknownFields(&keys)->AddLengthDelimited(
          99, std::string(bytes, 'x'));
    };
    pad(100000);
    const absl::Status large =
        fleet->runner().PostSecure(client, request).status();
    EXPECT_TRUE(absl::IsInvalidArgument(large)) << large;
    pad(3000);
  };
  int rosters = 0;
  fleet->mislead = [&](const std::string&, v1::SecureServerMessage& message) {
    if (!message.has_roster()) return;
    ++rosters;
    for (const auto& neighbour : message.roster().neighbours()) {
      EXPECT_LT(neighbour.keys().ByteSizeLong(), 1000u);
    }
  };
  const absl::Status ran = fleet->Run();
  ASSERT_TRUE(ran.ok()) << ran;
  EXPECT_EQ(rosters, 7);
  EXPECT_THAT(Committed(*fleet).at(0).survivors(), SizeIs(7));
}

// Its neighbours would refuse it, all of them.
TEST_F(SecureBlameTest, WhoseCertificateExpiresWhileOthersTrainIsLeftOut) {
  auto fleet = Fleet(Job(1, 7, 5));
  fleet->tamper = [&](const std::string& client,
                      v1::SecureExchangeRequest& request, std::string&) {
    if (request.message().has_advertise() && client == "c105") {
      fleet->expired() = {"c101"};
    }
  };
  const absl::Status ran = fleet->Run();
  ASSERT_TRUE(ran.ok()) << ran;
  EXPECT_THAT(fleet->refusals, IsEmpty());
  const v1::RoundCommitted round = Committed(*fleet).at(0);
  EXPECT_EQ(round.attempt(), 1u);
  EXPECT_THAT(SurvivorsOf(round),
              ElementsAre("c100", "c102", "c103", "c104", "c105", "c106"));
  std::vector<std::string> lost;
  for (const v1::JournalRecord& record : fleet->records()) {
    if (!record.has_client_lost()) continue;
    EXPECT_EQ(record.client_lost().client(), "c101");
    lost.push_back(record.client_lost().reason());
  }
  EXPECT_THAT(lost, ElementsAre(HasSubstr("has expired")));
}

}  // namespace
}  // namespace choir::runner
