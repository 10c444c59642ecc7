// absl::Status to grpc::Status and back: the codes have the same numbers.
#ifndef CHOIR_COORDINATOR_RPC_GRPC_STATUS_H_
#define CHOIR_COORDINATOR_RPC_GRPC_STATUS_H_

#include <grpcpp/support/status.h>

#include <string>

#include "absl/status/status.h"

namespace choir::rpc {

inline grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.raw_code()),
                      std::string(status.message()));
}

inline absl::Status FromGrpc(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                      status.error_message());
}

// What peers see of an error of the store: a full disk passes, so they retry.
inline absl::Status ForPeer(const absl::Status& status) {
  if (absl::IsResourceExhausted(status)) {
    return absl::UnavailableError(
        "the coordinator's disk is full; it goes on when there is space");
  }
  return status;
}

}  // namespace choir::rpc

#endif  // CHOIR_COORDINATOR_RPC_GRPC_STATUS_H_
