// How an agent comes by its certificate, and keeps it fresh.
#ifndef CHOIR_CLIENT_AGENT_ENROLMENT_H_
#define CHOIR_CLIENT_AGENT_ENROLMENT_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/secure_random.h"
#include "client/agent/backoff.h"
#include "client/agent/client_options.h"
#include "client/agent/sleeper.h"
#include "client/agent/state_dir.h"
#include "client/transport.h"
#include "privacy/crypto/identity.h"
#include "privacy/secagg/identities.h"

namespace choir::client {

// The private keys (for connections, and for signing in secure aggregation) are
// made here, lie in the state folder (0600) and never leave it. Everything it
// does may be cut off and begun again: the same keys and requests are used. All
// references outlive the object. Threads: one thread at a time.
class Enrolment {
 public:
  Enrolment(const ClientOptions& options, StateDir& state, Transport& transport,
            const base::Clock& clock, base::SecureRandom& random,
            Sleeper& sleeper);

  // Returns once the transport speaks with a valid certificate, or when asked
  // to stop (CANCELLED). Enrols with the token of token_file if there is no
  // certificate or it has expired; waits while the coordinator is away or an
  // operator has to approve.
  //
  // Errors: FAILED_PRECONDITION without certificate and token;
  //   INVALID_ARGUMENT for an unreadable key or certificate; whatever the
  //   coordinator refuses the token with.
  absl::Status EnsureEnrolled();

  // Renews the certificate once two thirds of its life are over. What goes
  // wrong is logged and tried again later, as long as the certificate lasts.
  // Errors: UNAUTHENTICATED once it has expired; KindOf() kFatal ones.
  absl::Status RenewIfDue();

  // Who signs for this client in secure aggregation; null without a valid
  // signing certificate. Valid until the next call of another method.
  const secagg::CertifiedSigner* signer() const;

 private:
  // Key, request and, if there is one, certificate for signing.
  absl::Status LoadSigner();
  // Takes a signing certificate for the key in the state folder.
  absl::Status UseSigner(const std::string& certificate_pem);
  absl::Status AdoptSigner(const std::string& certificate_pem);
  // What goes wrong is logged and tried again later.
  void RenewSignerIfDue();
  absl::StatusOr<crypto::PrivateKey> LoadOrMakeKey();
  absl::StatusOr<std::string> LoadOrMakeRequest(const crypto::PrivateKey& key);
  // False if there is none, or only an expired one.
  absl::StatusOr<bool> LoadCertificate();
  absl::Status Enroll(const std::string& request_pem);
  // Checks, stores and uses a new certificate.
  absl::Status Adopt(const std::string& certificate_pem);
  absl::Status Use(const std::string& certificate_pem,
                   const crypto::CertificateInfo& info);

  const ClientOptions& options_;
  StateDir& state_;
  Transport& transport_;
  const base::Clock& clock_;
  base::SecureRandom& random_;
  Sleeper& sleeper_;
  Backoff backoff_;
  crypto::SecretString key_pem_;
  std::string public_key_sha256_;
  std::string request_pem_;
  absl::Time renew_at_ = absl::InfiniteFuture();
  absl::Time expires_at_ = absl::InfiniteFuture();
  std::string ca_certificate_pem_;
  std::string signing_request_pem_;
  std::unique_ptr<secagg::CertifiedSigner> signer_;
  absl::Time renew_signer_at_ = absl::InfiniteFuture();
};

}  // namespace choir::client

#endif  // CHOIR_CLIENT_AGENT_ENROLMENT_H_
