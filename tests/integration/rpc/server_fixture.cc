#include "tests/integration/rpc/server_fixture.h"

#include <cstdlib>
#include <filesystem>
#include <latch>

#include "absl/strings/str_cat.h"
#include "base/files.h"

namespace choir::rpc {
namespace {

std::string TempFolder() {
  std::string path = testing::TempDir() + "choir-rpc-XXXXXX";
  return ::mkdtemp(path.data());
}

}  // namespace

ServerTest::ServerTest()
    : folder_(TempFolder()),
      // TLS libraries look at the wall clock for the server's certificate.
      clock_(absl::Now()),
      ca_(*crypto::CertificateAuthority::Create("Test CA", absl::Hours(1000),
                                                clock_.Now(), random_)),
      coordinator_(Issue(ca_, "server", crypto::Role::kCoordinator)),
      operator_(Issue(ca_, "olga", crypto::Role::kOperator)) {
  WriteRevocationList({});
  jobs_.response.set_verdict(v1::ReportResponse::ACCEPTED);
}

ServerTest::~ServerTest() {
  StopServer();
  std::filesystem::remove_all(folder_);
}

void ServerTest::StartServer() {
  auto store = store::Store::Open(folder_ + "/store",
                                  base::Durability::kProcessCrash, clock_);
  ASSERT_TRUE(store.ok()) << store.status();
  store_ = *std::move(store);
  ServerOptions options;
  options.ca_certificate_pem = ca_.certificate_pem();
  options.certificate_pem = coordinator_.certificate;
  options.private_key_pem = crypto::SecretString(std::string(coordinator_.key));
  options.crl_path = folder_ + "/crl.pem";
  options.enrolment.authority.emplace(*crypto::CertificateAuthority::FromPem(
      ca_.certificate_pem(),
      *crypto::PrivateKey::FromPem(ca_.key().ToPem()->view())));
  options.enrolment.require_approval = require_approval_;
  options.transfers.max_update_bytes = 64u << 20;
  options.transfers.chunk_bytes = 256u << 10;
  options.loop.make_runner = [this](const config::JobOptions& job,
                                    runner::RunnerHooks hooks)
      -> absl::StatusOr<std::unique_ptr<runner::JobRunner>> {
    const auto cannot = jobs_.cannot_start.find(job.name);
    if (cannot != jobs_.cannot_start.end()) return cannot->second;
    return std::make_unique<FakeRunner>(job, std::move(hooks), *store_, jobs_);
  };
  auto server =
      CoordinatorServer::Start(std::move(options), *store_, clock_, random_);
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
}

void ServerTest::StopServer() {
  if (server_ != nullptr) server_->Shutdown(absl::ZeroDuration());
  server_.reset();
  if (store_ != nullptr) {
    EXPECT_TRUE(store_->Close().ok());
  }
  store_.reset();
}

Credentials ServerTest::Issue(const crypto::CertificateAuthority& ca,
                              const std::string& name, crypto::Role role,
                              absl::Duration lifetime) {
  const crypto::PrivateKey key = *crypto::PrivateKey::Generate();
  crypto::IssueOptions issue;
  issue.name = name;
  issue.role = role;
  issue.lifetime = lifetime;
  if (role == crypto::Role::kCoordinator) {
    issue.hosts = {"localhost", "127.0.0.1"};
  }
  Credentials out;
  out.certificate = *ca.Issue(*crypto::MakeCertificateRequest(key, name, role),
                              issue, clock_.Now(), random_);
  out.key = std::string(key.ToPem()->view());
  out.serial = crypto::ParseCertificate(out.certificate)->serial;
  return out;
}

std::shared_ptr<grpc::Channel> ServerTest::Dial(const Credentials* who) {
  grpc::SslCredentialsOptions tls;
  tls.pem_root_certs = ca_.certificate_pem();
  if (who != nullptr) {
    tls.pem_cert_chain = who->certificate;
    tls.pem_private_key = who->key;
  }
  grpc::ChannelArguments arguments;
  // Channels to the same address would share a connection, and so an identity.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // Flow-control windows of a fixed size: those that are probed grow with the
  // machine's load, to 16 MiB and more for each call.
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  return grpc::CreateCustomChannel(absl::StrCat("localhost:", server_->port()),
                                   grpc::SslCredentials(tls), arguments);
}

std::unique_ptr<grpc::ClientContext> ServerTest::Context() {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(std::chrono::system_clock::now() +
                        std::chrono::seconds(30));
  return context;
}

grpc::Status ServerTest::CheckIn(const Credentials& who,
                                 v1::CheckInResponse* response) {
  v1::CheckInResponse ignored;
  return AgentStub(who)->CheckIn(Context().get(), v1::CheckInRequest(),
                                 response == nullptr ? &ignored : response);
}

grpc::Status ServerTest::ListJobs(const Credentials& who) {
  v1::ListJobsResponse response;
  return AdminStub(who)->ListJobs(Context().get(), v1::ListJobsRequest(),
                                  &response);
}

std::string ServerTest::CreateToken(const std::string& client) {
  v1::CreateTokenRequest request;
  request.set_client_name(client);
  v1::CreateTokenResponse response;
  const grpc::Status status =
      AdminStub(operator_)->CreateToken(Context().get(), request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response.token();
}

grpc::Status ServerTest::Submit(const std::string& name) {
  v1::SubmitJobRequest request;
  request.mutable_job()->set_name(name);
  request.mutable_job()->mutable_model()->set_base("/models/none");
  request.mutable_job()->mutable_rounds()->set_count(1);
  request.mutable_job()->mutable_rounds()->set_cohort_size(1);
  v1::SubmitJobResponse response;
  return AdminStub(operator_)->SubmitJob(Context().get(), request, &response);
}

void ServerTest::OnLoop(std::function<void()> work) {
  std::latch done{1};
  ASSERT_TRUE(server_->loop().Post([&] {
    work();
    done.count_down();
  }));
  done.wait();
}

std::vector<std::string> ServerTest::Refusals() {
  OnLoop([] {});
  std::vector<std::string> out;
  EXPECT_TRUE(store_->journal()
                  .ForEach([&out](const store::JournalEntry& entry) {
                    if (entry.record.has_peer_refused()) {
                      const v1::PeerRefused& r = entry.record.peer_refused();
                      out.push_back(absl::StrCat(r.peer(), " ", r.method(), " ",
                                                 r.reason()));
                    }
                    return absl::OkStatus();
                  })
                  .ok());
  return out;
}

void ServerTest::WriteRevocationList(const std::vector<std::string>& serials) {
  std::vector<crypto::RevokedSerial> revoked;
  for (const std::string& serial : serials) {
    revoked.push_back({serial, clock_.Now()});
  }
  const std::string pem = *ca_.SignRevocationList(revoked, clock_.Now());
  ASSERT_TRUE(base::WriteFileAtomic(folder_ + "/crl.pem", pem,
                                    base::Durability::kProcessCrash)
                  .ok());
}

v1::TaskKey ServerTest::GiveTask(const Credentials& who,
                                 const std::string& client,
                                 const std::vector<v1::BlobRef>& blobs) {
  v1::TaskPlan plan;
  plan.mutable_key()->set_job("j");
  plan.mutable_key()->set_round(1);
  plan.mutable_key()->set_attempt(1);
  plan.mutable_key()->set_kind(v1::TASK_KIND_TRAIN);
  for (const v1::BlobRef& blob : blobs) {
    *plan.add_base_model()->mutable_blob() = blob;
  }
  OnLoop([&] { jobs_.plans[client] = plan; });
  const grpc::Status submitted = Submit("j");
  EXPECT_TRUE(submitted.ok() ||
              submitted.error_code() == grpc::StatusCode::ALREADY_EXISTS)
      << submitted.error_message();
  v1::CheckInResponse response;
  const grpc::Status status = CheckIn(who, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_TRUE(response.has_task());
  return plan.key();
}

}  // namespace choir::rpc
