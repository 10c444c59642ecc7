#include "sim/experiment/secure_clients.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/sim_random.h"
#include "base/status_macros.h"
#include "client/session/secure_participation.h"

namespace choir::sim {
namespace {

// Longer than any simulation.
constexpr absl::Duration kLifetime = absl::Hours(24 * 3650);

}  // namespace

void SessionIds::Fill(absl::Span<uint8_t> out) {
  base::SimRandom random(
      base::DeriveSeed(seed_, {"session", absl::StrCat(rounds_)}));
  for (uint8_t& byte : out) byte = static_cast<uint8_t>(random.Below(256));
}

absl::StatusOr<std::unique_ptr<SecureClients>> SecureClients::Create(
    uint64_t seed, const base::Clock& clock) {
  base::SystemRandom random;
  CHOIR_ASSIGN_OR_RETURN(
      crypto::CertificateAuthority ca,
      crypto::CertificateAuthority::Create("Choir simulation", kLifetime,
                                           clock.Now(), random));
  CHOIR_ASSIGN_OR_RETURN(
      std::unique_ptr<secagg::CertifiedPeers> peers,
      secagg::CertifiedPeers::Create(ca.certificate_pem(), clock));
  return std::unique_ptr<SecureClients>(
      new SecureClients(seed, clock, std::move(ca), std::move(peers)));
}

absl::StatusOr<SecureClients::Identity*> SecureClients::IdentityOf(
    const std::string& client) {
  base::MutexLock lock(&mu_);
  std::unique_ptr<Identity>& identity = identities_[client];
  if (identity == nullptr) {
    CHOIR_ASSIGN_OR_RETURN(crypto::SigningKey key,
                           crypto::SigningKey::Generate(random_));
    CHOIR_ASSIGN_OR_RETURN(const std::string request,
                           crypto::MakeSigningRequest(key, client));
    CHOIR_ASSIGN_OR_RETURN(
        const std::string pem,
        ca_.IssueSigner(request, client, kLifetime, clock_.Now(), random_));
    auto made = std::make_unique<Identity>();
    CHOIR_ASSIGN_OR_RETURN(
        made->signer, secagg::CertifiedSigner::Create(std::move(key), pem,
                                                      ca_.certificate_pem()));
    identity = std::move(made);
  }
  return identity.get();
}

absl::StatusOr<secagg::ClientSession> SecureClients::Join(
    const std::string& client, const v1::TaskPlan& plan,
    const client::TaskResult& trained) {
  CHOIR_ASSIGN_OR_RETURN(Identity * identity, IdentityOf(client));
  const uint64_t rounding_seed =
      base::DeriveSeed(seed_, {"rounding", absl::StrCat(plan.key().round()),
                               absl::StrCat(plan.key().attempt()), client});
  return client::JoinSecureSession(
      plan, trained, client::SecurePolicy(), rounding_seed,
      {*identity->signer, *peers_, identity->history, random_});
}

}  // namespace choir::sim
