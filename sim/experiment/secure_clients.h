// What virtual clients need to take part in secret sums: identities under a CA
// of the simulation's own, and sessions. The same sessions as agents'.
#ifndef CHOIR_SIM_EXPERIMENT_SECURE_CLIENTS_H_
#define CHOIR_SIM_EXPERIMENT_SECURE_CLIENTS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/secure_random.h"
#include "client/session/participation.h"
#include "privacy/crypto/authority.h"
#include "privacy/secagg/client_session.h"
#include "privacy/secagg/identities.h"

namespace choir::sim {

// Session ids that follow from the job's seed and the number of rounds begun,
// so that a run comes out the same twice even where rounding depends on them.
// Keys and masks are not drawn from it. Threads: one thread at a time.
class SessionIds final : public base::SecureRandom {
 public:
  explicit SessionIds(uint64_t seed) : seed_(seed) {}
  void RoundBegun() { ++rounds_; }
  void Fill(absl::Span<uint8_t> out) override;

 private:
  const uint64_t seed_;
  uint64_t rounds_ = 0;
};

// Threads: safe.
class SecureClients {
 public:
  // `clock` outlives the object.
  static absl::StatusOr<std::unique_ptr<SecureClients>> Create(
      uint64_t seed, const base::Clock& clock);

  const secagg::PeerVerifier& verifier() const { return *peers_; }

  // A client's session for what it has trained; stochastic rounding follows
  // from the job's seed. This object outlives the session.
  // Errors: those of client::JoinSecureSession().
  absl::StatusOr<secagg::ClientSession> Join(const std::string& client,
                                             const v1::TaskPlan& plan,
                                             const client::TaskResult& trained);

 private:
  struct Identity {
    std::unique_ptr<secagg::CertifiedSigner> signer;
    secagg::RecentHistory history;
  };

  SecureClients(uint64_t seed, const base::Clock& clock,
                crypto::CertificateAuthority ca,
                std::unique_ptr<secagg::CertifiedPeers> peers)
      : seed_(seed),
        clock_(clock),
        ca_(std::move(ca)),
        peers_(std::move(peers)) {}
  // Made when it is first needed.
  absl::StatusOr<Identity*> IdentityOf(const std::string& client);

  const uint64_t seed_;
  const base::Clock& clock_;
  const crypto::CertificateAuthority ca_;
  const std::unique_ptr<secagg::CertifiedPeers> peers_;
  base::SystemRandom random_;
  base::Mutex mu_;
  std::map<std::string, std::unique_ptr<Identity>> identities_
      ABSL_GUARDED_BY(mu_);
};

}  // namespace choir::sim

#endif  // CHOIR_SIM_EXPERIMENT_SECURE_CLIENTS_H_
