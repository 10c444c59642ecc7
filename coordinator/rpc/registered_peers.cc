#include "coordinator/rpc/registered_peers.h"

#include <utility>

#include "absl/memory/memory.h"
#include "base/status_macros.h"

namespace choir::rpc {

absl::StatusOr<std::unique_ptr<RegisteredPeers>> RegisteredPeers::Create(
    absl::string_view ca_certificate_pem, const base::Clock& clock,
    Gate& gate) {
  CHOIR_ASSIGN_OR_RETURN(
      std::unique_ptr<secagg::CertifiedPeers> certified,
      secagg::CertifiedPeers::Create(ca_certificate_pem, clock));
  return absl::WrapUnique(new RegisteredPeers(std::move(certified), gate));
}

absl::StatusOr<std::string> RegisteredPeers::PublicKeyOf(
    absl::string_view name, absl::string_view certificate) const {
  CHOIR_ASSIGN_OR_RETURN(crypto::SignerInfo info,
                         certified_->SignerOf(name, certificate));
  CHOIR_RETURN_IF_ERROR(gate_.CheckSigner(std::string(name), info.serial));
  return std::move(info.public_key);
}

}  // namespace choir::rpc
