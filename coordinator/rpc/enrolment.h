// Signing the certificates of new and renewing clients.
#ifndef CHOIR_COORDINATOR_RPC_ENROLMENT_H_
#define CHOIR_COORDINATOR_RPC_ENROLMENT_H_

#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "base/clock.h"
#include "base/secure_random.h"
#include "choir/v1/coordinator.pb.h"
#include "coordinator/registry/registry.h"
#include "coordinator/rpc/job_loop.h"
#include "privacy/crypto/authority.h"

namespace choir::rpc {

struct EnrolmentOptions {
  // Without it nobody is enrolled or renewed.
  absl::optional<crypto::CertificateAuthority> authority;
  absl::Duration lifetime = absl::Hours(720);
  bool require_approval = false;
};

// Threads: all calls on the job loop's thread.
class Enrolment {
 public:
  // The references outlive this.
  Enrolment(EnrolmentOptions options, const registry::Registry& registry,
            JobLoop& loop, const base::Clock& clock,
            base::SecureRandom& random);

  // Errors: as Registry::Enrol; INVALID_ARGUMENT for a broken request or one
  // made for another name; FAILED_PRECONDITION without the CA's key.
  absl::StatusOr<v1::EnrollResponse> Enroll(const v1::EnrollRequest& request);

  // A certificate for each of the requests that are not empty.
  // RESOURCE_EXHAUSTED if the client had a certificate for another key within
  // the last 5 seconds.
  absl::StatusOr<v1::RenewCertificateResponse> Renew(
      const std::string& name, const v1::RenewCertificateRequest& request);

  // As Registry::CheckAgent.
  absl::Status CheckAgent(const std::string& name,
                          const std::string& serial) const {
    return registry_.CheckAgent(name, serial);
  }

 private:
  // The newest certificate of a client and its key's digest, so that a repeated
  // call within a minute gets the same one and leaves no record.
  struct Issued {
    std::string key;
    std::string pem;
    absl::Time at;
  };

  absl::Status CheckAuthority() const;
  absl::Status CheckPause(
      const std::string& name, const std::string& key,
      const absl::flat_hash_map<std::string, Issued>& newest) const;
  absl::Status CheckRequest(const std::string& pem, const std::string& name,
                            crypto::RequestInfo* info) const;
  // Of a request for a signing certificate.
  absl::Status CheckSigningRequest(const std::string& pem,
                                   const std::string& name) const;
  absl::StatusOr<std::string> IssueSigner(const std::string& request_pem,
                                          const std::string& name,
                                          bool renewal);
  absl::StatusOr<std::string> Issue(const std::string& request_pem,
                                    const std::string& name,
                                    const std::string& public_key_sha256,
                                    bool renewal,
                                    std::vector<v1::JournalRecord> records);

  const EnrolmentOptions options_;
  const registry::Registry& registry_;
  JobLoop& loop_;
  const base::Clock& clock_;
  base::SecureRandom& random_;
  absl::flat_hash_map<std::string, Issued> newest_;
  // Of signing certificates; instead of the key's digest, the request's.
  absl::flat_hash_map<std::string, Issued> newest_signers_;
};

}  // namespace choir::rpc

#endif  // CHOIR_COORDINATOR_RPC_ENROLMENT_H_
