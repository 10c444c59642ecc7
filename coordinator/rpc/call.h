// What all RPC handlers share: who calls, and answering from the job loop.
#ifndef CHOIR_COORDINATOR_RPC_CALL_H_
#define CHOIR_COORDINATOR_RPC_CALL_H_

#include <grpcpp/security/auth_context.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/rpc/gate.h"
#include "coordinator/rpc/grpc_status.h"
#include "coordinator/rpc/job_loop.h"

namespace choir::rpc {

// Largest request of a unary call that peers of the agent role or none send.
inline constexpr size_t kMaxUnaryBytes = 64u << 10;
// Largest request of an operator (a job's configuration).
inline constexpr size_t kMaxAdminBytes = 1u << 20;

// The certificate the peer showed in the TLS handshake, and its address.
inline PeerEvidence EvidenceOf(const grpc::CallbackServerContext& context) {
  PeerEvidence evidence;
  evidence.address = context.peer();
  const auto certificates =
      context.auth_context()->FindPropertyValues("x509_pem_cert");
  if (!certificates.empty()) {
    evidence.certificate_pem =
        std::string(certificates[0].data(), certificates[0].size());
  }
  return evidence;
}

// Authenticates a unary call and refuses an oversized request.
absl::StatusOr<PeerIdentity> Admit(Gate& gate,
                                   const grpc::CallbackServerContext& context,
                                   absl::string_view method, Access access,
                                   const google::protobuf::Message& request,
                                   size_t max_bytes);

// Runs `work` (returning absl::Status) on the job loop and finishes the call
// with what it returns. Request and response live until then.
template <typename Work>
grpc::ServerUnaryReactor* AnswerFromLoop(grpc::CallbackServerContext* context,
                                         JobLoop& loop, Work work) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const bool posted = loop.Post([reactor, work = std::move(work)]() mutable {
    reactor->Finish(ToGrpc(work()));
  });
  if (!posted) {
    reactor->Finish(ToGrpc(
        absl::UnavailableError("the coordinator is shutting down")));
  }
  return reactor;
}

inline grpc::ServerUnaryReactor* AnswerNow(
    grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

}  // namespace choir::rpc

#endif  // CHOIR_COORDINATOR_RPC_CALL_H_
