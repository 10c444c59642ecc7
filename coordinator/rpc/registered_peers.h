// Whose signatures count in secure aggregation: those of clients that the
// registry knows, by a certificate of our CA that nobody has revoked.
#ifndef CHOIR_COORDINATOR_RPC_REGISTERED_PEERS_H_
#define CHOIR_COORDINATOR_RPC_REGISTERED_PEERS_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "coordinator/rpc/gate.h"
#include "privacy/secagg/identities.h"

namespace choir::rpc {

// Threads: safe.
class RegisteredPeers final : public secagg::PeerVerifier {
 public:
  // `clock` and `gate` outlive the object.
  static absl::StatusOr<std::unique_ptr<RegisteredPeers>> Create(
      absl::string_view ca_certificate_pem, const base::Clock& clock,
      Gate& gate);

  absl::StatusOr<std::string> PublicKeyOf(
      absl::string_view name, absl::string_view certificate) const override;

 private:
  RegisteredPeers(std::unique_ptr<secagg::CertifiedPeers> certified, Gate& gate)
      : certified_(std::move(certified)), gate_(gate) {}

  const std::unique_ptr<secagg::CertifiedPeers> certified_;
  Gate& gate_;
};

}  // namespace choir::rpc

#endif  // CHOIR_COORDINATOR_RPC_REGISTERED_PEERS_H_
