// What a client refuses, reason by reason. Each test takes an honest round to
// the message in question, changes one thing about it, and expects the client
// to end with that reason; the same message unchanged is answered.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "privacy/secagg/transcript.h"
#include "tests/support/secagg_world.h"

namespace choir::secagg {
namespace {

using v1::SecureRefusal;

constexpr int kVictim = 2;

WorldOptions SomeClients(int clients = 6) {
  WorldOptions options;
  options.clients = clients;
  options.dropout_fraction = 0.2;
  options.min_clients = 4;
  return options;
}

// Drives all but the last step of a phase; the victim is left to the test.
class RefusalTest : public ::testing::Test {
 protected:
  // Opens `phase`, everybody having answered what came before.
  v1::SecureServerMessage Reach(Phase phase,
                                WorldOptions options = SomeClients(),
                                std::vector<Fate> fates = {}) {
    world_ = std::make_unique<World>(options);
    federation_ = Advertise(*world_);
    position_ =
        static_cast<int>(federation_.server->MessageFor(world_->name(kVictim))
                             ->roster()
                             .position());
    while (federation_.server->phase() != phase) {
      EXPECT_TRUE(AnswerPhase(*world_, federation_, fates).ok());
      EXPECT_TRUE(federation_.server->Close().ok());
    }
    return *federation_.server->MessageFor(world_->name(kVictim));
  }

  SecureRefusal::Reason ReasonFor(const v1::SecureServerMessage& message) {
    const auto step = victim().Handle(message);
    if (!step || !step->refused()) return SecureRefusal::REASON_UNSPECIFIED;
    EXPECT_TRUE(victim().finished());
    EXPECT_NE(step->message.refusal().detail(), "");
    // It says nothing any more.
    EXPECT_FALSE(victim().Handle(message).has_value());
    return step->message.refusal().reason();
  }

  ClientSession& victim() { return federation_.clients[kVictim]; }

  std::unique_ptr<World> world_;
  Federation federation_;
  // The victim's, in the roster.
  int position_ = 0;
};

SecureRefusal StartRefusal(World& world, const ClientExpectations& expectations,
                           MaskedVector input) {
  SeededRandom random(9);
  ClientSession client(world.session, expectations, std::move(input),
                       world.Environment(0, random));
  return client.Start().message.refusal();
}

SecureRefusal::Reason StartReason(World& world,
                                  const ClientExpectations& expectations,
                                  MaskedVector input) {
  return StartRefusal(world, expectations, std::move(input)).reason();
}

TEST(StartTest, RefusesAnotherModelSettingsOrVector) {
  World world(SomeClients());
  const ClientExpectations right = world.expectations();
  ClientExpectations other = right;
  other.model_digest = "other";
  EXPECT_EQ(StartReason(world, other, world.Input(0)),
            SecureRefusal::OTHER_MODEL);
  other = right;
  other.config_digest = "other";
  EXPECT_EQ(StartReason(world, other, world.Input(0)),
            SecureRefusal::OTHER_CONFIG);
  EXPECT_EQ(StartReason(world, right, MaskedVector(20, 16)),
            SecureRefusal::BAD_PARAMETERS);
  EXPECT_EQ(StartReason(world, right, MaskedVector(21, 17)),
            SecureRefusal::BAD_PARAMETERS);
  EXPECT_EQ(StartReason(world, right, world.Input(0)),
            SecureRefusal::REASON_UNSPECIFIED);
}

TEST(StartTest, RefusesASessionSeenBefore) {
  World world(SomeClients());
  EXPECT_EQ(StartReason(world, world.expectations(), world.Input(0)),
            SecureRefusal::REASON_UNSPECIFIED);
  EXPECT_EQ(StartReason(world, world.expectations(), world.Input(0)),
            SecureRefusal::REPLAYED);
}

TEST(StartTest, RefusesARoundSeenBeforeInAnotherSession) {
  World world(SomeClients());
  const auto reason = [&world](char id) {
    world.session.set_session_id(std::string(32, id));
    return StartReason(world, world.expectations(), world.Input(0));
  };
  EXPECT_EQ(reason('a'), SecureRefusal::REASON_UNSPECIFIED);
  EXPECT_EQ(reason('b'), SecureRefusal::REPLAYED);
  // Nor is it the same round with another model.
  ClientExpectations other = world.expectations();
  other.model_digest = "next model";
  world.session.set_model_digest("next model");
  EXPECT_EQ(StartReason(world, other, world.Input(0)), SecureRefusal::REPLAYED);
  world.session.set_model_digest("model");
  // What an honest coordinator asks for: the next attempt, the next round,
  // another job; and a run with other settings.
  world.session.set_attempt(2);
  EXPECT_EQ(reason('c'), SecureRefusal::REASON_UNSPECIFIED);
  world.session.set_round(4);
  world.session.set_attempt(1);
  EXPECT_EQ(reason('d'), SecureRefusal::REASON_UNSPECIFIED);
  world.session.set_job("other");
  EXPECT_EQ(reason('e'), SecureRefusal::REASON_UNSPECIFIED);
  EXPECT_EQ(reason('f'), SecureRefusal::REPLAYED);
  world.session.set_config_digest("other");
  other = world.expectations();
  other.config_digest = "other";
  EXPECT_EQ(StartReason(world, other, world.Input(0)),
            SecureRefusal::REASON_UNSPECIFIED);
}

TEST(StartTest, KeepsItsOwnFloorForThoseWhoCollude) {
  WorldOptions options = SomeClients();
  options.corrupt_fraction = 0.05;
  World world(options);
  ClientExpectations careful = world.expectations();
  careful.min_corrupt_fraction = 0.1;
  const SecureRefusal refusal = StartRefusal(world, careful, world.Input(0));
  EXPECT_EQ(refusal.reason(), SecureRefusal::BAD_PARAMETERS);
  for (const char* part : {"0.05", "0.1 on", "min_corrupt_fraction"}) {
    EXPECT_THAT(refusal.detail(), testing::HasSubstr(part));
  }
  world.session.mutable_assumptions()->set_corrupt_fraction(std::nan(""));
  EXPECT_EQ(StartReason(world, careful, world.Input(0)),
            SecureRefusal::BAD_PARAMETERS);
  world.session.mutable_assumptions()->set_corrupt_fraction(0.1);
  EXPECT_EQ(StartReason(world, careful, world.Input(0)),
            SecureRefusal::REASON_UNSPECIFIED);
}

TEST(StartTest, RefusesBadSessionsAndMissingConfirmation) {
  World world(SomeClients());
  world.session.set_session_id("short");
  EXPECT_EQ(StartReason(world, world.expectations(), world.Input(0)),
            SecureRefusal::BAD_PARAMETERS);
  WorldOptions options = SomeClients();
  options.adversary = v1::SecureAssumptions::CURIOUS;
  World curious(options);
  ClientExpectations strict = curious.expectations();
  strict.require_confirmation = true;
  EXPECT_EQ(StartReason(curious, strict, curious.Input(0)),
            SecureRefusal::BAD_PARAMETERS);
}

TEST_F(RefusalTest, AnswersTheHonestRoster) {
  EXPECT_EQ(ReasonFor(Reach(Phase::kShareKeys)),
            SecureRefusal::REASON_UNSPECIFIED);
}

TEST_F(RefusalTest, RosterBelowTheClientsOwnMinimum) {
  world_ = std::make_unique<World>(SomeClients(5));
  federation_ = Advertise(*world_);
  ClientExpectations careful = world_->expectations();
  careful.min_clients = 6;
  SeededRandom random(1);
  MemoryHistory history;
  ClientSession client(
      world_->session, careful, world_->Input(kVictim),
      {world_->signer(kVictim), world_->verifier(), history, random});
  ASSERT_FALSE(client.Start().refused());
  const auto step =
      client.Handle(*federation_.server->MessageFor(world_->name(kVictim)));
  EXPECT_EQ(step->message.refusal().reason(), SecureRefusal::ROSTER_TOO_SMALL);
}

TEST_F(RefusalTest, RosterCutShort) {
  v1::SecureServerMessage message = Reach(Phase::kShareKeys);
  auto& entries = *message.mutable_roster()->mutable_entry_digests();
  entries.DeleteSubrange(0, entries.size() - 3);
  EXPECT_EQ(ReasonFor(message), SecureRefusal::ROSTER_TOO_SMALL);
}

TEST_F(RefusalTest, NotInTheRosterOrAtAnotherPosition) {
  v1::SecureServerMessage message = Reach(Phase::kShareKeys);
  const int position = static_cast<int>(message.roster().position());
  message.mutable_roster()->set_position((position + 1) % 6);
  EXPECT_EQ(ReasonFor(message), SecureRefusal::NOT_IN_ROSTER);
  message = Reach(Phase::kShareKeys);
  std::string& own = *message.mutable_roster()->mutable_entry_digests(position);
  own.back() = static_cast<char>(own.back() ^ 1);
  EXPECT_EQ(ReasonFor(message), SecureRefusal::NOT_IN_ROSTER);
  message = Reach(Phase::kShareKeys);
  message.mutable_roster()->set_position(4000000000u);
  EXPECT_EQ(ReasonFor(message), SecureRefusal::NOT_IN_ROSTER);
}

TEST_F(RefusalTest, ListedTwice) {
  v1::SecureServerMessage message = Reach(Phase::kShareKeys);
  v1::Roster& roster = *message.mutable_roster();
  const int position = static_cast<int>(roster.position());
  const int next = position == 5 ? 4 : position + 1;
  *roster.mutable_entry_digests(next) = roster.entry_digests(position);
  EXPECT_EQ(ReasonFor(message), SecureRefusal::LISTED_TWICE);
}

TEST_F(RefusalTest, AnotherClientListedTwice) {
  v1::SecureServerMessage message = Reach(Phase::kShareKeys);
  v1::Roster& roster = *message.mutable_roster();
  const int position = static_cast<int>(roster.position());
  const int a = (position + 1) % 6, b = (position + 2) % 6;
  *roster.mutable_entry_digests(std::max(a, b)) =
      roster.entry_digests(std::min(a, b));
  // As neighbours of each other in the list, or further apart.
  const SecureRefusal::Reason reason = ReasonFor(message);
  EXPECT_EQ(reason, std::abs(a - b) == 1 ? SecureRefusal::LISTED_TWICE
                                         : SecureRefusal::MALFORMED);
}

// One client with two pairs of keys, each signed by itself, in two places: the
// roster is sound but for that, and all that follows from it is right.
TEST_F(RefusalTest, AClientInTwoPlaces) {
  Reach(Phase::kShareKeys);
  const int twice = 4;
  world_->history(twice).ForgetAll();
  ClientSession again = world_->Client(twice, /*life=*/1);
  std::vector<v1::AdvertiseKeys> keys = federation_.keys;
  keys[5] = again.Start().message.advertise();
  std::sort(keys.begin(), keys.end(), [](const auto& a, const auto& b) {
    return EntryDigest(a) < EntryDigest(b);
  });
  const Parameters parameters = federation_.server->parameters();
  v1::SecureServerMessage message;
  v1::Roster& roster = *message.mutable_roster();
  roster.set_degree(parameters.degree);
  roster.set_threshold(parameters.threshold);
  for (int i = 0; i < 6; ++i) {
    roster.add_entry_digests(EntryDigest(keys[i]));
    if (keys[i].client() == world_->name(kVictim)) {
      roster.set_position(i);
      continue;
    }
    v1::Roster::Neighbour& neighbour = *roster.add_neighbours();
    neighbour.set_peer(i);
    *neighbour.mutable_keys() = keys[i];
  }
  roster.set_context(ContextDigest(SessionDigest(world_->session),
                                   RosterDigest(roster), parameters));
  EXPECT_EQ(ReasonFor(message), SecureRefusal::LISTED_TWICE);
}

TEST_F(RefusalTest, UnsortedRoster) {
  v1::SecureServerMessage message = Reach(Phase::kShareKeys);
  v1::Roster& roster = *message.mutable_roster();
  const int position = static_cast<int>(roster.position());
  const int a = (position + 1) % 6, b = (position + 2) % 6;
  std::swap(*roster.mutable_entry_digests(a), *roster.mutable_entry_digests(b));
  EXPECT_EQ(ReasonFor(message), SecureRefusal::MALFORMED);
}

TEST_F(RefusalTest, DegreeAndThresholdThatDoNotFollow) {
  v1::SecureServerMessage message = Reach(Phase::kShareKeys);
  message.mutable_roster()->set_threshold(2);
  EXPECT_EQ(ReasonFor(message), SecureRefusal::BAD_PARAMETERS);
  message = Reach(Phase::kShareKeys);
  message.mutable_roster()->set_degree(2);
  EXPECT_EQ(ReasonFor(message), SecureRefusal::BAD_PARAMETERS);
  message = Reach(Phase::kShareKeys);
  message.mutable_roster()->mutable_neighbours()->RemoveLast();
  EXPECT_EQ(ReasonFor(message), SecureRefusal::BAD_PARAMETERS);
}

TEST_F(RefusalTest, PeersThatAreStrangersOrTwice) {
  v1::SecureServerMessage message = Reach(Phase::kShareKeys);
  message.mutable_roster()->mutable_neighbours(1)->set_peer(77);
  EXPECT_EQ(ReasonFor(message), SecureRefusal::UNKNOWN_PEER);
  message = Reach(Phase::kShareKeys);
  v1::Roster& roster = *message.mutable_roster();
  *roster.mutable_neighbours(1) = roster.neighbours(0);
  EXPECT_EQ(ReasonFor(message), SecureRefusal::REPEATED_PEER);
}

// Only the holder of a certified key can stand in a roster, with keys that it
// signed for this session.
TEST_F(RefusalTest, PeersKeysThatAreNotGenuine) {
  const std::vector<std::function<void(v1::AdvertiseKeys&)>> changes = {
      [](auto& keys) { keys.set_mask_public_key(std::string(32, 'm')); },
      [](auto& keys) { keys.set_share_public_key(std::string(32, 's')); },
      [](auto& keys) { keys.set_client("mallory"); },
      [](auto& keys) { keys.set_certificate("none"); },
      [](auto& keys) { keys.set_self_mask_commitment(std::string(32, 'c')); },
      [](auto& keys) { keys.set_signature(std::string(64, 'x')); },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    v1::SecureServerMessage message = Reach(Phase::kShareKeys);
    changes[i](
        *message.mutable_roster()->mutable_neighbours(1)->mutable_keys());
    EXPECT_EQ(ReasonFor(message), SecureRefusal::BAD_PEER_KEY) << i;
  }
}

TEST_F(RefusalTest, APeersKeySeenBefore) {
  v1::SecureServerMessage message = Reach(Phase::kShareKeys);
  ASSERT_TRUE(
      world_->history(kVictim)
          .Remember("key " +
                    message.roster().neighbours(0).keys().mask_public_key())
          .ok());
  EXPECT_EQ(ReasonFor(message), SecureRefusal::REPLAYED);
}

// The coordinator can leave out whom the refusals name.
TEST_F(RefusalTest, WhoseKeyWasSeenBeforeIsNamed) {
  const v1::SecureServerMessage message = Reach(Phase::kShareKeys);
  const auto& roster = message.roster();
  std::vector<std::string> replayers;
  for (const int i : {1, 3}) {
    const v1::AdvertiseKeys& keys = roster.neighbours(i).keys();
    const std::string& key =
        i == 1 ? keys.mask_public_key() : keys.share_public_key();
    ASSERT_TRUE(world_->history(kVictim).Remember("key " + key).ok());
    replayers.push_back(keys.client());
  }
  const auto step = victim().Handle(message);
  ASSERT_TRUE(step.has_value() && step->refused());
  const SecureRefusal& refusal = step->message.refusal();
  EXPECT_EQ(refusal.reason(), SecureRefusal::REPLAYED);
  EXPECT_THAT(refusal.peers(), ::testing::ElementsAreArray(replayers));
  EXPECT_THAT(refusal.detail(), ::testing::HasSubstr(replayers[0]));
  // The keys of the others were not remembered: they may come again.
  EXPECT_FALSE(world_->history(kVictim).Remembers(
      "key " + roster.neighbours(0).keys().mask_public_key()));
}

TEST_F(RefusalTest, WhoseKeyIsNotGenuineIsNamed) {
  v1::SecureServerMessage message = Reach(Phase::kShareKeys);
  v1::AdvertiseKeys& keys =
      *message.mutable_roster()->mutable_neighbours(2)->mutable_keys();
  keys.set_signature(std::string(64, 'x'));
  const auto step = victim().Handle(message);
  ASSERT_TRUE(step.has_value() && step->refused());
  EXPECT_EQ(step->message.refusal().reason(), SecureRefusal::BAD_PEER_KEY);
  EXPECT_THAT(step->message.refusal().peers(),
              ::testing::ElementsAre(keys.client()));
  // A roster that does not fit its digests is the coordinator's fault.
  message = Reach(Phase::kShareKeys);
  message.mutable_roster()
      ->mutable_neighbours(2)
      ->mutable_keys()
      ->set_self_mask_commitment(std::string(32, 'x'));
  const auto other = victim().Handle(message);
  ASSERT_TRUE(other.has_value() && other->refused());
  EXPECT_EQ(other->message.refusal().reason(), SecureRefusal::BAD_PEER_KEY);
  EXPECT_THAT(other->message.refusal().peers(), ::testing::IsEmpty());
}

TEST_F(RefusalTest, ADamagedRoster) {
  v1::SecureServerMessage message = Reach(Phase::kShareKeys);
  message.mutable_roster()->set_group(5);
  EXPECT_EQ(ReasonFor(message), SecureRefusal::MALFORMED);
}

TEST_F(RefusalTest, SharesFromStrangersOrTwice) {
  v1::SecureServerMessage message = Reach(Phase::kMaskedInput);
  message.mutable_shares()->mutable_shares(0)->set_peer(99);
  EXPECT_EQ(ReasonFor(message), SecureRefusal::UNKNOWN_PEER);
  message = Reach(Phase::kMaskedInput);
  *message.mutable_shares()->add_shares() = message.shares().shares(0);
  EXPECT_EQ(ReasonFor(message), SecureRefusal::REPEATED_PEER);
}

TEST_F(RefusalTest, SharesAndSharersThatDoNotAgree) {
  v1::SecureServerMessage message = Reach(Phase::kMaskedInput);
  message.mutable_shares()->mutable_shares()->RemoveLast();
  EXPECT_EQ(ReasonFor(message), SecureRefusal::CONFLICTING_LISTS);
  message = Reach(Phase::kMaskedInput);
  message.mutable_shares()->set_sharers("");
  EXPECT_EQ(ReasonFor(message), SecureRefusal::MALFORMED);
  message = Reach(Phase::kMaskedInput);
  message.mutable_shares()->set_sharers(std::string(1, '\0'));
  EXPECT_EQ(ReasonFor(message), SecureRefusal::DECLARED_DROPPED);
}

TEST_F(RefusalTest, TooFewPeersShared) {
  v1::SecureServerMessage message = Reach(Phase::kMaskedInput);
  v1::ReceivedShares& shares = *message.mutable_shares();
  std::vector<bool> sharers = *UnpackPositions(shares.sharers(), 6);
  while (shares.shares_size() > 1) {
    sharers[shares.shares(shares.shares_size() - 1).peer()] = false;
    shares.mutable_shares()->RemoveLast();
  }
  shares.set_sharers(PackPositions(sharers));
  EXPECT_EQ(ReasonFor(message), SecureRefusal::TOO_FEW_ALIVE);
}

TEST_F(RefusalTest, SharesThatCannotBeOpened) {
  v1::SecureServerMessage message = Reach(Phase::kMaskedInput);
  for (auto& share : *message.mutable_shares()->mutable_shares()) {
    share.mutable_sealed()->back() ^= 1;
  }
  EXPECT_EQ(ReasonFor(message), SecureRefusal::BAD_SHARE);
  // One bad share is no reason.
  message = Reach(Phase::kMaskedInput);
  message.mutable_shares()->mutable_shares(0)->mutable_sealed()->back() ^= 1;
  EXPECT_EQ(ReasonFor(message), SecureRefusal::REASON_UNSPECIFIED);
}

TEST_F(RefusalTest, ShareOfAnotherPairOrDirection) {
  // Everybody's share for the neighbour before it: none can be opened.
  v1::SecureServerMessage message = Reach(Phase::kMaskedInput);
  auto& shares = *message.mutable_shares()->mutable_shares();
  const std::string first = shares[0].sealed();
  for (int i = 0; i + 1 < shares.size(); ++i) {
    shares[i].set_sealed(shares[i + 1].sealed());
  }
  shares[shares.size() - 1].set_sealed(first);
  EXPECT_EQ(ReasonFor(message), SecureRefusal::BAD_SHARE);
}

// The message with `change` made to its list of survivors.
using Change = std::function<void(std::vector<bool>&)>;
v1::Survivors Changed(v1::Survivors survivors, const Change& change) {
  std::vector<bool> positions = *UnpackPositions(survivors.survivors(), 6);
  change(positions);
  survivors.set_survivors(PackPositions(positions));
  return survivors;
}

TEST_F(RefusalTest, SurvivorsWithoutThisClient) {
  v1::SecureServerMessage message = Reach(Phase::kConfirm);
  *message.mutable_survivors() = Changed(
      message.survivors(), [&](auto& alive) { alive[position_] = false; });
  EXPECT_EQ(ReasonFor(message), SecureRefusal::DECLARED_DROPPED);
}

TEST_F(RefusalTest, OneSurvivorLessIsNoReason) {
  v1::SecureServerMessage message = Reach(Phase::kConfirm);
  *message.mutable_survivors() = Changed(message.survivors(), [&](auto& alive) {
    alive[(position_ + 1) % 6] = false;
  });
  EXPECT_EQ(ReasonFor(message), SecureRefusal::REASON_UNSPECIFIED);
}

TEST_F(RefusalTest, SurvivorsThatNeverShared) {
  std::vector<Fate> fates(6, Fate::kStays);
  fates[5] = Fate::kNoShares;
  v1::SecureServerMessage message =
      Reach(Phase::kConfirm, SomeClients(), fates);
  *message.mutable_survivors() =
      Changed(message.survivors(), [&](auto& alive) { alive.assign(6, true); });
  EXPECT_EQ(ReasonFor(message), SecureRefusal::CONFLICTING_LISTS);
}

TEST_F(RefusalTest, OtherSharersThanBefore) {
  v1::SecureServerMessage message = Reach(Phase::kConfirm);
  std::vector<bool> sharers(6, true);
  sharers[(position_ + 1) % 6] = false;
  message.mutable_survivors()->set_sharers(PackPositions(sharers));
  EXPECT_EQ(ReasonFor(message), SecureRefusal::CONFLICTING_LISTS);
}

TEST_F(RefusalTest, SurvivorsOutsideTheRoster) {
  v1::SecureServerMessage message = Reach(Phase::kConfirm);
  message.mutable_survivors()->set_survivors(std::string(1, '\xff'));
  EXPECT_EQ(ReasonFor(message), SecureRefusal::UNKNOWN_PEER);
  message = Reach(Phase::kConfirm);
  message.mutable_survivors()->set_survivors(std::string(2, '\0'));
  EXPECT_EQ(ReasonFor(message), SecureRefusal::MALFORMED);
}

TEST_F(RefusalTest, TooFewSurvivors) {
  v1::SecureServerMessage message = Reach(Phase::kConfirm);
  *message.mutable_survivors() = Changed(message.survivors(), [&](auto& alive) {
    alive.assign(6, false);
    for (int i = 0; i < 3; ++i) alive[(position_ + i) % 6] = true;
  });
  EXPECT_EQ(ReasonFor(message), SecureRefusal::TOO_FEW_ALIVE);
}

TEST_F(RefusalTest, NothingIsRevealedBeforeSurvivorsAreConfirmed) {
  const v1::SecureServerMessage survivors = Reach(Phase::kConfirm);
  v1::SecureServerMessage message;
  *message.mutable_unmask()->mutable_survivors() = survivors.survivors();
  EXPECT_EQ(ReasonFor(message), SecureRefusal::NOT_CONFIRMED);
}

TEST_F(RefusalTest, OtherSurvivorsThanWereConfirmed) {
  v1::SecureServerMessage message = Reach(Phase::kUnmask);
  v1::UnmaskRequest& request = *message.mutable_unmask();
  *request.mutable_survivors() = Changed(request.survivors(), [&](auto& alive) {
    alive[(position_ + 1) % 6] = false;
  });
  EXPECT_EQ(ReasonFor(message), SecureRefusal::CONFLICTING_LISTS);
}

TEST_F(RefusalTest, SignaturesThatAreMissingForgedOrTwice) {
  v1::SecureServerMessage message = Reach(Phase::kUnmask);
  message.mutable_unmask()->mutable_signatures()->RemoveLast();
  EXPECT_EQ(ReasonFor(message), SecureRefusal::NOT_CONFIRMED);
  message = Reach(Phase::kUnmask);
  message.mutable_unmask()
      ->mutable_signatures(0)
      ->mutable_signature()
      ->back() ^= 1;
  EXPECT_EQ(ReasonFor(message), SecureRefusal::NOT_CONFIRMED);
  message = Reach(Phase::kUnmask);
  auto& signatures = *message.mutable_unmask()->mutable_signatures();
  signatures[1] = signatures[0];
  EXPECT_EQ(ReasonFor(message), SecureRefusal::REPEATED_PEER);
  message = Reach(Phase::kUnmask);
  message.mutable_unmask()->mutable_signatures(0)->set_peer(position_);
  EXPECT_EQ(ReasonFor(message), SecureRefusal::UNKNOWN_PEER);
}

TEST_F(RefusalTest, ASecondUnmaskRequest) {
  v1::SecureServerMessage message = Reach(Phase::kUnmask);
  const auto first = victim().Handle(message);
  ASSERT_TRUE(first && first->message.has_unmask());
  // Repeated: answered in the same words. Another one: refused.
  const auto again = victim().Handle(message);
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->message.SerializeAsString(),
            first->message.SerializeAsString());
  message.mutable_unmask()->mutable_signatures()->RemoveLast();
  EXPECT_EQ(ReasonFor(message), SecureRefusal::OUT_OF_ORDER);
}

TEST_F(RefusalTest, MessagesOutOfOrderOrEmpty) {
  Reach(Phase::kShareKeys);
  v1::SecureServerMessage message;
  message.mutable_shares();
  EXPECT_EQ(ReasonFor(message), SecureRefusal::OUT_OF_ORDER);
  Reach(Phase::kShareKeys);
  EXPECT_EQ(ReasonFor(v1::SecureServerMessage()), SecureRefusal::MALFORMED);
}

TEST_F(RefusalTest, AnOlderMessageAgainIsNotAnswered) {
  const v1::SecureServerMessage roster = Reach(Phase::kShareKeys);
  ASSERT_TRUE(AnswerPhase(*world_, federation_, {}).ok());
  ASSERT_TRUE(federation_.server->Close().ok());
  const v1::SecureServerMessage shares =
      *federation_.server->MessageFor(world_->name(kVictim));
  const auto masked = victim().Handle(shares);
  ASSERT_TRUE(masked && masked->message.has_masked());
  EXPECT_FALSE(victim().Handle(roster).has_value());
  EXPECT_FALSE(victim().finished());
  // The last one is answered again, with the vector.
  EXPECT_EQ(victim().Handle(shares)->payload, masked->payload);
}

TEST_F(RefusalTest, DoneAndAbortEndTheSessionWithoutAnAnswer) {
  Reach(Phase::kConfirm);
  v1::SecureServerMessage message;
  message.mutable_abort()->set_reason("enough");
  EXPECT_FALSE(victim().Handle(message).has_value());
  EXPECT_TRUE(victim().finished());
}

// A client that has another model signs another session: nobody takes its
// keys, the coordinator included.
TEST_F(RefusalTest, KeysAdvertisedForAnotherModel) {
  Reach(Phase::kShareKeys);
  v1::SecureSession other = world_->session;
  other.set_model_digest("other");
  EXPECT_TRUE(absl::IsPermissionDenied(CheckAdvertisement(
      other, world_->name(0), federation_.keys[0], world_->verifier())));
}

TEST_F(RefusalTest, ClientsThatCannotSignSaySo) {
  World world(SomeClients());
  class Mute final : public Signer {
   public:
    const std::string& name() const override { return name_; }
    const std::string& certificate() const override { return name_; }
    absl::StatusOr<std::string> Sign(absl::string_view) const override {
      return absl::InternalError("no key");
    }

   private:
    std::string name_ = "mute";
  };
  Mute mute;
  MemoryHistory history;
  SeededRandom random(4);
  ClientSession client(world.session, world.expectations(), world.Input(0),
                       {mute, world.verifier(), history, random});
  EXPECT_EQ(client.Start().message.refusal().reason(),
            SecureRefusal::CLIENT_FAILED);
}

}  // namespace
}  // namespace choir::secagg
