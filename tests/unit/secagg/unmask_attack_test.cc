// Attacks on the last phase: a coordinator that wants both secrets of one
// client. Each must fail as things are, and succeed once the defence that it is
// up against is switched off in the test (as in attack_test.cc).
#include "gtest/gtest.h"
#include "privacy/crypto/key_agreement.h"
#include "privacy/secagg/shamir.h"
#include "privacy/secagg/transcript.h"
#include "tests/support/secagg_world.h"

namespace choir::secagg {
namespace {

using v1::SecureRefusal;

// A curious session of six, taken to the point where client 0 has sent its
// vector and the others may be asked to unmask.
class BothSecretsTest : public ::testing::Test {
 protected:
  static constexpr int kClients = 6;

  BothSecretsTest() {
    WorldOptions options;
    options.clients = kClients;
    options.adversary = v1::SecureAssumptions::CURIOUS;
    options.corrupt_fraction = 0.3;
    options.dropout_fraction = 0.2;
    world_ = std::make_unique<World>(options);
    federation_ = Advertise(*world_);
    for (int i = 0; i < kClients; ++i) {
      rosters_.push_back(*federation_.server->MessageFor(world_->name(i)));
    }
    EXPECT_TRUE(AnswerPhase(*world_, federation_, {}).ok());
    EXPECT_TRUE(federation_.server->Close().ok());
    for (int i = 0; i < kClients; ++i) {
      received_.push_back(*federation_.server->MessageFor(world_->name(i)));
      payloads_.push_back(federation_.clients[i].Handle(received_[i])->payload);
    }
    threshold_ = federation_.server->parameters().threshold;
  }

  int Position(int i) const {
    return static_cast<int>(rosters_[i].roster().position());
  }
  // What client i is told: the victim has survived, or has not.
  v1::SecureServerMessage Request(bool victim_alive) const {
    std::vector<bool> alive(kClients, true);
    alive[Position(0)] = victim_alive;
    v1::SecureServerMessage message;
    v1::Survivors& survivors = *message.mutable_unmask()->mutable_survivors();
    survivors.set_survivors(PackPositions(alive));
    survivors.set_sharers(PackPositions(std::vector<bool>(kClients, true)));
    return message;
  }
  // The same client once more: one that answers twice.
  ClientSession Copy(int i) {
    world_->history(i).ForgetAll();
    ClientSession copy = world_->Client(i);
    EXPECT_FALSE(copy.Start().refused());
    EXPECT_TRUE(copy.Handle(rosters_[i])->message.has_share());
    EXPECT_TRUE(copy.Handle(received_[i])->message.has_masked());
    return copy;
  }
  // Notes the share of the victim that a client reveals.
  void Note(int i, const absl::optional<ClientStep>& step) {
    ASSERT_TRUE(step.has_value());
    for (const auto& share : step->message.unmask().shares()) {
      if (static_cast<int>(share.peer()) != Position(0)) continue;
      auto& to = share.has_self_mask() ? self_mask_ : mask_key_;
      to.emplace_back(Position(i) + 1, share.has_self_mask()
                                           ? share.self_mask()
                                           : share.mask_key());
    }
  }
  using Shares = std::vector<std::pair<uint32_t, std::string>>;
  // The secret that the first `threshold` shares give, or none.
  absl::optional<std::string> Combine(const Shares& shares) const {
    if (static_cast<int>(shares.size()) < threshold_) return absl::nullopt;
    std::vector<uint32_t> points;
    std::vector<absl::string_view> values;
    for (int i = 0; i < threshold_; ++i) {
      points.push_back(shares[i].first);
      values.push_back(shares[i].second);
    }
    return std::string(SecretCombiner::Create(points)->Combine(values)->view());
  }
  void TakeOffPairMasks(const std::string& private_key, MaskedVector& vector) {
    const auto key = crypto::X25519Key::FromPrivate(private_key);
    for (const auto& peer : rosters_[0].roster().neighbours()) {
      const auto agreed = key->Agree(peer.keys().mask_public_key());
      const int other = static_cast<int>(peer.peer());
      ASSERT_TRUE(vector
                      .AddMask(PairMaskKey(agreed->view(),
                                           rosters_[0].roster().context(),
                                           Position(0), other)
                                   ->view(),
                               other < Position(0)
                                   ? MaskedVector::Sign::kSubtract
                                   : MaskedVector::Sign::kAdd)
                      .ok());
    }
  }
  void TakeOffSelfMask(const std::string& seed, MaskedVector& vector) {
    ASSERT_TRUE(vector
                    .AddMask(SelfMaskKey(seed, rosters_[0].roster().context(),
                                         Position(0))
                                 ->view(),
                             MaskedVector::Sign::kSubtract)
                    .ok());
  }
  std::vector<uint64_t> VictimsInput() const {
    return world_->PlainSum({world_->name(0)});
  }

  std::unique_ptr<World> world_;
  Federation federation_;
  std::vector<v1::SecureServerMessage> rosters_;
  std::vector<v1::SecureServerMessage> received_;
  std::vector<std::string> payloads_;
  int threshold_ = 0;
  Shares self_mask_;
  Shares mask_key_;
};

TEST_F(BothSecretsTest, ClientsAnswerOnceSoThatOnlyOneKindComesTogether) {
  // Some are told that the victim lives, the others that it does not; then each
  // is asked for the other kind as well.
  for (int alive = 0; alive <= 5; ++alive) {
    self_mask_.clear();
    mask_key_.clear();
    for (int i = 1; i < kClients; ++i) {
      ClientSession client = Copy(i);
      Note(i, client.Handle(Request(i <= alive)));
      EXPECT_EQ(client.Handle(Request(i > alive))->message.refusal().reason(),
                SecureRefusal::OUT_OF_ORDER);
    }
    // The victim itself, which holds a share of its own mask.
    ClientSession victim = Copy(0);
    Note(0, victim.Handle(Request(true)));
    EXPECT_FALSE(Combine(self_mask_).has_value() &&
                 Combine(mask_key_).has_value())
        << alive;
  }
}

TEST_F(BothSecretsTest, ClientsThatAnswerTwiceGiveTheVictimAway) {
  for (int i = 1; i < kClients; ++i) {
    ClientSession copy = Copy(i);
    Note(i, federation_.clients[i].Handle(Request(true)));
    Note(i, copy.Handle(Request(false)));
  }
  ASSERT_TRUE(Combine(self_mask_) && Combine(mask_key_));
  MaskedVector vector = *MaskedVector::Decode(payloads_[0]);
  TakeOffPairMasks(*Combine(mask_key_), vector);
  TakeOffSelfMask(*Combine(self_mask_), vector);
  EXPECT_EQ(Difference(vector, VictimsInput()), "");
}

// The victim's vector arrives after it was declared lost, and its mask key is
// known: its own mask still covers it.
TEST_F(BothSecretsTest, ALateVectorIsCoveredByItsOwnMask) {
  for (int i = 1; i < kClients; ++i) {
    Note(i, federation_.clients[i].Handle(Request(false)));
  }
  ASSERT_TRUE(Combine(mask_key_).has_value());
  EXPECT_TRUE(self_mask_.empty());
  MaskedVector late = *MaskedVector::Decode(payloads_[0]);
  TakeOffPairMasks(*Combine(mask_key_), late);
  EXPECT_NE(Difference(late, VictimsInput()), "");
  // It is that mask, and nothing else, that covers it.
  for (int i = 1; i < kClients; ++i) Note(i, Copy(i).Handle(Request(true)));
  TakeOffSelfMask(*Combine(self_mask_), late);
  EXPECT_EQ(Difference(late, VictimsInput()), "");
  // Nor does the victim help: told that it is lost, it refuses.
  EXPECT_EQ(
      federation_.clients[0].Handle(Request(false))->message.refusal().reason(),
      SecureRefusal::DECLARED_DROPPED);
}

// With confirmation, two views of who survived lead to no answer at all.
TEST(SplitViewTest, NoShareLeavesAClientWithoutEnoughSignatures) {
  WorldOptions options;
  options.clients = 9;
  options.dropout_fraction = 0.3;
  World world(options);
  Federation federation = Advertise(world);
  const int victim = static_cast<int>(
      federation.server->MessageFor(world.name(0))->roster().position());
  for (int phase = 0; phase < 2; ++phase) {
    ASSERT_TRUE(AnswerPhase(world, federation, {}).ok());
    ASSERT_TRUE(federation.server->Close().ok());
  }
  ServerSession& server = *federation.server;
  const v1::SecureServerMessage all = *server.MessageFor(world.name(0));
  v1::SecureServerMessage without = all;
  std::vector<bool> alive(9, true);
  alive[victim] = false;
  without.mutable_survivors()->set_survivors(PackPositions(alive));
  // Four see the victim alive, four see it lost.
  std::vector<std::string> signatures(9);
  for (int i = 0; i < 9; ++i) {
    const auto step = federation.clients[i].Handle(i < 5 ? all : without);
    ASSERT_TRUE(step->message.has_confirm());
    signatures[i] = step->message.confirm().signature();
  }
  std::vector<int> client_at(9);
  World positions(options);
  Federation again = Advertise(positions);
  for (int i = 0; i < 9; ++i) {
    client_at[again.server->MessageFor(world.name(i))->roster().position()] = i;
  }
  for (int i = 0; i < 9; ++i) {
    v1::SecureServerMessage request;
    v1::UnmaskRequest& unmask = *request.mutable_unmask();
    *unmask.mutable_survivors() = i < 5 ? all.survivors() : without.survivors();
    for (int position = 0; position < 9; ++position) {
      const int signer = client_at[position];
      if (signer == i || (i >= 5 && position == victim)) continue;
      auto& signature = *unmask.add_signatures();
      signature.set_peer(position);
      signature.set_signature(signatures[signer]);
    }
    EXPECT_EQ(federation.clients[i].Handle(request)->message.refusal().reason(),
              SecureRefusal::NOT_CONFIRMED)
        << i;
  }
}

}  // namespace
}  // namespace choir::secagg
