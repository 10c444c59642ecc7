// What the coordinator's session accepts, and whom it blames.
#include "privacy/secagg/server_session.h"

#include "absl/algorithm/container.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "privacy/secagg/transcript.h"
#include "tests/support/secagg_world.h"

namespace choir::secagg {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ServerSessionTest : public ::testing::Test {
 protected:
  ServerSessionTest() {
    WorldOptions options;
    options.clients = 7;
    options.dropout_fraction = 0.3;
    world_ = std::make_unique<World>(options);
    federation_ = Advertise(*world_);
  }
  ServerSession& server() { return *federation_.server; }
  ClientStep Answer(int i) {
    return *federation_.clients[i].Handle(*server().MessageFor(Name(i)));
  }
  absl::Status Send(int i, const ClientStep& step) {
    return server().Receive(Name(i), step.message, step.payload);
  }
  const std::string& Name(int i) { return world_->name(i); }
  void ClosePhase(const std::vector<Fate>& fates = {}) {
    ASSERT_TRUE(AnswerPhase(*world_, federation_, fates).ok());
    ASSERT_TRUE(server().Close().ok());
  }

  std::unique_ptr<World> world_;
  Federation federation_;
};

TEST_F(ServerSessionTest, KnowsWhoIsWaitedForAndWhoAnswered) {
  EXPECT_EQ(server().phase(), Phase::kShareKeys);
  EXPECT_EQ(server().Waiting().size(), 7u);
  ASSERT_TRUE(Send(0, Answer(0)).ok());
  ASSERT_TRUE(Send(3, Answer(3)).ok());
  EXPECT_THAT(server().Answered(), ElementsAre(Name(0), Name(3)));
  EXPECT_EQ(server().Waiting().size(), 5u);
  ClientStep refusal;
  refusal.message.mutable_refusal()->set_reason(v1::SecureRefusal::MALFORMED);
  ASSERT_TRUE(Send(1, refusal).ok());
  EXPECT_EQ(server().Waiting().size(), 4u);
  EXPECT_FALSE(server().MessageFor(Name(1)).has_value());
}

TEST_F(ServerSessionTest, RepetitionsChangeNothingOtherAnswersAreRefused) {
  const ClientStep step = Answer(0);
  ASSERT_TRUE(Send(0, step).ok());
  EXPECT_TRUE(Send(0, step).ok());
  ClientStep other = step;
  other.message.mutable_share()->mutable_shares(0)->mutable_sealed()->back() ^=
      1;
  EXPECT_TRUE(absl::IsFailedPrecondition(Send(0, other)));
  ClosePhase();
  // The first phase's answer, once more, late.
  EXPECT_TRUE(Send(0, step).ok());
  // A vector is added once, however often it comes.
  const ClientStep masked = Answer(0);
  ASSERT_TRUE(Send(0, masked).ok());
  ASSERT_TRUE(Send(0, masked).ok());
  while (server().phase() != Phase::kDone) ClosePhase();
  const auto sum = server().Sum(nullptr);
  ASSERT_TRUE(sum.ok()) << sum.status();
  EXPECT_EQ(Difference(*sum, world_->PlainSum(server().survivors())), "");
}

TEST_F(ServerSessionTest, StrangersAndEarlyAndMalformedAnswers) {
  const ClientStep step = Answer(0);
  EXPECT_TRUE(absl::IsNotFound(
      server().Receive("stranger", step.message, step.payload)));
  EXPECT_TRUE(absl::IsInvalidArgument(
      server().Receive(Name(0), v1::SecureClientMessage(), "")));
  ClientStep early;
  early.message.mutable_unmask();
  EXPECT_TRUE(absl::IsFailedPrecondition(Send(0, early)));
  ClientStep bad = step;
  bad.message.mutable_share()->mutable_shares()->RemoveLast();
  EXPECT_TRUE(absl::IsInvalidArgument(Send(0, bad)));
  bad = step;
  bad.message.mutable_share()->mutable_shares(0)->mutable_sealed()->pop_back();
  EXPECT_TRUE(absl::IsInvalidArgument(Send(0, bad)));
  // And may try again.
  EXPECT_TRUE(Send(0, step).ok());
}

TEST_F(ServerSessionTest, AVectorHasTheSizeThatWasAnnounced) {
  ClosePhase();
  const ClientStep step = Answer(0);
  ClientStep bad = step;
  bad.payload.pop_back();
  EXPECT_TRUE(absl::IsInvalidArgument(Send(0, bad)));
  EXPECT_TRUE(Send(0, step).ok());
}

TEST_F(ServerSessionTest, ALateMaskedVectorIsNeverTaken) {
  ClosePhase();
  const ClientStep late = Answer(6);
  std::vector<Fate> fates(7, Fate::kStays);
  fates[6] = Fate::kNoMasked;
  ClosePhase(fates);
  EXPECT_TRUE(absl::IsFailedPrecondition(Send(6, late)));
  while (server().phase() != Phase::kDone) ClosePhase(fates);
  EXPECT_TRUE(absl::IsFailedPrecondition(Send(6, late)));
  const auto sum = server().Sum(nullptr);
  ASSERT_TRUE(sum.ok());
  EXPECT_EQ(server().survivors().size(), 6u);
  EXPECT_EQ(Difference(*sum, world_->PlainSum(server().survivors())), "");
}

TEST_F(ServerSessionTest, SignaturesAreChecked) {
  ClosePhase();
  ClosePhase();
  ASSERT_EQ(server().phase(), Phase::kConfirm);
  const ClientStep zero = Answer(0);
  EXPECT_TRUE(
      absl::IsInvalidArgument(server().Receive(Name(1), zero.message, "")));
  EXPECT_TRUE(Send(0, zero).ok());
}

TEST_F(ServerSessionTest, FailsForGoodWhenTooFewAreLeft) {
  ASSERT_TRUE(Send(0, Answer(0)).ok());
  const auto next = server().Advance();
  EXPECT_TRUE(absl::IsAborted(next.status())) << next.status();
  EXPECT_THAT(std::string(next.status().message()),
              HasSubstr("only 1 of 7 clients shared their keys"));
  EXPECT_EQ(server().phase(), Phase::kFailed);
  EXPECT_TRUE(server().MessageFor(Name(0))->has_abort());
  EXPECT_TRUE(absl::IsFailedPrecondition(server().Close()));
  EXPECT_TRUE(absl::IsFailedPrecondition(server().Sum(nullptr).status()));
  EXPECT_THAT(server().survivors(), IsEmpty());
}

// Takes the session to the end, changing the shares that clients hand over.
absl::Status SumWith(
    World& world, Federation& federation, const std::vector<Fate>& fates,
    const std::function<void(int, v1::UnmaskShares&)>& change) {
  ServerSession& server = *federation.server;
  while (server.phase() != Phase::kUnmask) {
    if (absl::Status status = AnswerPhase(world, federation, fates);
        !status.ok()) {
      return status;
    }
    if (absl::Status status = server.Close(); !status.ok()) return status;
  }
  for (int i = 0; i < world.size(); ++i) {
    const auto message = server.MessageFor(world.name(i));
    if (!message) continue;
    ClientStep step = *federation.clients[i].Handle(*message);
    change(i, *step.message.mutable_unmask());
    if (absl::Status status = server.Receive(world.name(i), step.message, "");
        !status.ok()) {
      return status;
    }
  }
  if (absl::Status status = server.Close(); !status.ok()) return status;
  const auto sum = server.Sum(nullptr);
  if (!sum.ok()) return sum.status();
  EXPECT_EQ(Difference(*sum, world.PlainSum(server.survivors())), "");
  return absl::OkStatus();
}

void Spoil(v1::UnmaskShares::Share& share) {
  (share.has_self_mask() ? share.mutable_self_mask() : share.mutable_mask_key())
      ->back() ^= 1;
}

TEST_F(ServerSessionTest, OneLiarSpoilsNothing) {
  std::vector<Fate> fates(7, Fate::kStays);
  fates[5] = Fate::kNoMasked;
  EXPECT_EQ(SumWith(*world_, federation_, fates,
                    [](int client, v1::UnmaskShares& shares) {
                      if (client != 1) return;
                      for (auto& share : *shares.mutable_shares()) {
                        Spoil(share);
                      }
                    }),
            absl::OkStatus());
}

// As many liars as the shares beyond the threshold allow for, scattered, each
// lying about everybody.
TEST(LiarsTest, HalfOfTheSharesBeyondTheThresholdMayBeWrong) {
  for (const int clients : {24, 90}) {
    WorldOptions options;
    options.clients = clients;
    World world(options);
    Federation federation = Advertise(world);
    const Parameters parameters = federation.server->parameters();
    const int holders = parameters.degree + (parameters.complete() ? 1 : 0);
    // Of whoever holds shares with one: two are missing, one of them a liar.
    std::vector<Fate> fates(clients, Fate::kStays);
    fates[5] = Fate::kNoMasked;
    fates[6] = Fate::kNoUnmask;
    const int liars = (holders - 2 - parameters.threshold) / 2;
    ASSERT_GE(liars, 2);
    EXPECT_EQ(SumWith(world, federation, fates,
                      [&](int client, v1::UnmaskShares& shares) {
                        if (client % 7 != 1 || client / 7 >= liars) return;
                        for (auto& share : *shares.mutable_shares()) {
                          Spoil(share);
                        }
                      }),
              absl::OkStatus())
        << clients;
  }
}

TEST_F(ServerSessionTest, NamesTheClientWhoseSecretDoesNotComeBack) {
  const std::string culprit = federation_.keys[4].client();
  // Everybody's share of one client is wrong: that is its own doing.
  const int position =
      static_cast<int>(server().MessageFor(Name(4))->roster().position());
  const absl::Status status =
      SumWith(*world_, federation_, {}, [&](int, v1::UnmaskShares& shares) {
        for (auto& share : *shares.mutable_shares()) {
          if (static_cast<int>(share.peer()) == position) Spoil(share);
        }
      });
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(culprit));
  EXPECT_EQ(server().phase(), Phase::kFailed);
  EXPECT_THAT(server().blamed(), ElementsAre(culprit));
}

// Shares that nobody can open, of one that stays and of one that vanishes.
TEST_F(ServerSessionTest, BlamesWhoSharesRubbish) {
  for (const Fate fate : {Fate::kStays, Fate::kNoMasked}) {
    federation_ = Federation();
    world_ = std::make_unique<World>([] {
      WorldOptions options;
      options.clients = 7;
      options.dropout_fraction = 0.3;
      return options;
    }());
    federation_ = Advertise(*world_);
    std::vector<Fate> fates(7, Fate::kStays);
    fates[4] = fate;
    ClientStep rubbish = Answer(4);
    for (auto& share : *rubbish.message.mutable_share()->mutable_shares()) {
      share.mutable_sealed()->back() ^= 1;
    }
    ASSERT_TRUE(Send(4, rubbish).ok());
    std::vector<Fate> others = fates;
    others[4] = Fate::kNoShares;
    ClosePhase(others);
    while (server().phase() != Phase::kUnmask) ClosePhase(fates);
    ASSERT_TRUE(AnswerPhase(*world_, federation_, fates).ok());
    const absl::Status closed = server().Close();
    EXPECT_TRUE(absl::IsAborted(closed)) << closed;
    EXPECT_THAT(std::string(closed.message()), HasSubstr(Name(4)));
    EXPECT_THAT(server().blamed(), ElementsAre(Name(4)));
  }
}

// As many are silent as the assumptions allow for, so that all shares that come
// are needed; one of those who answer keeps a share back, or spoils it.
TEST(LiarsTest, OneLiarGetsNobodyBlamed) {
  for (const bool withheld : {true, false}) {
    WorldOptions options;
    options.clients = 12;
    options.corrupt_fraction = 0.1;
    options.dropout_fraction = 0.3;
    World world(options);
    Federation federation = Advertise(world);
    ServerSession& server = *federation.server;
    ASSERT_EQ(server.parameters().threshold, 9);
    const int victim =
        static_cast<int>(server.MessageFor(world.name(5))->roster().position());
    while (server.phase() != Phase::kUnmask) {
      ASSERT_TRUE(AnswerPhase(world, federation, {}).ok());
      ASSERT_TRUE(server.Close().ok());
    }
    for (int i = 0; i < 9; ++i) {
      ClientStep step =
          *federation.clients[i].Handle(*server.MessageFor(world.name(i)));
      auto& shares = *step.message.mutable_unmask()->mutable_shares();
      const auto of_victim = absl::c_find_if(shares, [&](const auto& share) {
        return static_cast<int>(share.peer()) == victim;
      });
      if (i == 0 && withheld) shares.erase(of_victim);
      if (i == 0 && !withheld) Spoil(*of_victim);
      ASSERT_TRUE(server.Receive(world.name(i), step.message, "").ok());
    }
    absl::Status status = server.Close();
    if (status.ok()) status = server.Sum(nullptr).status();
    EXPECT_TRUE(absl::IsAborted(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(world.name(5)));
    EXPECT_THAT(server.blamed(), IsEmpty());
  }
}

TEST_F(ServerSessionTest, NobodyIsBlamedForSilence) {
  while (server().phase() != Phase::kUnmask) ClosePhase();
  ASSERT_TRUE(Send(0, Answer(0)).ok());
  EXPECT_TRUE(absl::IsAborted(server().Close()));
  EXPECT_THAT(server().blamed(), IsEmpty());
}

// With such a key no neighbour could agree on anything: all would leave.
TEST_F(ServerSessionTest, KeysOfLowOrderAreNotTaken) {
  for (const bool mask : {true, false}) {
    v1::AdvertiseKeys keys = federation_.keys[0];
    (mask ? keys.mutable_mask_public_key() : keys.mutable_share_public_key())
        ->assign(32, '\0');
    keys.set_signature(*world_->signer(0).Sign(
        AdvertiseText(SessionDigest(world_->session), EntryDigest(keys))));
    const absl::Status taken =
        CheckAdvertisement(world_->session, Name(0), keys, world_->verifier());
    EXPECT_TRUE(absl::IsInvalidArgument(taken)) << taken;
    EXPECT_THAT(std::string(taken.message()), HasSubstr("low order"));
  }
}

// Nobody has signed them: they must not reach the neighbours.
TEST_F(ServerSessionTest, UnknownFieldsOfKeysAreNotPassedOn) {
  std::vector<v1::AdvertiseKeys> keys = federation_.keys;
  keys[0].GetReflection()->MutableUnknownFields(&keys[0])->AddLengthDelimited(
      99, std::string(1000, 'x'));
  ASSERT_GT(keys[0].ByteSizeLong(), 1000u);
  EXPECT_TRUE(
      CheckAdvertisement(world_->session, Name(0), keys[0], world_->verifier())
          .ok());
  const auto session =
      ServerSession::Create(world_->session, 0, keys, world_->verifier());
  ASSERT_TRUE(session.ok());
  const v1::SecureServerMessage message = *session->MessageFor(Name(1));
  const std::string first = federation_.keys[0].SerializeAsString();
  int found = 0;
  for (const auto& neighbour : message.roster().neighbours()) {
    if (neighbour.keys().client() != Name(0)) continue;
    EXPECT_EQ(neighbour.keys().SerializeAsString(), first);
    ++found;
  }
  EXPECT_EQ(found, 1);
}

TEST_F(ServerSessionTest, KeysOfManyBytesAreNotTaken) {
  v1::AdvertiseKeys keys = federation_.keys[0];
  keys.GetReflection()->MutableUnknownFields(&keys)->AddLengthDelimited(
      99, std::string(kMaxAdvertisementBytes, 'x'));
  const absl::Status taken =
      CheckAdvertisement(world_->session, Name(0), keys, world_->verifier());
  EXPECT_TRUE(absl::IsInvalidArgument(taken)) << taken;
  EXPECT_THAT(std::string(taken.message()), HasSubstr("the limit is 4096"));
}

// What is passed on of shares has its size, whatever else is in the message.
TEST_F(ServerSessionTest, UnknownFieldsOfSharesAreNotPassedOn) {
  ClientStep step = Answer(0);
  v1::EncryptedShare& share = *step.message.mutable_share()->mutable_shares(0);
  share.GetReflection()->MutableUnknownFields(&share)->AddLengthDelimited(
      99, std::string(1000, 'x'));
  ASSERT_TRUE(Send(0, step).ok());
  for (int i = 1; i < world_->size(); ++i) {
    ASSERT_TRUE(Send(i, Answer(i)).ok());
  }
  ASSERT_TRUE(server().Close().ok());
  for (int i = 1; i < world_->size(); ++i) {
    const v1::SecureServerMessage told = *server().MessageFor(Name(i));
    EXPECT_GT(told.shares().shares_size(), 0);
    for (const v1::EncryptedShare& passed : told.shares().shares()) {
      EXPECT_LT(passed.ByteSizeLong(), 100u);
    }
  }
}

TEST_F(ServerSessionTest, SharesThatWereNotAskedForAreRefused) {
  while (server().phase() != Phase::kUnmask) ClosePhase();
  const ClientStep step = Answer(0);
  ClientStep bad = step;
  auto& share = *bad.message.mutable_unmask()->mutable_shares(0);
  // Copied: setting the one frees the other.
  share.set_mask_key(std::string(share.self_mask()));
  EXPECT_TRUE(absl::IsInvalidArgument(Send(0, bad)));
  bad = step;
  bad.message.mutable_unmask()->mutable_shares(0)->set_peer(6);
  EXPECT_TRUE(absl::IsInvalidArgument(Send(0, bad)));
  bad = step;
  bad.message.mutable_unmask()->mutable_shares(6)->set_peer(700);
  EXPECT_TRUE(absl::IsInvalidArgument(Send(0, bad)));
  EXPECT_TRUE(Send(0, step).ok());
}

TEST_F(ServerSessionTest, TheSumIsTakenOnce) {
  while (server().phase() != Phase::kDone) ClosePhase();
  EXPECT_TRUE(server().MessageFor(Name(0))->has_done());
  ASSERT_TRUE(server().Sum(nullptr).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(server().Sum(nullptr).status()));
}

TEST(ServerSessionCreateTest, RefusesSmallGroupsAndDoubles) {
  WorldOptions options;
  options.clients = 5;
  World world(options);
  Federation federation = Advertise(world);
  std::vector<v1::AdvertiseKeys> keys = federation.keys;
  keys.resize(2);
  EXPECT_TRUE(absl::IsInvalidArgument(
      ServerSession::Create(world.session, 0, keys, world.verifier())
          .status()));
  keys = federation.keys;
  keys[1].set_client(keys[0].client());
  EXPECT_TRUE(absl::IsInvalidArgument(
      ServerSession::Create(world.session, 0, keys, world.verifier())
          .status()));
  keys = federation.keys;
  keys[1].set_share_public_key(keys[0].mask_public_key());
  EXPECT_TRUE(absl::IsInvalidArgument(
      ServerSession::Create(world.session, 0, keys, world.verifier())
          .status()));
  world.session.set_max_clients(4);
  EXPECT_TRUE(absl::IsInvalidArgument(
      ServerSession::Create(world.session, 0, federation.keys, world.verifier())
          .status()));
}

// The order in which clients come, and what they are called, is of no account.
TEST(PermutationTest, TheOrderOfClientsDoesNotChangeTheSum) {
  WorldOptions options;
  options.clients = 9;
  World world(options);
  std::string first;
  for (int turn = 0; turn < 4; ++turn) {
    World again(options);
    Federation federation = Advertise(again);
    std::vector<v1::AdvertiseKeys> keys = federation.keys;
    std::rotate(keys.begin(), keys.begin() + 2 * turn, keys.end());
    federation.server =
        *ServerSession::Create(again.session, 0, keys, again.verifier());
    ServerSession& server = *federation.server;
    while (server.phase() != Phase::kDone) {
      ASSERT_TRUE(AnswerPhase(again, federation, {}).ok());
      ASSERT_TRUE(server.Close().ok());
    }
    const std::string sum = server.Sum(nullptr)->Encode();
    if (first.empty()) first = sum;
    EXPECT_EQ(sum, first);
  }
}

TEST(PhaseNameTest, AllHaveNames) {
  EXPECT_EQ(PhaseName(Phase::kShareKeys), "share_keys");
  EXPECT_EQ(PhaseName(Phase::kMaskedInput), "masked_input");
  EXPECT_EQ(PhaseName(Phase::kConfirm), "confirm");
  EXPECT_EQ(PhaseName(Phase::kUnmask), "unmask");
  EXPECT_EQ(PhaseName(Phase::kDone), "done");
  EXPECT_EQ(PhaseName(Phase::kFailed), "failed");
}

}  // namespace
}  // namespace choir::secagg
