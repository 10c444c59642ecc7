#include "coordinator/rpc/gate.h"

#include <sys/stat.h>

#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/status_macros.h"

namespace choir::rpc {
namespace {

constexpr size_t kMostCached = 4096;

// "ipv4:127.0.0.1:4711" without the port, which differs at each connection.
std::string WithoutPort(absl::string_view address) {
  const size_t colon = address.rfind(':');
  return std::string(address.substr(0, colon));
}

std::string StampOf(const std::string& path) {
  struct stat file = {};
  if (::stat(path.c_str(), &file) != 0) return "";
  return absl::StrCat(file.st_dev, " ", file.st_ino, " ", file.st_size, " ",
                      file.st_mtim.tv_sec, " ", file.st_mtim.tv_nsec);
}

absl::string_view KindName(crypto::CertificateProblem problem) {
  switch (problem) {
    case crypto::CertificateProblem::kMalformed:
      return "malformed certificate";
    case crypto::CertificateProblem::kUnknownCa:
      return "unknown CA";
    case crypto::CertificateProblem::kExpired:
      return "expired";
    case crypto::CertificateProblem::kNotYetValid:
      return "not yet valid";
    case crypto::CertificateProblem::kBadRole:
      return "no role";
    case crypto::CertificateProblem::kNone:
      break;
  }
  return "none";
}

}  // namespace

Gate::Gate(GateOptions options, crypto::CertificateVerifier verifier,
           const registry::Registry& registry, const base::Clock& clock,
           RefusalLog& refusals)
    : options_(std::move(options)),
      verifier_(std::move(verifier)),
      registry_(registry),
      clock_(clock),
      refusals_(refusals) {}

absl::StatusOr<std::unique_ptr<Gate>> Gate::Create(
    GateOptions options, const registry::Registry& registry,
    const base::Clock& clock, RefusalLog& refusals) {
  CHOIR_ASSIGN_OR_RETURN(
      crypto::CertificateVerifier verifier,
      crypto::CertificateVerifier::Create(options.ca_certificate_pem));
  auto gate = absl::WrapUnique(new Gate(std::move(options), std::move(verifier),
                                        registry, clock, refusals));
  CHOIR_RETURN_IF_ERROR(gate->RereadRevocationList());
  return gate;
}

absl::Status Gate::RereadRevocationList() {
  if (options_.crl_path.empty()) return absl::OkStatus();
  // The stamp is taken before reading: a change in between is read next time.
  const std::string stamp = StampOf(options_.crl_path);
  {
    base::MutexLock lock(&mu_);
    if (!stamp.empty() && stamp == crl_stamp_) return absl::OkStatus();
  }
  CHOIR_ASSIGN_OR_RETURN(const std::string pem,
                         base::ReadFile(options_.crl_path, 64u << 20));
  absl::StatusOr<std::vector<crypto::RevokedSerial>> revoked =
      crypto::ParseRevocationList(pem, options_.ca_certificate_pem);
  if (!revoked.ok()) {
    return absl::Status(
        revoked.status().code(),
        absl::StrCat(options_.crl_path, ": ", revoked.status().message()));
  }
  base::MutexLock lock(&mu_);
  revoked_ = crypto::SerialSet(*revoked);
  crl_stamp_ = stamp;
  base::LogInfo("read ", options_.crl_path, ": ", revoked_.size(),
                " certificates revoked");
  return absl::OkStatus();
}

bool Gate::Revoked(const std::string& serial) {
  if (const absl::Status read = RereadRevocationList(); !read.ok()) {
    // The last list read stays in force.
    refusals_.Refused("coordinator", "revocation list", "unreadable CRL",
                      absl::StrCat("cannot be read again: ", read.message()));
  }
  base::MutexLock lock(&mu_);
  return revoked_.contains(serial);
}

crypto::Verdict Gate::CheckCertificate(const std::string& pem) {
  const absl::Time now = clock_.Now();
  const std::string key = base::Sha256Hex(pem);
  {
    base::MutexLock lock(&mu_);
    auto known = cache_.find(key);
    if (known != cache_.end()) {
      return verifier_.CheckValidity(known->second, now);
    }
  }
  crypto::Verdict verdict = verifier_.Check(pem, now);
  if (verdict.ok()) {
    base::MutexLock lock(&mu_);
    if (cache_.size() >= kMostCached) cache_.clear();
    cache_[key] = verdict.info;
  }
  return verdict;
}

absl::Status Gate::Decide(const PeerEvidence& evidence, Access access,
                          PeerIdentity* peer, std::string* kind) {
  if (evidence.certificate_pem.empty()) {
    *kind = "no certificate";
    return absl::UnauthenticatedError(
        "this call needs a client certificate; enrol first");
  }
  const crypto::Verdict verdict = CheckCertificate(evidence.certificate_pem);
  if (!verdict.ok()) {
    *kind = std::string(KindName(verdict.problem));
    // The name may be believed only if our CA wrote it.
    if (verdict.problem != crypto::CertificateProblem::kUnknownCa &&
        verdict.problem != crypto::CertificateProblem::kMalformed) {
      peer->name = verdict.info.name;
    }
    // Time heals this one: a coordinator that wakes with a clock that is behind
    // must not make its agents give up.
    return verdict.problem == crypto::CertificateProblem::kNotYetValid
               ? absl::UnavailableError(verdict.message)
               : absl::UnauthenticatedError(verdict.message);
  }
  peer->name = verdict.info.name;
  peer->role = verdict.info.role;
  peer->serial = verdict.info.serial;
  if (Revoked(peer->serial)) {
    *kind = "revoked";
    return absl::UnauthenticatedError(absl::StrCat(
        "the certificate with serial ", peer->serial, " was revoked"));
  }
  const crypto::Role needed = access == Access::kAgents
                                  ? crypto::Role::kAgent
                                  : crypto::Role::kOperator;
  if (peer->role != needed) {
    *kind = "role";
    return absl::PermissionDeniedError(
        absl::StrCat("role \"", crypto::RoleName(peer->role),
                     "\" may not call this; it "
                     "needs role \"",
                     crypto::RoleName(needed), "\""));
  }
  if (peer->role == crypto::Role::kAgent) {
    absl::Status known = registry_.CheckAgent(peer->name, peer->serial);
    if (!known.ok()) *kind = "revoked";
    return known;
  }
  return absl::OkStatus();
}

absl::StatusOr<PeerIdentity> Gate::Authenticate(const PeerEvidence& evidence,
                                                absl::string_view method,
                                                Access access) {
  PeerIdentity peer;
  peer.address = WithoutPort(evidence.address);
  if (access == Access::kAnybody) return peer;
  std::string kind;
  const absl::Status decided = Decide(evidence, access, &peer, &kind);
  if (!decided.ok()) {
    refusals_.Refused(peer.name.empty() ? peer.address : peer.name, method,
                      kind, decided.message());
    return decided;
  }
  return peer;
}

absl::Status Gate::CheckSigner(const std::string& name,
                               const std::string& serial) {
  if (Revoked(serial)) {
    return absl::PermissionDeniedError(absl::StrCat(
        "the signing certificate with serial ", serial, " was revoked"));
  }
  return registry_.CheckAgent(name, serial);
}

absl::Status Gate::Refuse(const PeerIdentity& peer, absl::string_view method,
                          absl::Status status) {
  refusals_.Refused(peer.name.empty() ? peer.address : peer.name, method,
                    absl::StrCat(method, " ", static_cast<int>(status.code())),
                    status.message());
  return status;
}

}  // namespace choir::rpc
