#include "coordinator/rpc/admin_service.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "choir/v1/admin.grpc.pb.h"
#include "coordinator/rpc/call.h"
#include "coordinator/rpc/refusal_log.h"
#include "coordinator/rpc/transfers.h"

namespace choir::rpc {
namespace {

constexpr uint64_t kDefaultTokenSeconds = 24 * 3600;
constexpr uint64_t kMostTokenSeconds = 366ull * 24 * 3600;

// `work(operator's name, request, response)` runs on the loop.
template <typename Request, typename Response, typename Work>
void AddOnLoop(Front& front, JobLoop& loop, const std::string& name,
               Work work) {
  front.AddUnary<Request, Response>(
      absl::StrCat("/choir.v1.Admin/", name),
      {Access::kOperators, kMaxAdminBytes, ""},
      [&loop, work = std::move(work)](const CallPtr<Request, Response>& call) {
        AnswerFromLoop(call, loop, [&work, &call = *call]() -> absl::Status {
          return work(call.peer().name, call.request(), call.response());
        });
      });
}

}  // namespace

AdminService::AdminService(JobLoop& loop, registry::Registry& registry,
                           const JobTable& jobs, const store::BlobStore& blobs,
                           const base::Clock& clock, base::SecureRandom& random,
                           uint64_t chunk_bytes)
    : loop_(loop),
      registry_(registry),
      jobs_(jobs),
      blobs_(blobs),
      clock_(clock),
      random_(random),
      chunk_bytes_(chunk_bytes) {}

void AdminService::AddTo(Front& front) {
  AddJobMethods(front);
  AddClientMethods(front);
  AddDownload(
      front, "/choir.v1.Admin/Download",
      {Access::kOperators, kMaxUnaryBytes, ""}, blobs_, chunk_bytes_,
      [this](const PeerIdentity&, const std::string& digest) -> absl::Status {
        if (jobs_.IsModelBlob(digest)) return absl::OkStatus();
        return absl::NotFoundError(
            "no model of this coordinator has this blob");
      });
}

void AdminService::AddJobMethods(Front& front) {
  AddOnLoop<v1::SubmitJobRequest, v1::SubmitJobResponse>(
      front, loop_, "SubmitJob",
      [this](const std::string& by, const v1::SubmitJobRequest& request,
             v1::SubmitJobResponse* response) -> absl::Status {
        CHOIR_ASSIGN_OR_RETURN(*response, loop_.Submit(request.job(), by));
        return absl::OkStatus();
      });
  AddOnLoop<v1::ListJobsRequest, v1::ListJobsResponse>(
      front, loop_, "ListJobs",
      [this](const std::string&, const v1::ListJobsRequest&,
             v1::ListJobsResponse* response) { return ListJobs(response); });
  AddOnLoop<v1::ShowJobRequest, v1::JobStatus>(
      front, loop_, "ShowJob",
      [this](const std::string&, const v1::ShowJobRequest& request,
             v1::JobStatus* response) -> absl::Status {
        CHOIR_ASSIGN_OR_RETURN(*response, loop_.Status(request.job()));
        return absl::OkStatus();
      });
  AddOnLoop<v1::StopJobRequest, v1::JobStatus>(
      front, loop_, "StopJob",
      [this](const std::string& by, const v1::StopJobRequest& request,
             v1::JobStatus* response) -> absl::Status {
        CHOIR_ASSIGN_OR_RETURN(*response, loop_.StopJob(request.job(), by));
        return absl::OkStatus();
      });
  AddOnLoop<v1::GetModelRequest, v1::GetModelResponse>(
      front, loop_, "GetModel",
      [this](const std::string&, const v1::GetModelRequest& request,
             v1::GetModelResponse* response) -> absl::Status {
        CHOIR_ASSIGN_OR_RETURN(*response,
                               jobs_.Model(request.job(), request.version()));
        return absl::OkStatus();
      });
}

void AdminService::AddClientMethods(Front& front) {
  AddOnLoop<v1::CreateTokenRequest, v1::CreateTokenResponse>(
      front, loop_, "CreateToken",
      [this](const auto& by, const auto& request, auto* response) {
        return CreateToken(by, request, response);
      });
  AddOnLoop<v1::ListClientsRequest, v1::ListClientsResponse>(
      front, loop_, "ListClients",
      [this](const auto&, const auto&, auto* response) {
        return ListClients(response);
      });
  AddOnLoop<v1::ApproveClientRequest, v1::ClientStatus>(
      front, loop_, "ApproveClient",
      [this](const auto& by, const auto& request, auto* response) {
        return ApproveClient(by, request, response);
      });
  AddOnLoop<v1::RevokeClientRequest, v1::ClientStatus>(
      front, loop_, "RevokeClient",
      [this](const auto& by, const auto& request, auto* response) {
        return RevokeClient(by, request, response);
      });
}

absl::Status AdminService::CreateToken(const std::string& by,
                                       const v1::CreateTokenRequest& request,
                                       v1::CreateTokenResponse* response) {
  const uint64_t seconds = request.valid_seconds() == 0
                               ? kDefaultTokenSeconds
                               : request.valid_seconds();
  CHOIR_ASSIGN_OR_RETURN(
      registry::NewToken token,
      registry_.CreateToken(
          request.client_name(),
          absl::Seconds(std::min(seconds, kMostTokenSeconds + 1)), by,
          clock_.Now(), random_));
  CHOIR_RETURN_IF_ERROR(loop_.Record({token.record}));
  response->set_token(std::move(token.token));
  response->set_expires_unix_seconds(absl::ToUnixSeconds(token.expires));
  return absl::OkStatus();
}

absl::Status AdminService::ListJobs(v1::ListJobsResponse* response) {
  for (v1::JobStatus& job : jobs_.All()) {
    CHOIR_ASSIGN_OR_RETURN(v1::JobStatus live, loop_.Status(job.job()));
    live.clear_config();
    *response->add_jobs() = std::move(live);
  }
  return absl::OkStatus();
}

v1::ClientStatus AdminService::StatusOf(const registry::Client& client) const {
  v1::ClientStatus status;
  status.set_name(client.name);
  status.set_state(std::string(registry::StateName(client.state)));
  status.set_certificate_serial(client.serial);
  if (client.certificate_expires != absl::InfinitePast()) {
    status.set_certificate_expires_unix_seconds(
        absl::ToUnixSeconds(client.certificate_expires));
  }
  status.set_connected(loop_.Connected(client.name));
  *status.mutable_capabilities() = loop_.CapabilitiesOf(client.name);
  return status;
}

absl::Status AdminService::ListClients(v1::ListClientsResponse* response) {
  for (const registry::Client& client : registry_.clients()) {
    *response->add_clients() = StatusOf(client);
  }
  // Those with a certificate made by `choir-admin ca issue`.
  for (const std::string& name : loop_.ConnectedClients()) {
    if (registry_.client(name).ok()) continue;
    registry::Client client;
    client.name = name;
    client.state = registry::ClientState::kEnrolled;
    *response->add_clients() = StatusOf(client);
  }
  return absl::OkStatus();
}

absl::Status AdminService::ApproveClient(
    const std::string& by, const v1::ApproveClientRequest& request,
    v1::ClientStatus* response) {
  CHOIR_ASSIGN_OR_RETURN(const std::vector<v1::JournalRecord> records,
                         registry_.Approve(request.name(), by));
  CHOIR_RETURN_IF_ERROR(loop_.Record(records));
  CHOIR_ASSIGN_OR_RETURN(const registry::Client client,
                         registry_.client(request.name()));
  *response = StatusOf(client);
  return absl::OkStatus();
}

absl::Status AdminService::RevokeClient(const std::string& by,
                                        const v1::RevokeClientRequest& request,
                                        v1::ClientStatus* response) {
  CHOIR_ASSIGN_OR_RETURN(
      const std::vector<v1::JournalRecord> records,
      registry_.Revoke(request.name(), PrintableText(request.reason()), by));
  CHOIR_RETURN_IF_ERROR(loop_.Record(records));
  CHOIR_ASSIGN_OR_RETURN(const registry::Client client,
                         registry_.client(request.name()));
  loop_.Dismiss(client.name, absl::PermissionDeniedError(absl::StrCat(
                                 "client \"", client.name, "\" was revoked")));
  *response = StatusOf(client);
  return absl::OkStatus();
}

}  // namespace choir::rpc
