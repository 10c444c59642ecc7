// Who may call what: certificates, roles, revocation, tokens.
#include <gmock/gmock.h>

#include <latch>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "privacy/crypto/signing.h"
#include "tests/integration/rpc/server_fixture.h"

namespace choir::rpc {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr grpc::StatusCode kUnauthenticated = grpc::StatusCode::UNAUTHENTICATED;
constexpr grpc::StatusCode kDenied = grpc::StatusCode::PERMISSION_DENIED;

class AccessTest : public ServerTest {
 protected:
  void SetUp() override { StartServer(); }
};

TEST_F(AccessTest, OperatorsManageAndAgentsDoNot) {
  EXPECT_TRUE(ListJobs(operator_).ok());
  const grpc::Status refused = ListJobs(Agent("anna"));
  EXPECT_EQ(refused.error_code(), kDenied);
  EXPECT_THAT(refused.error_message(), HasSubstr("role \"agent\""));
  EXPECT_THAT(Refusals(),
              ElementsAre(HasSubstr("anna /choir.v1.Admin/ListJobs role")));
}

TEST_F(AccessTest, NoAdminMethodIsOpenToAgents) {
  auto stub = AdminStub(Agent("anna"));
  const auto code = [&](auto method, auto request, auto response) {
    return (stub.get()->*method)(Context().get(), request, &response)
        .error_code();
  };
  using Stub = v1::Admin::Stub;
  EXPECT_EQ(code(&Stub::CreateToken, v1::CreateTokenRequest(),
                 v1::CreateTokenResponse()),
            kDenied);
  EXPECT_EQ(
      code(&Stub::SubmitJob, v1::SubmitJobRequest(), v1::SubmitJobResponse()),
      kDenied);
  EXPECT_EQ(code(&Stub::ShowJob, v1::ShowJobRequest(), v1::JobStatus()),
            kDenied);
  EXPECT_EQ(code(&Stub::StopJob, v1::StopJobRequest(), v1::JobStatus()),
            kDenied);
  EXPECT_EQ(code(&Stub::ListClients, v1::ListClientsRequest(),
                 v1::ListClientsResponse()),
            kDenied);
  EXPECT_EQ(code(&Stub::ApproveClient, v1::ApproveClientRequest(),
                 v1::ClientStatus()),
            kDenied);
  EXPECT_EQ(
      code(&Stub::RevokeClient, v1::RevokeClientRequest(), v1::ClientStatus()),
      kDenied);
  EXPECT_EQ(
      code(&Stub::GetModel, v1::GetModelRequest(), v1::GetModelResponse()),
      kDenied);
  auto context = Context();
  v1::DownloadChunk chunk;
  auto reader = stub->Download(context.get(), v1::DownloadRequest());
  EXPECT_FALSE(reader->Read(&chunk));
  EXPECT_EQ(reader->Finish().error_code(), kDenied);
}

TEST_F(AccessTest, OperatorsAreNoAgents) {
  EXPECT_EQ(CheckIn(operator_).error_code(), kDenied);
  EXPECT_EQ(CheckIn(coordinator_).error_code(), kDenied);
}

TEST_F(AccessTest, WithoutACertificateOnlyEnrolIsOpen) {
  auto stub = v1::Coordinator::NewStub(Dial(nullptr));
  v1::CheckInResponse response;
  const grpc::Status status =
      stub->CheckIn(Context().get(), v1::CheckInRequest(), &response);
  EXPECT_EQ(status.error_code(), kUnauthenticated);
  EXPECT_THAT(status.error_message(), HasSubstr("enrol first"));
  v1::EnrollResponse enrolled;
  EXPECT_EQ(stub->Enroll(Context().get(), v1::EnrollRequest(), &enrolled)
                .error_code(),
            grpc::StatusCode::INVALID_ARGUMENT)
      << "the gate let it pass, the request is what is wrong";
}

TEST_F(AccessTest, ACertificateOfAnotherCaIsRefused) {
  const auto other = *crypto::CertificateAuthority::Create(
      "Test CA", absl::Hours(1000), clock_.Now(), random_);
  const grpc::Status status =
      CheckIn(Issue(other, "anna", crypto::Role::kAgent));
  EXPECT_EQ(status.error_code(), kUnauthenticated);
  EXPECT_THAT(status.error_message(),
              HasSubstr("not issued by this coordinator's CA"));
  EXPECT_EQ(
      ListJobs(Issue(other, "olga", crypto::Role::kOperator)).error_code(),
      kUnauthenticated);
  // The record names the address: the name in the certificate means nothing.
  EXPECT_THAT(Refusals(), ElementsAre(HasSubstr(":")));
}

TEST_F(AccessTest, AnExpiredCertificateIsRefusedEvenOnAnOpenConnection) {
  const Credentials short_lived =
      Issue(ca_, "olga2", crypto::Role::kOperator, absl::Hours(1));
  auto stub = AdminStub(short_lived);
  v1::ListJobsResponse response;
  EXPECT_TRUE(
      stub->ListJobs(Context().get(), v1::ListJobsRequest(), &response).ok());
  clock_.Advance(absl::Hours(2));
  const grpc::Status status =
      stub->ListJobs(Context().get(), v1::ListJobsRequest(), &response);
  EXPECT_EQ(status.error_code(), kUnauthenticated);
  EXPECT_THAT(status.error_message(), HasSubstr("expired"));
  EXPECT_THAT(Refusals(), ElementsAre(HasSubstr("olga2")));
}

// Agents try again after UNAVAILABLE: a coordinator whose clock was behind for
// a while must find them there when it is right again.
TEST_F(AccessTest, ACertificateFromTheFutureIsRefusedForTheTimeBeing) {
  clock_.Advance(absl::Hours(3));
  const Credentials early = Agent("anna");
  clock_.Advance(absl::Hours(-3));
  const grpc::Status status = CheckIn(early);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("valid only from"));
}

TEST_F(AccessTest, TheRevocationListIsReadAgainWhenItChanges) {
  auto stub = AdminStub(operator_);
  v1::ListJobsResponse response;
  ASSERT_TRUE(
      stub->ListJobs(Context().get(), v1::ListJobsRequest(), &response).ok());
  WriteRevocationList({operator_.serial});
  const grpc::Status status =
      stub->ListJobs(Context().get(), v1::ListJobsRequest(), &response);
  EXPECT_EQ(status.error_code(), kUnauthenticated);
  EXPECT_THAT(status.error_message(), HasSubstr("was revoked"));
  EXPECT_THAT(Refusals(), ElementsAre(HasSubstr("was revoked")));
}

TEST_F(AccessTest, RevokingAClientEndsItsWait) {
  const Credentials anna = Agent("anna");
  auto stub = AgentStub(anna);
  grpc::Status waited;
  std::latch ended{1};
  auto context = Context();
  v1::CheckInRequest request;
  v1::CheckInResponse response;
  stub->async()->CheckIn(context.get(), &request, &response,
                         [&](const grpc::Status& status) {
                           waited = status;
                           ended.count_down();
                         });
  // It waits as soon as the loop knows it.
  for (bool connected = false; !connected;) {
    OnLoop([&] { connected = server_->loop().Connected("anna"); });
  }
  v1::RevokeClientRequest revoke;
  revoke.set_name("anna");
  revoke.set_reason("device lost");
  v1::ClientStatus revoked;
  ASSERT_TRUE(AdminStub(operator_)
                  ->RevokeClient(Context().get(), revoke, &revoked)
                  .ok());
  EXPECT_EQ(revoked.state(), "revoked");
  ended.wait();
  EXPECT_EQ(waited.error_code(), kDenied);
  EXPECT_EQ(CheckIn(anna).error_code(), kDenied);
}

std::string DerOf(const std::string& pem) {
  std::vector<std::string> lines = absl::StrSplit(pem, '\n');
  std::string body;
  for (const std::string& line : lines) {
    if (!absl::StartsWith(line, "-----")) body += line;
  }
  std::string der;
  EXPECT_TRUE(absl::Base64Unescape(body, &der));
  return der;
}

// What someone can make of another's certificate: his own secret number beside
// the other's public point, which ends a P-256 key's PKCS#8 form.
std::string ForgedKey(const std::string& own, const std::string& other) {
  constexpr size_t kPointBytes = 65;
  std::string der = DerOf(own);
  const std::string victim = DerOf(other);
  der.replace(der.size() - kPointBytes, kPointBytes, victim,
              victim.size() - kPointBytes, kPointBytes);
  return absl::StrCat("-----BEGIN PRIVATE KEY-----\n", absl::Base64Escape(der),
                      "\n-----END PRIVATE KEY-----\n");
}

TEST_F(AccessTest, AStolenCertificateWithoutItsKeyIsOfNoUse) {
  const Credentials thief = Agent("thief");
  // The forging itself works: the thief's own parts put together again pass.
  Credentials rebuilt = thief;
  rebuilt.key = ForgedKey(thief.key, thief.key);
  ASSERT_EQ(ListJobs(rebuilt).error_code(), kDenied) << "reached the gate";
  Credentials stolen = operator_;
  stolen.key = ForgedKey(thief.key, operator_.key);
  const grpc::Status status = ListJobs(stolen);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE)
      << "the handshake must fail: " << status.error_message();
}

class EnrolmentTest : public AccessTest {
 protected:
  grpc::Status Enroll(const std::string& name, const std::string& token,
                      const crypto::PrivateKey& key,
                      v1::EnrollResponse* response) {
    v1::EnrollRequest request;
    request.set_name(name);
    request.set_token(token);
    request.set_certificate_request_pem(
        *crypto::MakeCertificateRequest(key, name, crypto::Role::kAgent));
    return v1::Coordinator::NewStub(Dial(nullptr))
        ->Enroll(Context().get(), request, response);
  }
  Credentials With(const v1::EnrollResponse& response,
                   const crypto::PrivateKey& key) {
    return {response.certificate_pem(), std::string(key.ToPem()->view()),
            crypto::ParseCertificate(response.certificate_pem())->serial};
  }
};

TEST_F(EnrolmentTest, ATokenMakesAClientOnce) {
  const std::string token = CreateToken();
  const crypto::PrivateKey key = *crypto::PrivateKey::Generate();
  v1::EnrollResponse first;
  grpc::Status status = Enroll("anna", token, key, &first);
  ASSERT_TRUE(status.ok()) << status.error_message();
  const crypto::CertificateInfo info =
      *crypto::ParseCertificate(first.certificate_pem());
  EXPECT_EQ(info.name, "anna");
  EXPECT_EQ(info.role, crypto::Role::kAgent);
  v1::EnrollResponse again;
  ASSERT_TRUE(Enroll("anna", token, key, &again).ok());
  EXPECT_FALSE(again.certificate_pem().empty());
  v1::EnrollResponse none;
  status = Enroll("anna", token, *crypto::PrivateKey::Generate(), &none);
  EXPECT_EQ(status.error_code(), kDenied);
  EXPECT_THAT(status.error_message(), HasSubstr("token was used already"));
  EXPECT_TRUE(none.certificate_pem().empty());
  EXPECT_THAT(Refusals(), ElementsAre(HasSubstr("token was used already")));

  OnLoop([&] { jobs_.plans["anna"].mutable_key()->set_job("j"); });
  ASSERT_TRUE(Submit("j").ok());
  v1::CheckInResponse task;
  EXPECT_TRUE(CheckIn(With(first, key), &task).ok());
  EXPECT_TRUE(task.has_task());
}

TEST_F(EnrolmentTest, ARequestForAnotherNameIsRefused) {
  v1::EnrollRequest request;
  request.set_name("anna");
  request.set_token(CreateToken());
  request.set_certificate_request_pem(*crypto::MakeCertificateRequest(
      *crypto::PrivateKey::Generate(), "berta", crypto::Role::kAgent));
  v1::EnrollResponse response;
  EXPECT_EQ(v1::Coordinator::NewStub(Dial(nullptr))
                ->Enroll(Context().get(), request, &response)
                .error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(EnrolmentTest, SigningCertificatesComeWithEnrolmentAndRenewal) {
  const crypto::PrivateKey key = *crypto::PrivateKey::Generate();
  const crypto::SigningKey signing = *crypto::SigningKey::Generate(random_);
  v1::EnrollRequest request;
  request.set_name("anna");
  request.set_token(CreateToken());
  request.set_certificate_request_pem(
      *crypto::MakeCertificateRequest(key, "anna", crypto::Role::kAgent));
  // Of another name: refused as a whole, and the token is not spent.
  request.set_signing_request_pem(
      *crypto::MakeSigningRequest(signing, "berta"));
  v1::EnrollResponse enrolled;
  auto stub = v1::Coordinator::NewStub(Dial(nullptr));
  EXPECT_EQ(stub->Enroll(Context().get(), request, &enrolled).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  request.set_signing_request_pem(*crypto::MakeSigningRequest(signing, "anna"));
  const grpc::Status status = stub->Enroll(Context().get(), request, &enrolled);
  ASSERT_TRUE(status.ok()) << status.error_message();
  const auto verifier =
      crypto::SigningCertificateVerifier::Create(ca_.certificate_pem());
  const auto info = verifier->Check(
      *crypto::CertificateDer(enrolled.signing_certificate_pem()));
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->name, "anna");
  EXPECT_EQ(info->public_key, *signing.PublicKey());
  // It opens no connection.
  EXPECT_FALSE(CheckIn({enrolled.signing_certificate_pem(),
                        std::string(signing.ToPem()->view()), info->serial})
                   .ok());

  // An agent from before asks for one alone.
  clock_.Advance(absl::Hours(1));
  const crypto::SigningKey next = *crypto::SigningKey::Generate(random_);
  v1::RenewCertificateRequest renewal;
  renewal.set_signing_request_pem(*crypto::MakeSigningRequest(next, "anna"));
  v1::RenewCertificateResponse renewed;
  auto anna = AgentStub(With(enrolled, key));
  ASSERT_TRUE(anna->RenewCertificate(Context().get(), renewal, &renewed).ok());
  EXPECT_TRUE(renewed.certificate_pem().empty());
  const std::string first = renewed.signing_certificate_pem();
  ASSERT_TRUE(anna->RenewCertificate(Context().get(), renewal, &renewed).ok());
  EXPECT_EQ(renewed.signing_certificate_pem(), first);  // asked twice
  renewal.set_signing_request_pem(*crypto::MakeSigningRequest(signing, "anna"));
  EXPECT_EQ(
      anna->RenewCertificate(Context().get(), renewal, &renewed).error_code(),
      grpc::StatusCode::RESOURCE_EXHAUSTED);
  renewal.set_signing_request_pem(
      *crypto::MakeSigningRequest(signing, "berta"));
  EXPECT_EQ(
      anna->RenewCertificate(Context().get(), renewal, &renewed).error_code(),
      grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(EnrolmentTest, OversizedRequestsAreRefused) {
  v1::EnrollRequest request;
  request.set_token(std::string(100000, 'x'));
  v1::EnrollResponse response;
  auto stub = v1::Coordinator::NewStub(Dial(nullptr));
  EXPECT_EQ(stub->Enroll(Context().get(), request, &response).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(Refusals(), ElementsAre(HasSubstr("at most 65536")));
  // However large; it is the same refusal within a minute.
  request.set_token(std::string(8 << 20, 'x'));
  const grpc::Status refused =
      stub->Enroll(Context().get(), request, &response);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.error_message(), HasSubstr("at most 65536"));
  EXPECT_EQ(Refusals().size(), 1u);
}

TEST_F(EnrolmentTest, RenewalGivesANewCertificateForANewKey) {
  const crypto::PrivateKey key = *crypto::PrivateKey::Generate();
  v1::EnrollResponse enrolled;
  ASSERT_TRUE(Enroll("anna", CreateToken(), key, &enrolled).ok());
  clock_.Advance(absl::Hours(1));
  const crypto::PrivateKey new_key = *crypto::PrivateKey::Generate();
  v1::RenewCertificateRequest request;
  request.set_certificate_request_pem(*crypto::MakeCertificateRequest(
      new_key, "anna", crypto::Role::kOperator));
  v1::RenewCertificateResponse renewed;
  const grpc::Status status =
      AgentStub(With(enrolled, key))
          ->RenewCertificate(Context().get(), request, &renewed);
  ASSERT_TRUE(status.ok()) << status.error_message();
  const crypto::CertificateInfo info =
      *crypto::ParseCertificate(renewed.certificate_pem());
  EXPECT_EQ(info.public_key_sha256, *new_key.PublicKeySha256());
  EXPECT_EQ(info.role, crypto::Role::kAgent) << "not what the request asks";
  // A request for another name is not a renewal.
  request.set_certificate_request_pem(
      *crypto::MakeCertificateRequest(new_key, "berta", crypto::Role::kAgent));
  EXPECT_EQ(AgentStub(With(enrolled, key))
                ->RenewCertificate(Context().get(), request, &renewed)
                .error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(EnrolmentTest, StateSurvivesARestart) {
  const std::string spent = CreateToken();
  const std::string fresh = CreateToken();
  const crypto::PrivateKey key = *crypto::PrivateKey::Generate();
  v1::EnrollResponse response;
  ASSERT_TRUE(Enroll("anna", spent, key, &response).ok());
  StopServer();
  StartServer();
  EXPECT_EQ(Enroll("berta", spent, *crypto::PrivateKey::Generate(), &response)
                .error_code(),
            kDenied);
  EXPECT_TRUE(
      Enroll("berta", fresh, *crypto::PrivateKey::Generate(), &response).ok());
}

class ApprovalTest : public EnrolmentTest {
 protected:
  void SetUp() override {
    require_approval_ = true;
    StartServer();
  }
};

TEST_F(ApprovalTest, ANewClientWaitsForAnOperator) {
  const std::string token = CreateToken();
  const crypto::PrivateKey key = *crypto::PrivateKey::Generate();
  v1::EnrollResponse response;
  ASSERT_TRUE(Enroll("anna", token, key, &response).ok());
  EXPECT_TRUE(response.pending_approval());
  EXPECT_TRUE(response.certificate_pem().empty());
  v1::ApproveClientRequest approve;
  approve.set_name("anna");
  v1::ClientStatus status;
  ASSERT_TRUE(AdminStub(operator_)
                  ->ApproveClient(Context().get(), approve, &status)
                  .ok());
  EXPECT_EQ(status.state(), "enrolled");
  v1::EnrollResponse approved;
  ASSERT_TRUE(Enroll("anna", token, key, &approved).ok());
  EXPECT_FALSE(approved.certificate_pem().empty());
}

}  // namespace
}  // namespace choir::rpc
