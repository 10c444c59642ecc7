#include "coordinator/rpc/admin_service.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "coordinator/rpc/call.h"
#include "coordinator/rpc/refusal_log.h"
#include "coordinator/rpc/transfers.h"

namespace choir::rpc {
namespace {

constexpr uint64_t kDefaultTokenSeconds = 24 * 3600;
constexpr uint64_t kMostTokenSeconds = 366ull * 24 * 3600;

}  // namespace

AdminService::AdminService(Gate& gate, JobLoop& loop,
                           registry::Registry& registry, const JobTable& jobs,
                           const store::BlobStore& blobs,
                           const base::Clock& clock,
                           base::SecureRandom& random, uint64_t chunk_bytes)
    : gate_(gate),
      loop_(loop),
      registry_(registry),
      jobs_(jobs),
      blobs_(blobs),
      clock_(clock),
      random_(random),
      chunk_bytes_(chunk_bytes) {}

template <typename Request, typename Work>
grpc::ServerUnaryReactor* AdminService::Serve(
    grpc::CallbackServerContext* context, absl::string_view method,
    const Request& request, Work work) {
  absl::StatusOr<PeerIdentity> peer = Admit(
      gate_, *context, method, Access::kOperators, request, kMaxAdminBytes);
  if (!peer.ok()) return AnswerNow(context, peer.status());
  return AnswerFromLoop(context, loop_,
                        [work = std::move(work), by = peer->name]() mutable
                        -> absl::Status { return work(by); });
}

grpc::ServerUnaryReactor* AdminService::CreateToken(
    grpc::CallbackServerContext* context,
    const v1::CreateTokenRequest* request, v1::CreateTokenResponse* response) {
  return Serve(
      context, "/choir.v1.Admin/CreateToken", *request,
      [this, request, response](const std::string& by) -> absl::Status {
        const uint64_t seconds = request->valid_seconds() == 0
                                     ? kDefaultTokenSeconds
                                     : request->valid_seconds();
        CHOIR_ASSIGN_OR_RETURN(
            registry::NewToken token,
            registry_.CreateToken(
                request->client_name(),
                absl::Seconds(std::min(seconds, kMostTokenSeconds + 1)), by,
                clock_.Now(), random_));
        CHOIR_RETURN_IF_ERROR(loop_.Record({token.record}));
        response->set_token(std::move(token.token));
        response->set_expires_unix_seconds(
            absl::ToUnixSeconds(token.expires));
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* AdminService::SubmitJob(
    grpc::CallbackServerContext* context, const v1::SubmitJobRequest* request,
    v1::SubmitJobResponse* response) {
  return Serve(
      context, "/choir.v1.Admin/SubmitJob", *request,
      [this, request, response](const std::string& by) -> absl::Status {
        CHOIR_ASSIGN_OR_RETURN(*response, loop_.Submit(request->job(), by));
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* AdminService::ListJobs(
    grpc::CallbackServerContext* context, const v1::ListJobsRequest* request,
    v1::ListJobsResponse* response) {
  return Serve(context, "/choir.v1.Admin/ListJobs", *request,
               [this, response](const std::string&) -> absl::Status {
                 for (v1::JobStatus& job : jobs_.All()) {
                   CHOIR_ASSIGN_OR_RETURN(v1::JobStatus live,
                                          loop_.Status(job.job()));
                   live.clear_config();
                   *response->add_jobs() = std::move(live);
                 }
                 return absl::OkStatus();
               });
}

grpc::ServerUnaryReactor* AdminService::ShowJob(
    grpc::CallbackServerContext* context, const v1::ShowJobRequest* request,
    v1::JobStatus* response) {
  return Serve(context, "/choir.v1.Admin/ShowJob", *request,
               [this, request, response](const std::string&) -> absl::Status {
                 CHOIR_ASSIGN_OR_RETURN(*response,
                                        loop_.Status(request->job()));
                 return absl::OkStatus();
               });
}

grpc::ServerUnaryReactor* AdminService::StopJob(
    grpc::CallbackServerContext* context, const v1::StopJobRequest* request,
    v1::JobStatus* response) {
  return Serve(
      context, "/choir.v1.Admin/StopJob", *request,
      [this, request, response](const std::string& by) -> absl::Status {
        CHOIR_ASSIGN_OR_RETURN(*response, loop_.StopJob(request->job(), by));
        return absl::OkStatus();
      });
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

grpc::ServerUnaryReactor* AdminService::ListClients(
    grpc::CallbackServerContext* context,
    const v1::ListClientsRequest* request, v1::ListClientsResponse* response) {
  return Serve(
      context, "/choir.v1.Admin/ListClients", *request,
      [this, response](const std::string&) -> absl::Status {
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
      });
}

grpc::ServerUnaryReactor* AdminService::ApproveClient(
    grpc::CallbackServerContext* context,
    const v1::ApproveClientRequest* request, v1::ClientStatus* response) {
  return Serve(
      context, "/choir.v1.Admin/ApproveClient", *request,
      [this, request, response](const std::string& by) -> absl::Status {
        CHOIR_ASSIGN_OR_RETURN(const std::vector<v1::JournalRecord> records,
                               registry_.Approve(request->name(), by));
        CHOIR_RETURN_IF_ERROR(loop_.Record(records));
        CHOIR_ASSIGN_OR_RETURN(const registry::Client client,
                               registry_.client(request->name()));
        *response = StatusOf(client);
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* AdminService::RevokeClient(
    grpc::CallbackServerContext* context,
    const v1::RevokeClientRequest* request, v1::ClientStatus* response) {
  return Serve(
      context, "/choir.v1.Admin/RevokeClient", *request,
      [this, request, response](const std::string& by) -> absl::Status {
        CHOIR_ASSIGN_OR_RETURN(
            const std::vector<v1::JournalRecord> records,
            registry_.Revoke(request->name(), PrintableText(request->reason()),
                             by));
        CHOIR_RETURN_IF_ERROR(loop_.Record(records));
        CHOIR_ASSIGN_OR_RETURN(const registry::Client client,
                               registry_.client(request->name()));
        loop_.Dismiss(client.name, absl::PermissionDeniedError(absl::StrCat(
                                       "client \"", client.name,
                                       "\" was revoked")));
        *response = StatusOf(client);
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* AdminService::GetModel(
    grpc::CallbackServerContext* context, const v1::GetModelRequest* request,
    v1::GetModelResponse* response) {
  return Serve(
      context, "/choir.v1.Admin/GetModel", *request,
      [this, request, response](const std::string&) -> absl::Status {
        CHOIR_ASSIGN_OR_RETURN(
            *response, jobs_.Model(request->job(), request->version()));
        return absl::OkStatus();
      });
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* AdminService::Download(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  const v1::DownloadRequest parsed = ParseDownload(*request);
  absl::Status status = Admit(gate_, *context, "/choir.v1.Admin/Download",
                              Access::kOperators, parsed, kMaxUnaryBytes)
                            .status();
  if (status.ok() && !jobs_.IsModelBlob(parsed.digest())) {
    status = absl::NotFoundError("no model of this coordinator has this blob");
  }
  return StartDownload(status, blobs_, parsed, chunk_bytes_);
}

}  // namespace choir::rpc
