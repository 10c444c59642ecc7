// The certificate authority of one Choir, and checking what it signed.
//
// Time and randomness are handed in. Errors as in identity.h.
#ifndef CHOIR_PRIVACY_CRYPTO_AUTHORITY_H_
#define CHOIR_PRIVACY_CRYPTO_AUTHORITY_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/secure_random.h"
#include "privacy/crypto/identity.h"

namespace choir::crypto {

struct IssueOptions {
  // Common name: 1 to 64 bytes of printable ASCII.
  std::string name;
  // Not kNone. Coordinators may serve and dial, all others may only dial
  // (extended key usage), so that no agent can pose as a coordinator.
  Role role = Role::kNone;
  // Subject alternative names: DNS names or IP addresses. Required for
  // coordinators, refused for others.
  std::vector<std::string> hosts;
  // The certificate ends with the CA's own at the latest, and begins 5 minutes
  // before now, for peers whose clock is behind.
  absl::Duration lifetime = absl::Hours(24 * 30);
};

struct RevokedSerial {
  std::string serial;
  absl::Time revoked_at;
};

// Threads: const methods are safe.
class CertificateAuthority {
 public:
  // A new self-signed root.
  static absl::StatusOr<CertificateAuthority> Create(
      absl::string_view name, absl::Duration lifetime, absl::Time now,
      base::SecureRandom& random);
  // FAILED_PRECONDITION if the key is not the certificate's.
  static absl::StatusOr<CertificateAuthority> FromPem(
      absl::string_view certificate_pem, PrivateKey key);

  CertificateAuthority(CertificateAuthority&&) noexcept;
  CertificateAuthority& operator=(CertificateAuthority&&) noexcept;
  ~CertificateAuthority();

  const std::string& certificate_pem() const;
  const PrivateKey& key() const;

  // Signs the key of a request (whose own signature is checked). Nothing but
  // the key is taken from the request. Serial: 126 random bits.
  absl::StatusOr<std::string> Issue(absl::string_view request_pem,
                                    const IssueOptions& options, absl::Time now,
                                    base::SecureRandom& random) const;

  // Likewise for an Ed25519 key: a signing certificate for `name`
  // (privacy/crypto/signing.h), which opens no connection.
  absl::StatusOr<std::string> IssueSigner(absl::string_view request_pem,
                                          absl::string_view name,
                                          absl::Duration lifetime,
                                          absl::Time now,
                                          base::SecureRandom& random) const;

  // A signed list (X.509 CRL, PEM) of revoked serials, valid for a year.
  absl::StatusOr<std::string> SignRevocationList(
      const std::vector<RevokedSerial>& revoked, absl::Time now) const;

 private:
  struct State;
  struct Leaf;
  absl::StatusOr<std::string> IssueLeaf(const Leaf& leaf, absl::Time now,
                                        base::SecureRandom& random) const;
  explicit CertificateAuthority(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Reads a CRL and checks that `ca_certificate_pem` signed it: DATA_LOSS if not.
absl::StatusOr<std::vector<RevokedSerial>> ParseRevocationList(
    absl::string_view crl_pem, absl::string_view ca_certificate_pem);

// The serials of `revoked`, for looking up.
absl::flat_hash_set<std::string> SerialSet(
    const std::vector<RevokedSerial>& revoked);

enum class CertificateProblem {
  kNone,
  kMalformed,
  kUnknownCa,
  kExpired,
  kNotYetValid,
  kBadRole,
};

struct Verdict {
  CertificateProblem problem = CertificateProblem::kNone;
  // For the peer and the log; empty if there is no problem.
  std::string message;
  // Filled as far as the certificate could be read; to be believed only if
  // there is no problem, or kExpired, kNotYetValid or kBadRole.
  CertificateInfo info;
  bool ok() const { return problem == CertificateProblem::kNone; }
};

// Checks certificates against one CA. Threads: const methods are safe.
class CertificateVerifier {
 public:
  static absl::StatusOr<CertificateVerifier> Create(
      absl::string_view ca_certificate_pem);
  CertificateVerifier(CertificateVerifier&&) noexcept;
  CertificateVerifier& operator=(CertificateVerifier&&) noexcept;
  ~CertificateVerifier();

  // Signature, role and validity at `now`; not whether it was revoked.
  // Cost: one P-256 verification.
  Verdict Check(absl::string_view certificate_pem, absl::Time now) const;
  // The part that changes with time, of a certificate already checked.
  Verdict CheckValidity(const CertificateInfo& info, absl::Time now) const;

  const CertificateInfo& ca() const;

 private:
  struct State;
  explicit CertificateVerifier(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace choir::crypto

#endif  // CHOIR_PRIVACY_CRYPTO_AUTHORITY_H_
