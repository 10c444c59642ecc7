#include "coordinator/rpc/agent_service.h"

#include <string>
#include <utility>

#include "base/status_macros.h"
#include "coordinator/rpc/call.h"

namespace choir::rpc {
namespace {

constexpr char kEnroll[] = "/choir.v1.Coordinator/Enroll";
constexpr char kRenew[] = "/choir.v1.Coordinator/RenewCertificate";
constexpr char kCheckIn[] = "/choir.v1.Coordinator/CheckIn";
constexpr char kDownload[] = "/choir.v1.Coordinator/Download";
constexpr char kStatus[] = "/choir.v1.Coordinator/GetUploadStatus";
constexpr char kUpload[] = "/choir.v1.Coordinator/Upload";
constexpr char kSecure[] = "/choir.v1.Coordinator/SecureExchange";
// A thousand clients share keys with a hundred neighbours each: some 15 KB.
constexpr size_t kMaxSecureBytes = 512u << 10;
constexpr char kReport[] = "/choir.v1.Coordinator/Report";

// A check-in that waits for work. Only the loop's thread finishes it, and
// exactly once; it deletes itself when gRPC has let go of it.
class WaitingCall final : public grpc::ServerUnaryReactor {
 public:
  WaitingCall(JobLoop& loop, const Enrolment& enrolment, PeerIdentity peer,
              uint64_t call, const v1::CheckInRequest& request,
              v1::CheckInResponse* response)
      : loop_(loop), client_(peer.name), call_(call) {
    const bool posted = loop_.Post([this, &enrolment, serial = peer.serial,
                                    capabilities = request.capabilities(),
                                    response] {
      // It may have been revoked since the call came in.
      const absl::Status known = enrolment.CheckAgent(client_, serial);
      if (!known.ok()) return Finish(ToGrpc(known));
      loop_.CheckIn(client_, capabilities, call_,
                    [this, response](
                        const absl::StatusOr<v1::CheckInResponse>& answer) {
                      if (answer.ok()) *response = *answer;
                      Finish(ToGrpc(answer.status()));
                    });
    });
    if (!posted) {
      Finish(ToGrpc(
          absl::UnavailableError("the coordinator is shutting down")));
    }
  }

  // Captures no pointer to this object: it may be gone before the loop looks.
  void OnCancel() override {
    loop_.Post([&loop = loop_, client = client_, call = call_] {
      loop.CancelCheckIn(client, call);
    });
  }
  void OnDone() override { delete this; }

 private:
  JobLoop& loop_;
  const std::string client_;
  const uint64_t call_;
};

// A message of a secure round that waits for its answer; as WaitingCall.
class WaitingExchange final : public grpc::ServerUnaryReactor {
 public:
  // The request lives as long as the call.
  WaitingExchange(JobLoop& loop, Gate& gate, const Enrolment& enrolment,
                  const PeerIdentity& peer, uint64_t call,
                  const v1::SecureExchangeRequest& request,
                  v1::SecureExchangeResponse* response)
      : loop_(loop), client_(peer.name), call_(call) {
    const bool posted = loop_.Post([this, &gate, &enrolment, peer, &request,
                                    response] {
      // It may have been revoked since the call came in.
      const absl::Status known = enrolment.CheckAgent(client_, peer.serial);
      if (!known.ok()) return Finish(ToGrpc(known));
      loop_.SecureExchange(
          client_, request, call_,
          [this, &gate, peer, response](
              const absl::StatusOr<v1::SecureExchangeResponse>& answer) {
            if (answer.ok()) *response = *answer;
            absl::Status status = answer.status();
            if (absl::IsInvalidArgument(status) ||
                absl::IsPermissionDenied(status)) {
              status = gate.Refuse(peer, kSecure, status);
            }
            Finish(ToGrpc(ForPeer(status)));
          });
    });
    if (!posted) {
      Finish(ToGrpc(
          absl::UnavailableError("the coordinator is shutting down")));
    }
  }

  void OnCancel() override {
    loop_.Post([&loop = loop_, client = client_, call = call_] {
      loop.CancelExchange(client, call);
    });
  }
  void OnDone() override { delete this; }

 private:
  JobLoop& loop_;
  const std::string client_;
  const uint64_t call_;
};

}  // namespace

AgentService::AgentService(Gate& gate, JobLoop& loop, Enrolment& enrolment,
                           Uploads& uploads, const WorkBoard& board,
                           const store::BlobStore& blobs,
                           uint64_t chunk_bytes)
    : gate_(gate),
      loop_(loop),
      enrolment_(enrolment),
      uploads_(uploads),
      board_(board),
      blobs_(blobs),
      chunk_bytes_(chunk_bytes) {}

grpc::ServerUnaryReactor* AgentService::Enroll(
    grpc::CallbackServerContext* context, const v1::EnrollRequest* request,
    v1::EnrollResponse* response) {
  absl::StatusOr<PeerIdentity> peer = Admit(
      gate_, *context, kEnroll, Access::kAnybody, *request, kMaxUnaryBytes);
  if (!peer.ok()) return AnswerNow(context, peer.status());
  return AnswerFromLoop(
      context, loop_,
      [this, request, response, peer = *std::move(peer)]() -> absl::Status {
        absl::StatusOr<v1::EnrollResponse> answer =
            enrolment_.Enroll(*request);
        if (absl::IsPermissionDenied(answer.status()) ||
            absl::IsInvalidArgument(answer.status())) {
          return gate_.Refuse(peer, kEnroll, answer.status());
        }
        CHOIR_RETURN_IF_ERROR(answer.status());
        *response = *std::move(answer);
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* AgentService::RenewCertificate(
    grpc::CallbackServerContext* context,
    const v1::RenewCertificateRequest* request,
    v1::RenewCertificateResponse* response) {
  absl::StatusOr<PeerIdentity> peer = Admit(
      gate_, *context, kRenew, Access::kAgents, *request, kMaxUnaryBytes);
  if (!peer.ok()) return AnswerNow(context, peer.status());
  return AnswerFromLoop(
      context, loop_,
      [this, request, response, peer = *std::move(peer)]() -> absl::Status {
        // It may have been revoked since the call came in.
        CHOIR_RETURN_IF_ERROR(enrolment_.CheckAgent(peer.name, peer.serial));
        absl::StatusOr<v1::RenewCertificateResponse> answer =
            enrolment_.Renew(peer.name, *request);
        if (absl::IsInvalidArgument(answer.status())) {
          return gate_.Refuse(peer, kRenew, answer.status());
        }
        CHOIR_RETURN_IF_ERROR(answer.status());
        *response = *std::move(answer);
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* AgentService::CheckIn(
    grpc::CallbackServerContext* context, const v1::CheckInRequest* request,
    v1::CheckInResponse* response) {
  absl::StatusOr<PeerIdentity> peer = Admit(
      gate_, *context, kCheckIn, Access::kAgents, *request, kMaxUnaryBytes);
  if (!peer.ok()) return AnswerNow(context, peer.status());
  return new WaitingCall(loop_, enrolment_, *std::move(peer), next_call_++,
                         *request, response);
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* AgentService::Download(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  const v1::DownloadRequest parsed = ParseDownload(*request);
  absl::StatusOr<PeerIdentity> peer = Admit(
      gate_, *context, kDownload, Access::kAgents, parsed, kMaxUnaryBytes);
  absl::Status status = peer.status();
  if (status.ok()) {
    status = board_.CheckDownload(peer->name, parsed.digest());
  }
  return StartDownload(status, blobs_, parsed, chunk_bytes_);
}

grpc::ServerUnaryReactor* AgentService::GetUploadStatus(
    grpc::CallbackServerContext* context,
    const v1::UploadStatusRequest* request,
    v1::UploadStatusResponse* response) {
  absl::StatusOr<PeerIdentity> peer = Admit(
      gate_, *context, kStatus, Access::kAgents, *request, kMaxUnaryBytes);
  if (!peer.ok()) return AnswerNow(context, peer.status());
  absl::StatusOr<uint64_t> received = uploads_.ReceivedBytes(*peer, *request);
  if (received.ok()) response->set_received_bytes(*received);
  return AnswerNow(context, received.status());
}

grpc::ServerReadReactor<v1::UploadChunk>* AgentService::Upload(
    grpc::CallbackServerContext* context,
    v1::UploadStatusResponse* response) {
  return uploads_.StartUpload(
      gate_.Authenticate(EvidenceOf(*context), kUpload, Access::kAgents),
      response);
}

grpc::ServerUnaryReactor* AgentService::SecureExchange(
    grpc::CallbackServerContext* context,
    const v1::SecureExchangeRequest* request,
    v1::SecureExchangeResponse* response) {
  absl::StatusOr<PeerIdentity> peer = Admit(
      gate_, *context, kSecure, Access::kAgents, *request, kMaxSecureBytes);
  if (!peer.ok()) return AnswerNow(context, peer.status());
  return new WaitingExchange(loop_, gate_, enrolment_, *peer, next_call_++,
                             *request, response);
}

grpc::ServerUnaryReactor* AgentService::Report(
    grpc::CallbackServerContext* context, const v1::ReportRequest* request,
    v1::ReportResponse* response) {
  absl::StatusOr<PeerIdentity> peer = Admit(
      gate_, *context, kReport, Access::kAgents, *request, kMaxUnaryBytes);
  if (!peer.ok()) return AnswerNow(context, peer.status());
  return AnswerFromLoop(
      context, loop_,
      [this, request, response, peer = *std::move(peer)]() -> absl::Status {
        CHOIR_RETURN_IF_ERROR(enrolment_.CheckAgent(peer.name, peer.serial));
        absl::StatusOr<v1::ReportResponse> answer =
            loop_.Report(peer.name, *request);
        if (absl::IsInvalidArgument(answer.status())) {
          return gate_.Refuse(peer, kReport, answer.status());
        }
        CHOIR_RETURN_IF_ERROR(ForPeer(answer.status()));
        *response = *std::move(answer);
        return absl::OkStatus();
      });
}

}  // namespace choir::rpc
