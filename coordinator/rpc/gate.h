// The one gate that every call passes: who is the peer, and may it call this?
//
// TLS proves that the peer holds the key of the certificate it showed; that the
// certificate is any good is checked here, at each call, with our own clock
// (docs/adr/0003-certificates-are-checked-by-our-own-gate.md).
#ifndef CHOIR_COORDINATOR_RPC_GATE_H_
#define CHOIR_COORDINATOR_RPC_GATE_H_

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "coordinator/registry/registry.h"
#include "coordinator/rpc/refusal_log.h"
#include "privacy/crypto/authority.h"

namespace choir::rpc {

struct PeerIdentity {
  std::string name;
  crypto::Role role = crypto::Role::kNone;
  std::string serial;
  // "ipv4:127.0.0.1", without the port.
  std::string address;
};

// What the transport knows of a peer.
struct PeerEvidence {
  // As gRPC gives it: "ipv4:127.0.0.1:40000".
  std::string address;
  // The certificate whose key the peer proved to hold; empty if it showed none.
  std::string certificate_pem;
};

// Who may call a method.
enum class Access { kAnybody, kAgents, kOperators };

struct GateOptions {
  std::string ca_certificate_pem;
  // Path of a CRL; empty: none. Read again when the file changes.
  std::string crl_path;
};

// Threads: safe.
class Gate {
 public:
  // The references outlive the gate. Errors: of reading the CRL.
  static absl::StatusOr<std::unique_ptr<Gate>> Create(
      GateOptions options, const registry::Registry& registry,
      const base::Clock& clock, RefusalLog& refusals);

  // UNAUTHENTICATED (no certificate, of another CA, not valid now, revoked) or
  // PERMISSION_DENIED (the role may not call it, the client was revoked). A
  // refusal goes to the refusal log. `method` is "/service/Method".
  absl::StatusOr<PeerIdentity> Authenticate(const PeerEvidence& evidence,
                                            absl::string_view method,
                                            Access access);

  // Whether a signing certificate of our CA still counts: PERMISSION_DENIED if
  // it, or its client, was revoked.
  absl::Status CheckSigner(const std::string& name, const std::string& serial);

  // For refusals decided later, such as of a broken chunk: goes to the refusal
  // log; returns `status`.
  absl::Status Refuse(const PeerIdentity& peer, absl::string_view method,
                      absl::Status status);

 private:
  Gate(GateOptions options, crypto::CertificateVerifier verifier,
       const registry::Registry& registry, const base::Clock& clock,
       RefusalLog& refusals);

  // Cached by the PEM's digest: signatures do not change, time does.
  crypto::Verdict CheckCertificate(const std::string& pem);
  absl::Status RereadRevocationList() ABSL_LOCKS_EXCLUDED(mu_);
  bool Revoked(const std::string& serial);
  absl::Status Decide(const PeerEvidence& evidence, Access access,
                      PeerIdentity* peer, std::string* kind);

  const GateOptions options_;
  const crypto::CertificateVerifier verifier_;
  const registry::Registry& registry_;
  const base::Clock& clock_;
  RefusalLog& refusals_;

  base::Mutex mu_;
  absl::flat_hash_map<std::string, crypto::CertificateInfo> cache_
      ABSL_GUARDED_BY(mu_);
  absl::flat_hash_set<std::string> revoked_ ABSL_GUARDED_BY(mu_);
  // Device, inode, size and time of change of the CRL that was read last.
  std::string crl_stamp_ ABSL_GUARDED_BY(mu_);
};

}  // namespace choir::rpc

#endif  // CHOIR_COORDINATOR_RPC_GATE_H_
