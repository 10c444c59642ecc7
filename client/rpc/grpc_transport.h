// The agent's side of the Coordinator service over gRPC with mutual TLS.
#ifndef CHOIR_CLIENT_RPC_GRPC_TRANSPORT_H_
#define CHOIR_CLIENT_RPC_GRPC_TRANSPORT_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "client/transport.h"

namespace choir::client {

struct GrpcTransportOptions {
  std::string address;  // host:port
  // Name expected in the coordinator's certificate; empty: the host.
  std::string server_name;
  // The only CA that is trusted.
  std::string ca_certificate_pem;
  // Longest wait for an answer; for a check-in or a secure exchange (long
  // polls); and for a transfer, which resumes where it broke off.
  absl::Duration call_timeout = absl::Seconds(60);
  absl::Duration check_in_timeout = absl::Minutes(5);
  absl::Duration transfer_timeout = absl::Minutes(10);
};

// Connects when first used, and again after UseIdentity(). Never listens.
// Errors: INVALID_ARGUMENT without a CA certificate.
absl::StatusOr<std::unique_ptr<Transport>> MakeGrpcTransport(
    GrpcTransportOptions options);

}  // namespace choir::client

#endif  // CHOIR_CLIENT_RPC_GRPC_TRANSPORT_H_
