// Messages of secure rounds over a real TLS connection, and whose signatures
// count.
#include <gmock/gmock.h>

#include <future>
#include <latch>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "coordinator/rpc/registered_peers.h"
#include "privacy/crypto/signing.h"
#include "tests/integration/rpc/server_fixture.h"

namespace choir::rpc {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

struct Answer {
  grpc::Status status;
  v1::SecureExchangeResponse response;
};

class SecureExchangeTest : public ServerTest {
 protected:
  void SetUp() override {
    StartServer();
    key_ = GiveTask(anna_, "anna", {});
    request_.set_bytes_downloaded(7);
    *request_.mutable_key() = key_;
    request_.mutable_message()->mutable_advertise()->set_client("anna");
  }

  Answer Exchange(const v1::SecureExchangeRequest& request) {
    Answer answer;
    answer.status = AgentStub(anna_)->SecureExchange(Context().get(), request,
                                                     &answer.response);
    return answer;
  }
  // In another thread; returns once the runner has seen it.
  std::future<Answer> Begin() {
    size_t before = 0;
    OnLoop([&] { before = jobs_.secure.size(); });
    auto answer =
        std::async(std::launch::async, [this] { return Exchange(request_); });
    for (size_t now = before; now == before;) {
      OnLoop([&] { now = jobs_.secure.size(); });
    }
    return answer;
  }
  void Say(const absl::StatusOr<v1::SecureServerMessage>& message) {
    OnLoop([&] { jobs_.hooks.send_secure("anna", key_, message); });
  }

  const Credentials anna_ = Agent("anna");
  v1::TaskKey key_;
  v1::SecureExchangeRequest request_;
};

TEST_F(SecureExchangeTest, AMessageWaitsForTheNextPhase) {
  auto answer = Begin();
  v1::SecureServerMessage roster;
  roster.mutable_roster()->set_degree(4);
  Say(roster);
  const Answer said = answer.get();
  ASSERT_TRUE(said.status.ok()) << said.status.error_message();
  EXPECT_EQ(said.response.message().roster().degree(), 4u);
  ASSERT_THAT(jobs_.secure, SizeIs(1));
  EXPECT_EQ(jobs_.secure[0].bytes_downloaded(), 7u);
}

TEST_F(SecureExchangeTest, AnAnswerThatIsThereComesAtOnce) {
  OnLoop([this] {
    jobs_.say_secure = [] {
      v1::SecureServerMessage message;
      message.mutable_survivors()->set_survivors("x");
      return absl::optional<v1::SecureServerMessage>(message);
    };
  });
  const Answer said = Exchange(request_);
  EXPECT_EQ(said.response.message().survivors().survivors(), "x");
}

TEST_F(SecureExchangeTest, ALongWaitEndsWithAWordToAskAgain) {
  auto answer = Begin();
  clock_.Advance(absl::Seconds(21));
  OnLoop([this] { server_->loop().Wake(); });
  const Answer said = answer.get();
  ASSERT_TRUE(said.status.ok()) << said.status.error_message();
  EXPECT_GT(said.response.retry_after_ms(), 0u);
}

TEST_F(SecureExchangeTest, TheEndOfAnAttemptReachesWhoWaits) {
  auto answer = Begin();
  Say(absl::AbortedError("too few are left"));
  const Answer said = answer.get();
  EXPECT_EQ(said.status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(said.status.error_message(), "too few are left");
  // Nothing can be uploaded for it any more.
  v1::UploadStatusRequest upload;
  *upload.mutable_key() = key_;
  upload.mutable_blob()->set_digest(base::Sha256Hex("x"));
  upload.mutable_blob()->set_size(1);
  v1::UploadStatusResponse response;
  EXPECT_EQ(AgentStub(anna_)
                ->GetUploadStatus(Context().get(), upload, &response)
                .error_code(),
            grpc::StatusCode::ABORTED);
}

TEST_F(SecureExchangeTest, ANewerCallTakesThePlaceOfAnOlderOne) {
  auto first = Begin();
  auto second = Begin();
  EXPECT_EQ(first.get().status.error_code(), grpc::StatusCode::ABORTED);
  v1::SecureServerMessage done;
  done.mutable_done();
  Say(done);
  EXPECT_TRUE(second.get().response.message().has_done());
}

TEST_F(SecureExchangeTest, OnlyItsOwnMaskedVectorCanBeNamed) {
  v1::MaskedInput& masked = *request_.mutable_message()->mutable_masked();
  masked.set_digest(base::Sha256Hex("of another client"));
  masked.set_size(17);
  EXPECT_EQ(Exchange(request_).status.error_code(),
            grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(jobs_.secure, IsEmpty());
}

// The runner refuses them: they are no names of anything.
TEST_F(SecureExchangeTest, OtherSpellingsOfADigestReachTheRunner) {
  OnLoop([this] {
    jobs_.say_secure = [] {
      return absl::InvalidArgumentError("not 64 lower-case digits");
    };
  });
  v1::MaskedInput& masked = *request_.mutable_message()->mutable_masked();
  masked.set_digest(absl::StrCat("sha256:", base::Sha256Hex("x")));
  EXPECT_EQ(Exchange(request_).status.error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(Refusals(), Contains(HasSubstr("not 64 lower-case digits")));
}

// Two messages wait while the loop is busy, one from before the deadline and
// one from after it: the deadline fires between them.
TEST_F(SecureExchangeTest, ADeadlineWaitsForWhoWasInTime) {
  const absl::Time deadline = clock_.Now() + absl::Seconds(60);
  JobLoop& loop = server_->loop();
  std::latch busy{1};
  std::latch go{1};
  loop.Post([&] {
    jobs_.wakeup = deadline;
    busy.count_down();
    go.wait();
  });
  busy.wait();
  std::vector<absl::Time> arrived;
  const auto post = [&](uint64_t call) {
    loop.Post([&, call] {
      loop.SecureExchange("anna", request_, call, [](const auto&) {});
      arrived.push_back(jobs_.arrived_at);
    });
  };
  post(1);
  clock_.Advance(absl::Seconds(61));
  post(2);
  go.count_down();
  OnLoop([&] {
    ASSERT_TRUE(jobs_.polled_after.has_value());
    EXPECT_EQ(*jobs_.polled_after, 1u);
    EXPECT_THAT(arrived, ElementsAre(deadline - absl::Seconds(60),
                                     deadline + absl::Seconds(1)));
  });
}

TEST_F(SecureExchangeTest, BrokenMessagesAreAudited) {
  OnLoop([this] {
    jobs_.say_secure = [] {
      return absl::InvalidArgumentError("a share of the wrong size");
    };
  });
  EXPECT_EQ(Exchange(request_).status.error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(Refusals(),
              Contains(HasSubstr("anna /choir.v1.Coordinator/SecureExchange")));
}

TEST_F(SecureExchangeTest, OtherJobsAreOver) {
  request_.mutable_key()->set_job("other");
  EXPECT_EQ(Exchange(request_).status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_THAT(jobs_.secure, IsEmpty());
}

TEST_F(SecureExchangeTest, OversizedMessagesAreRefused) {
  request_.mutable_message()->mutable_advertise()->set_certificate(
      std::string(1 << 20, 'x'));
  EXPECT_EQ(Exchange(request_).status.error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(SecureExchangeTest, ARevokedClientWaitsNoMore) {
  auto answer = Begin();
  v1::RevokeClientRequest revoke;
  revoke.set_name("anna");
  revoke.set_reason("stolen");
  v1::ClientStatus client;
  ASSERT_TRUE(AdminStub(operator_)
                  ->RevokeClient(Context().get(), revoke, &client)
                  .ok());
  EXPECT_FALSE(answer.get().status.ok());
  OnLoop([this] { EXPECT_THAT(jobs_.lost, Contains("anna")); });
}

TEST_F(SecureExchangeTest, ShuttingDownTellsWhoWaits) {
  auto answer = Begin();
  StopServer();
  EXPECT_EQ(answer.get().status.error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(SecureExchangeTest, SignaturesCountWhileNeitherClientNorKeyIsRevoked) {
  registry::Registry registry;
  RefusalLog refusals(clock_, [](v1::PeerRefused) {});
  auto gate =
      *Gate::Create({ca_.certificate_pem(), absl::StrCat(folder_, "/crl.pem")},
                    registry, clock_, refusals);
  auto peers = *RegisteredPeers::Create(ca_.certificate_pem(), clock_, *gate);
  const auto certify = [&](const crypto::CertificateAuthority& ca,
                           const std::string& name) {
    const crypto::SigningKey key = *crypto::SigningKey::Generate(random_);
    return *crypto::CertificateDer(
        *ca.IssueSigner(*crypto::MakeSigningRequest(key, name), name,
                        absl::Hours(24), clock_.Now(), random_));
  };
  const std::string anna = certify(ca_, "anna");
  const auto key = peers->PublicKeyOf("anna", anna);
  ASSERT_TRUE(key.ok()) << key.status();
  EXPECT_THAT(*key, SizeIs(32));
  EXPECT_TRUE(
      absl::IsPermissionDenied(peers->PublicKeyOf("bert", anna).status()));
  const auto other = *crypto::CertificateAuthority::Create(
      "Other CA", absl::Hours(1000), clock_.Now(), random_);
  EXPECT_FALSE(peers->PublicKeyOf("anna", certify(other, "anna")).ok());
  EXPECT_FALSE(peers->PublicKeyOf("anna", "no certificate").ok());

  const auto verifier =
      *crypto::SigningCertificateVerifier::Create(ca_.certificate_pem());
  WriteRevocationList({verifier.Check(anna)->serial});
  EXPECT_TRUE(
      absl::IsPermissionDenied(peers->PublicKeyOf("anna", anna).status()));

  const std::string carl = certify(ca_, "carl");
  ASSERT_TRUE(peers->PublicKeyOf("carl", carl).ok());
  v1::JournalRecord revoked;
  revoked.mutable_client_revoked()->set_name("carl");
  ASSERT_TRUE(registry.Apply(revoked).ok());
  EXPECT_TRUE(
      absl::IsPermissionDenied(peers->PublicKeyOf("carl", carl).status()));
}

}  // namespace
}  // namespace choir::rpc
