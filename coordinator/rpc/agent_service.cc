#include "coordinator/rpc/agent_service.h"

#include <string>
#include <utility>

#include "base/status_macros.h"
#include "choir/v1/coordinator.grpc.pb.h"
#include "coordinator/rpc/grpc_status.h"

namespace choir::rpc {
namespace {

constexpr char kEnroll[] = "/choir.v1.Coordinator/Enroll";
constexpr char kRenew[] = "/choir.v1.Coordinator/RenewCertificate";
constexpr char kCheckIn[] = "/choir.v1.Coordinator/CheckIn";
constexpr char kDownload[] = "/choir.v1.Coordinator/Download";
constexpr char kStatus[] = "/choir.v1.Coordinator/GetUploadStatus";
constexpr char kSecure[] = "/choir.v1.Coordinator/SecureExchange";
constexpr char kReport[] = "/choir.v1.Coordinator/Report";
// A thousand clients share keys with a hundred neighbours each: some 15 KB.
constexpr uint64_t kMaxSecureBytes = 512u << 10;

}  // namespace

AgentService::AgentService(Gate& gate, JobLoop& loop, Enrolment& enrolment,
                           Uploads& uploads, const WorkBoard& board,
                           const store::BlobStore& blobs, uint64_t chunk_bytes)
    : gate_(gate),
      loop_(loop),
      enrolment_(enrolment),
      uploads_(uploads),
      board_(board),
      blobs_(blobs),
      chunk_bytes_(chunk_bytes) {}

void AgentService::AddTo(Front& front) {
  const MethodRules agents = {Access::kAgents, kMaxUnaryBytes, ""};
  front.AddUnary<v1::EnrollRequest, v1::EnrollResponse>(
      kEnroll, {Access::kAnybody, kMaxUnaryBytes, ""},
      [this](const auto& call) { Enroll(call); });
  front.AddUnary<v1::RenewCertificateRequest, v1::RenewCertificateResponse>(
      kRenew, agents, [this](const auto& call) { Renew(call); });
  front.AddUnary<v1::CheckInRequest, v1::CheckInResponse>(
      kCheckIn, agents, [this](const auto& call) { CheckIn(call); });
  front.AddUnary<v1::UploadStatusRequest, v1::UploadStatusResponse>(
      kStatus, agents, [this](const auto& call) {
        const absl::StatusOr<uint64_t> received =
            uploads_.ReceivedBytes(call->peer(), call->request());
        if (received.ok()) call->response()->set_received_bytes(*received);
        call->Answer(received.status());
      });
  front.AddUnary<v1::SecureExchangeRequest, v1::SecureExchangeResponse>(
      kSecure, {Access::kAgents, kMaxSecureBytes, ""},
      [this](const auto& call) { SecureExchange(call); });
  front.AddUnary<v1::ReportRequest, v1::ReportResponse>(
      kReport, agents, [this](const auto& call) { Report(call); });
  AddDownload(front, kDownload, agents, blobs_, chunk_bytes_,
              [this](const PeerIdentity& peer, const std::string& digest) {
                return board_.CheckDownload(peer.name, digest);
              });
  uploads_.AddTo(front);
}

void AgentService::Enroll(
    const CallPtr<v1::EnrollRequest, v1::EnrollResponse>& call) {
  AnswerFromLoop(call, loop_, [this, &call = *call]() -> absl::Status {
    absl::StatusOr<v1::EnrollResponse> answer =
        enrolment_.Enroll(call.request());
    if (absl::IsPermissionDenied(answer.status()) ||
        absl::IsInvalidArgument(answer.status())) {
      return gate_.Refuse(call.peer(), kEnroll, answer.status());
    }
    CHOIR_RETURN_IF_ERROR(answer.status());
    *call.response() = *std::move(answer);
    return absl::OkStatus();
  });
}

void AgentService::Renew(const CallPtr<v1::RenewCertificateRequest,
                                       v1::RenewCertificateResponse>& call) {
  AnswerFromLoop(call, loop_, [this, &call = *call]() -> absl::Status {
    const PeerIdentity& peer = call.peer();
    // It may have been revoked since the call came in.
    CHOIR_RETURN_IF_ERROR(enrolment_.CheckAgent(peer.name, peer.serial));
    absl::StatusOr<v1::RenewCertificateResponse> answer =
        enrolment_.Renew(peer.name, call.request());
    if (absl::IsInvalidArgument(answer.status())) {
      return gate_.Refuse(peer, kRenew, answer.status());
    }
    CHOIR_RETURN_IF_ERROR(answer.status());
    *call.response() = *std::move(answer);
    return absl::OkStatus();
  });
}

// Waits for work; only the loop's thread answers.
void AgentService::CheckIn(
    const CallPtr<v1::CheckInRequest, v1::CheckInResponse>& call) {
  const uint64_t number = next_call_++;
  const bool posted = loop_.Post([this, call, number] {
    const PeerIdentity& peer = call->peer();
    // It may have been revoked since the call came in.
    const absl::Status known = enrolment_.CheckAgent(peer.name, peer.serial);
    if (!known.ok()) return call->Answer(known);
    loop_.CheckIn(peer.name, call->request().capabilities(), number,
                  [call](const absl::StatusOr<v1::CheckInResponse>& answer) {
                    if (answer.ok()) *call->response() = *answer;
                    call->Answer(answer.status());
                  });
  });
  if (!posted) return call->Answer(ShuttingDown());
  // After it was posted: it cannot be cancelled before it is there.
  call->WhenCancelled([&loop = loop_, client = call->peer().name, number] {
    loop.Post([&loop, client, number] { loop.CancelCheckIn(client, number); });
  });
}

// A message of a secure round that waits for its answer; as CheckIn().
void AgentService::SecureExchange(
    const CallPtr<v1::SecureExchangeRequest, v1::SecureExchangeResponse>&
        call) {
  const uint64_t number = next_call_++;
  const bool posted = loop_.Post([this, call, number] {
    const PeerIdentity& peer = call->peer();
    const absl::Status known = enrolment_.CheckAgent(peer.name, peer.serial);
    if (!known.ok()) return call->Answer(known);
    loop_.SecureExchange(
        peer.name, call->request(), number,
        [this, call](const absl::StatusOr<v1::SecureExchangeResponse>& answer) {
          if (answer.ok()) *call->response() = *answer;
          absl::Status status = answer.status();
          if (absl::IsInvalidArgument(status) ||
              absl::IsPermissionDenied(status)) {
            status = gate_.Refuse(call->peer(), kSecure, status);
          }
          call->Answer(ForPeer(status));
        });
  });
  if (!posted) return call->Answer(ShuttingDown());
  call->WhenCancelled([&loop = loop_, client = call->peer().name, number] {
    loop.Post([&loop, client, number] { loop.CancelExchange(client, number); });
  });
}

void AgentService::Report(
    const CallPtr<v1::ReportRequest, v1::ReportResponse>& call) {
  AnswerFromLoop(call, loop_, [this, &call = *call]() -> absl::Status {
    const PeerIdentity& peer = call.peer();
    CHOIR_RETURN_IF_ERROR(enrolment_.CheckAgent(peer.name, peer.serial));
    absl::StatusOr<v1::ReportResponse> answer =
        loop_.Report(peer.name, call.request());
    if (absl::IsInvalidArgument(answer.status())) {
      return gate_.Refuse(peer, kReport, answer.status());
    }
    CHOIR_RETURN_IF_ERROR(ForPeer(answer.status()));
    *call.response() = *std::move(answer);
    return absl::OkStatus();
  });
}

}  // namespace choir::rpc
