// Who signs in a session, and how a peer's signature is checked.
#ifndef CHOIR_PRIVACY_SECAGG_CREDENTIALS_H_
#define CHOIR_PRIVACY_SECAGG_CREDENTIALS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace choir::secagg {

// This client's long-term identity. Threads: safe.
class Signer {
 public:
  virtual ~Signer() = default;
  virtual const std::string& name() const = 0;
  // X.509, DER; binds name() to the Ed25519 key.
  virtual const std::string& certificate() const = 0;
  // Ed25519, 64 bytes.
  virtual absl::StatusOr<std::string> Sign(absl::string_view text) const = 0;
};

// Checks peers against the deployment's CA. Threads: safe.
class PeerVerifier {
 public:
  virtual ~PeerVerifier() = default;
  // The Ed25519 public key, 32 bytes, that `certificate` (DER) binds to
  // `name`. Errors: PERMISSION_DENIED if it does not, is not signed by the CA,
  // has expired, or was revoked.
  virtual absl::StatusOr<std::string> PublicKeyOf(
      absl::string_view name, absl::string_view certificate) const = 0;
};

// What this client has seen before, across restarts.
class SessionHistory {
 public:
  virtual ~SessionHistory() = default;
  // Remembers `token` (a peer's public key) durably.
  // ALREADY_EXISTS if it was remembered before.
  virtual absl::Status Remember(absl::string_view token) = 0;
  virtual bool Remembers(absl::string_view token) const = 0;
  // Remembers all of `tokens`, or none if one of them was remembered before.
  // To be overridden where making many durable at once is cheaper; this one
  // remembers them one by one.
  virtual absl::Status RememberAll(absl::Span<const std::string> tokens) {
    for (const std::string& token : tokens) {
      if (absl::Status status = Remember(token); !status.ok()) return status;
    }
    return absl::OkStatus();
  }
  // The same for what must not be forgotten however many peers this client
  // meets: sessions, rounds, and models of which it has helped to reveal a sum.
  // Here: like everything else.
  virtual absl::Status RememberForGood(absl::Span<const std::string> tokens) {
    return RememberAll(tokens);
  }
  virtual bool RemembersForGood(absl::string_view token) const {
    return Remembers(token);
  }
};

}  // namespace choir::secagg

#endif  // CHOIR_PRIVACY_SECAGG_CREDENTIALS_H_
