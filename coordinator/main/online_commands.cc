#include "coordinator/main/online_commands.h"

#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/scoped_fd.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "coordinator/main/job_json.h"
#include "coordinator/rpc/grpc_status.h"
#include "model/adapter/peft_folder.h"
#include "privacy/crypto/identity.h"
#include "proto/config/job_options.h"
#include "proto/config/toml_config.h"

namespace choir::coordinator {
namespace {

constexpr uint64_t kMaxPemBytes = 1u << 20;
constexpr int kMaxMessageBytes = 64 << 20;

void SetDeadline(grpc::ClientContext& context, int seconds = 30) {
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::seconds(seconds));
}

}  // namespace

AdminClient::AdminClient(std::unique_ptr<v1::Admin::Stub> stub,
                         std::string coordinator)
    : stub_(std::move(stub)), coordinator_(std::move(coordinator)) {}

absl::StatusOr<AdminClient> AdminClient::Create(const DialOptions& options) {
  if (!absl::StrContains(options.coordinator, ':')) {
    return absl::InvalidArgumentError(absl::StrCat("--coordinator is \"",
                                                   options.coordinator,
                                                   "\"; it must be host:port"));
  }
  grpc::SslCredentialsOptions tls;
  CHOIR_ASSIGN_OR_RETURN(tls.pem_root_certs,
                         base::ReadFile(options.ca_certificate, kMaxPemBytes));
  CHOIR_ASSIGN_OR_RETURN(tls.pem_cert_chain,
                         base::ReadFile(options.certificate, kMaxPemBytes));
  CHOIR_ASSIGN_OR_RETURN(const crypto::PrivateKey key,
                         crypto::PrivateKey::ReadFile(options.private_key));
  CHOIR_ASSIGN_OR_RETURN(const crypto::SecretString pem, key.ToPem());
  tls.pem_private_key = std::string(pem.view());
  CHOIR_ASSIGN_OR_RETURN(const crypto::CertificateInfo own,
                         crypto::ParseCertificate(tls.pem_cert_chain));
  CHOIR_ASSIGN_OR_RETURN(const std::string public_key, key.PublicKeySha256());
  if (own.public_key_sha256 != public_key) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.private_key, " (--key) is not the private key of ",
                     options.certificate, " (--cert)"));
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  if (!options.server_name.empty()) {
    arguments.SetSslTargetNameOverride(options.server_name);
  }
  std::shared_ptr<grpc::Channel> channel = grpc::CreateCustomChannel(
      options.coordinator, grpc::SslCredentials(tls), arguments);
  crypto::Wipe(tls.pem_private_key);
  return AdminClient(v1::Admin::NewStub(channel), options.coordinator);
}

absl::Status AdminClient::Check(const grpc::Status& status) const {
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE) {
    const std::string& why = status.error_message();
    return absl::UnavailableError(absl::StrCat(
        "coordinator ", coordinator_, ": ", why,
        absl::StrContains(why, "certificate verify failed")
            ? "; its certificate is not of the CA in --ca, or has expired, or "
              "the clock here is wrong"
            : ""));
  }
  return rpc::FromGrpc(status);
}

absl::StatusOr<nlohmann::json> AdminClient::CreateToken(
    const std::string& client, const std::string& valid) {
  v1::CreateTokenRequest request;
  request.set_client_name(client);
  if (!valid.empty()) {
    CHOIR_ASSIGN_OR_RETURN(const absl::Duration duration,
                           config::ParsePositiveDuration(valid, "--valid"));
    if (duration < absl::Seconds(1)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--valid is ", valid, "; it must be at least 1s"));
    }
    request.set_valid_seconds(
        static_cast<uint64_t>(absl::ToInt64Seconds(duration)));
  }
  grpc::ClientContext context;
  SetDeadline(context);
  v1::CreateTokenResponse response;
  CHOIR_RETURN_IF_ERROR(
      Check(stub_->CreateToken(&context, request, &response)));
  return nlohmann::json{
      {"token", response.token()},
      {"expires_unix_seconds", response.expires_unix_seconds()}};
}

absl::StatusOr<nlohmann::json> AdminClient::SubmitJob(
    const std::string& path, const std::vector<std::string>& overrides) {
  // The same file may describe a simulation too; only its job is sent.
  v1::ExperimentConfig file;
  if (const absl::Status read = config::LoadTomlFile(path, overrides, &file);
      !read.ok()) {
    return absl::InvalidArgumentError(read.message());  // exit code 2
  }
  CHOIR_RETURN_IF_ERROR(config::ResolveJob(file.job()).status());
  v1::SubmitJobRequest request;
  *request.mutable_job() = file.job();
  grpc::ClientContext context;
  SetDeadline(context);
  v1::SubmitJobResponse response;
  CHOIR_RETURN_IF_ERROR(Check(stub_->SubmitJob(&context, request, &response)));
  nlohmann::json json = {{"job", response.job()},
                         {"queue_position", response.queue_position()}};
  if (!response.warning().empty()) json["warning"] = response.warning();
  return json;
}

absl::StatusOr<nlohmann::json> AdminClient::ListJobs() {
  grpc::ClientContext context;
  SetDeadline(context);
  v1::ListJobsResponse response;
  CHOIR_RETURN_IF_ERROR(
      Check(stub_->ListJobs(&context, v1::ListJobsRequest(), &response)));
  nlohmann::json jobs = nlohmann::json::array();
  for (const v1::JobStatus& job : response.jobs()) jobs.push_back(JobJson(job));
  return nlohmann::json{{"jobs", jobs}};
}

absl::StatusOr<nlohmann::json> AdminClient::ShowJob(const std::string& job) {
  grpc::ClientContext context;
  SetDeadline(context);
  v1::ShowJobRequest request;
  request.set_job(job);
  v1::JobStatus response;
  CHOIR_RETURN_IF_ERROR(Check(stub_->ShowJob(&context, request, &response)));
  return JobJson(response);
}

absl::StatusOr<nlohmann::json> AdminClient::StopJob(const std::string& job) {
  grpc::ClientContext context;
  SetDeadline(context);
  v1::StopJobRequest request;
  request.set_job(job);
  v1::JobStatus response;
  CHOIR_RETURN_IF_ERROR(Check(stub_->StopJob(&context, request, &response)));
  return JobJson(response);
}

absl::StatusOr<nlohmann::json> AdminClient::ListClients() {
  grpc::ClientContext context;
  SetDeadline(context);
  v1::ListClientsResponse response;
  CHOIR_RETURN_IF_ERROR(
      Check(stub_->ListClients(&context, v1::ListClientsRequest(), &response)));
  nlohmann::json clients = nlohmann::json::array();
  for (const v1::ClientStatus& client : response.clients()) {
    clients.push_back(ClientJson(client));
  }
  return nlohmann::json{{"clients", clients}};
}

absl::StatusOr<nlohmann::json> AdminClient::ApproveClient(
    const std::string& name) {
  grpc::ClientContext context;
  SetDeadline(context);
  v1::ApproveClientRequest request;
  request.set_name(name);
  v1::ClientStatus response;
  CHOIR_RETURN_IF_ERROR(
      Check(stub_->ApproveClient(&context, request, &response)));
  return ClientJson(response);
}

absl::StatusOr<nlohmann::json> AdminClient::RevokeClient(
    const std::string& name, const std::string& reason) {
  grpc::ClientContext context;
  SetDeadline(context);
  v1::RevokeClientRequest request;
  request.set_name(name);
  request.set_reason(reason);
  v1::ClientStatus response;
  CHOIR_RETURN_IF_ERROR(
      Check(stub_->RevokeClient(&context, request, &response)));
  return ClientJson(response);
}

absl::Status AdminClient::PullFile(const v1::ModelFile& file,
                                   const std::string& out) {
  const std::string path = base::JoinPath(out, file.name());
  const std::string part = absl::StrCat(path, ".part");
  base::ScopedFd fd(
      ::open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!fd.is_open()) {
    return base::ErrnoStatus(errno, absl::StrCat("create ", part));
  }
  grpc::ClientContext context;
  SetDeadline(context, 24 * 3600);
  v1::DownloadRequest request;
  request.set_digest(file.blob().digest());
  auto reader = stub_->Download(&context, request);
  base::Sha256 digest;
  uint64_t received = 0;
  absl::Status status;
  v1::DownloadChunk chunk;
  while (status.ok() && reader->Read(&chunk)) {
    digest.Update(absl::string_view(chunk.data()));
    status = base::WriteAllAt(fd.get(), received, chunk.data(), part);
    received += chunk.data().size();
  }
  if (!status.ok()) context.TryCancel();
  const grpc::Status finished = reader->Finish();
  if (status.ok()) status = Check(finished);
  if (status.ok()) status = fd.Close(part);
  if (status.ok() && base::ToHex(digest.Finish()) != file.blob().digest()) {
    status = absl::DataLossError(
        absl::StrCat(file.name(), " arrived damaged; pull again"));
  }
  if (status.ok() && std::rename(part.c_str(), path.c_str()) != 0) {
    status = base::ErrnoStatus(errno, absl::StrCat("rename ", part));
  }
  if (!status.ok()) ::unlink(part.c_str());
  return status;
}

absl::StatusOr<nlohmann::json> AdminClient::PullModel(const std::string& job,
                                                      int version,
                                                      const std::string& out) {
  grpc::ClientContext context;
  SetDeadline(context);
  v1::GetModelRequest request;
  request.set_job(job);
  request.set_version(version);
  v1::GetModelResponse response;
  CHOIR_RETURN_IF_ERROR(Check(stub_->GetModel(&context, request, &response)));
  CHOIR_RETURN_IF_ERROR(base::MakeDirectories(out));
  nlohmann::json files = nlohmann::json::array();
  for (const v1::ModelFile& file : response.files()) {
    if (!config::IsValidName(file.name())) {
      return absl::InvalidArgumentError(
          "the coordinator sent a file name that is none");
    }
    CHOIR_RETURN_IF_ERROR(PullFile(file, out));
    files.push_back(
        {{"name", file.name()},
         {"size", file.blob().size()},
         {"digest", absl::StrCat("sha256:", file.blob().digest())}});
  }
  // An A that stayed frozen is not sent but drawn.
  CHOIR_RETURN_IF_ERROR(model::CompletePeftFolder(out));
  return nlohmann::json{{"job", response.job()},
                        {"version", response.version()},
                        {"out", out},
                        {"files", files}};
}

}  // namespace choir::coordinator
