#include "coordinator/rpc/call.h"

#include "absl/strings/str_cat.h"

namespace choir::rpc {

absl::StatusOr<PeerIdentity> Admit(Gate& gate,
                                   const grpc::CallbackServerContext& context,
                                   absl::string_view method, Access access,
                                   const google::protobuf::Message& request,
                                   size_t max_bytes) {
  absl::StatusOr<PeerIdentity> peer =
      gate.Authenticate(EvidenceOf(context), method, access);
  if (!peer.ok()) return peer;
  const size_t bytes = request.ByteSizeLong();
  if (bytes > max_bytes) {
    return gate.Refuse(*peer, method,
                       absl::ResourceExhaustedError(absl::StrCat(
                           "a request of ", bytes, " bytes; at most ",
                           max_bytes, " are taken")));
  }
  return peer;
}

}  // namespace choir::rpc
