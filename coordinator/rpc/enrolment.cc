#include "coordinator/rpc/enrolment.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "privacy/crypto/signing.h"

namespace choir::rpc {
namespace {

constexpr absl::Duration kRepeatWindow = absl::Minutes(1);
constexpr absl::Duration kRenewalPause = absl::Seconds(5);

absl::Status OtherName(const std::string& name) {
  return absl::InvalidArgumentError(absl::StrCat(
      "the certificate request was made for another name than \"", name, "\""));
}

}  // namespace

Enrolment::Enrolment(EnrolmentOptions options,
                     const registry::Registry& registry, JobLoop& loop,
                     const base::Clock& clock, base::SecureRandom& random)
    : options_(std::move(options)),
      registry_(registry),
      loop_(loop),
      clock_(clock),
      random_(random) {}

absl::Status Enrolment::CheckRequest(const std::string& pem,
                                     const std::string& name,
                                     crypto::RequestInfo* info) const {
  CHOIR_RETURN_IF_ERROR(CheckAuthority());
  CHOIR_ASSIGN_OR_RETURN(*info, crypto::ParseCertificateRequest(pem));
  return info->name == name ? absl::OkStatus() : OtherName(name);
}

absl::Status Enrolment::CheckSigningRequest(const std::string& pem,
                                            const std::string& name) const {
  CHOIR_RETURN_IF_ERROR(CheckAuthority());
  CHOIR_ASSIGN_OR_RETURN(const std::string named,
                         crypto::SigningRequestName(pem));
  return named == name ? absl::OkStatus() : OtherName(name);
}

absl::Status Enrolment::CheckAuthority() const {
  if (options_.authority.has_value()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "this coordinator signs no certificates (enrolment.ca_private_key is "
      "not set); ask the operator for one made by `choir-admin ca issue`");
}

absl::Status Enrolment::CheckPause(
    const std::string& name, const std::string& key,
    const absl::flat_hash_map<std::string, Issued>& newest) const {
  const auto known = newest.find(name);
  const absl::Time now = clock_.Now();
  if (known == newest.end() || known->second.key == key ||
      now < known->second.at || now >= known->second.at + kRenewalPause) {
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(absl::StrCat(
      "client \"", name, "\" had a new certificate less than ",
      absl::FormatDuration(kRenewalPause), " ago; ask again later"));
}

absl::StatusOr<std::string> Enrolment::IssueSigner(
    const std::string& request_pem, const std::string& name, bool renewal) {
  const absl::Time now = clock_.Now();
  const std::string key = base::Sha256Hex(request_pem);
  const auto known = newest_signers_.find(name);
  if (known != newest_signers_.end() && known->second.key == key &&
      now >= known->second.at && now < known->second.at + kRepeatWindow) {
    return known->second.pem;
  }
  CHOIR_ASSIGN_OR_RETURN(
      std::string pem, options_.authority->IssueSigner(
                           request_pem, name, options_.lifetime, now, random_));
  CHOIR_ASSIGN_OR_RETURN(const crypto::CertificateInfo info,
                         crypto::ParseCertificate(pem));
  std::vector<v1::JournalRecord> records(1);
  v1::CertificateIssued* issued = records[0].mutable_certificate_issued();
  issued->set_name(name);
  issued->set_serial(info.serial);
  issued->set_expires_unix_seconds(absl::ToUnixSeconds(info.not_after));
  issued->set_renewal(renewal);
  issued->set_signing(true);
  CHOIR_RETURN_IF_ERROR(loop_.Record(records));
  newest_signers_[name] = Issued{key, pem, now};
  base::LogInfo("client ", name, ": signing certificate ", info.serial);
  return pem;
}

absl::StatusOr<std::string> Enrolment::Issue(
    const std::string& request_pem, const std::string& name,
    const std::string& public_key_sha256, bool renewal,
    std::vector<v1::JournalRecord> records) {
  const absl::Time now = clock_.Now();
  auto known = newest_.find(name);
  if (records.empty() && known != newest_.end() &&
      known->second.key == public_key_sha256 && now >= known->second.at &&
      now < known->second.at + kRepeatWindow) {
    return known->second.pem;
  }
  crypto::IssueOptions issue;
  issue.name = name;
  issue.role = crypto::Role::kAgent;
  issue.lifetime = options_.lifetime;
  CHOIR_ASSIGN_OR_RETURN(
      std::string pem,
      options_.authority->Issue(request_pem, issue, now, random_));
  CHOIR_ASSIGN_OR_RETURN(const crypto::CertificateInfo info,
                         crypto::ParseCertificate(pem));
  v1::CertificateIssued* issued =
      records.emplace_back().mutable_certificate_issued();
  issued->set_name(name);
  issued->set_serial(info.serial);
  issued->set_expires_unix_seconds(absl::ToUnixSeconds(info.not_after));
  issued->set_renewal(renewal);
  CHOIR_RETURN_IF_ERROR(loop_.Record(records));
  newest_[name] = Issued{public_key_sha256, pem, now};
  base::LogInfo("client ", name, renewal ? ": renewed" : ": enrolled",
                ", certificate ", info.serial);
  return pem;
}

absl::StatusOr<v1::EnrollResponse> Enrolment::Enroll(
    const v1::EnrollRequest& request) {
  const std::string& name = request.name();
  crypto::RequestInfo info;
  CHOIR_RETURN_IF_ERROR(
      CheckRequest(request.certificate_request_pem(), name, &info));
  if (!request.signing_request_pem().empty()) {
    CHOIR_RETURN_IF_ERROR(
        CheckSigningRequest(request.signing_request_pem(), name));
  }
  CHOIR_ASSIGN_OR_RETURN(
      registry::EnrolDecision decision,
      registry_.Enrol(name, request.token(), info.public_key_sha256,
                      options_.require_approval, clock_.Now()));
  v1::EnrollResponse response;
  if (decision.pending_approval) {
    CHOIR_RETURN_IF_ERROR(loop_.Record(decision.records));
    response.set_pending_approval(true);
    return response;
  }
  CHOIR_ASSIGN_OR_RETURN(
      std::string pem,
      Issue(request.certificate_request_pem(), name, info.public_key_sha256,
            false, std::move(decision.records)));
  response.set_certificate_pem(std::move(pem));
  if (!request.signing_request_pem().empty()) {
    CHOIR_ASSIGN_OR_RETURN(
        std::string signer,
        IssueSigner(request.signing_request_pem(), name, false));
    response.set_signing_certificate_pem(std::move(signer));
  }
  return response;
}

absl::StatusOr<v1::RenewCertificateResponse> Enrolment::Renew(
    const std::string& name, const v1::RenewCertificateRequest& request) {
  const std::string& signing = request.signing_request_pem();
  // Without any request, the first check says what is missing.
  const bool connects =
      signing.empty() || !request.certificate_request_pem().empty();
  crypto::RequestInfo info;
  if (connects) {
    CHOIR_RETURN_IF_ERROR(
        CheckRequest(request.certificate_request_pem(), name, &info));
    CHOIR_RETURN_IF_ERROR(CheckPause(name, info.public_key_sha256, newest_));
  }
  if (!signing.empty()) {
    CHOIR_RETURN_IF_ERROR(CheckSigningRequest(signing, name));
    CHOIR_RETURN_IF_ERROR(
        CheckPause(name, base::Sha256Hex(signing), newest_signers_));
  }
  v1::RenewCertificateResponse response;
  if (connects) {
    CHOIR_ASSIGN_OR_RETURN(std::string pem,
                           Issue(request.certificate_request_pem(), name,
                                 info.public_key_sha256, true, {}));
    response.set_certificate_pem(std::move(pem));
  }
  if (!signing.empty()) {
    CHOIR_ASSIGN_OR_RETURN(std::string pem, IssueSigner(signing, name, true));
    response.set_signing_certificate_pem(std::move(pem));
  }
  return response;
}

}  // namespace choir::rpc
