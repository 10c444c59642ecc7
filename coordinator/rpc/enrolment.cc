#include "coordinator/rpc/enrolment.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace choir::rpc {
namespace {

constexpr absl::Duration kRepeatWindow = absl::Minutes(1);
constexpr absl::Duration kRenewalPause = absl::Seconds(5);

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
  if (!options_.authority.has_value()) {
    return absl::FailedPreconditionError(
        "this coordinator signs no certificates (enrolment.ca_private_key is "
        "not set); ask the operator for one made by `choir-admin ca issue`");
  }
  CHOIR_ASSIGN_OR_RETURN(*info, crypto::ParseCertificateRequest(pem));
  if (info->name != name) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the certificate request was made for another name than \"", name,
        "\""));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Enrolment::Issue(
    const std::string& request_pem, const std::string& name,
    const std::string& public_key_sha256, bool renewal,
    std::vector<v1::JournalRecord> records) {
  const absl::Time now = clock_.Now();
  auto known = newest_.find(name);
  if (records.empty() && known != newest_.end() &&
      known->second.public_key_sha256 == public_key_sha256 &&
      now >= known->second.at && now < known->second.at + kRepeatWindow) {
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
  crypto::RequestInfo info;
  CHOIR_RETURN_IF_ERROR(
      CheckRequest(request.certificate_request_pem(), request.name(), &info));
  CHOIR_ASSIGN_OR_RETURN(
      registry::EnrolDecision decision,
      registry_.Enrol(request.name(), request.token(), info.public_key_sha256,
                      options_.require_approval, clock_.Now()));
  v1::EnrollResponse response;
  if (decision.pending_approval) {
    CHOIR_RETURN_IF_ERROR(loop_.Record(decision.records));
    response.set_pending_approval(true);
    return response;
  }
  CHOIR_ASSIGN_OR_RETURN(
      std::string pem,
      Issue(request.certificate_request_pem(), request.name(),
            info.public_key_sha256, false, std::move(decision.records)));
  response.set_certificate_pem(std::move(pem));
  return response;
}

absl::StatusOr<v1::RenewCertificateResponse> Enrolment::Renew(
    const std::string& name, const v1::RenewCertificateRequest& request) {
  crypto::RequestInfo info;
  CHOIR_RETURN_IF_ERROR(
      CheckRequest(request.certificate_request_pem(), name, &info));
  auto known = newest_.find(name);
  const absl::Time now = clock_.Now();
  if (known != newest_.end() &&
      known->second.public_key_sha256 != info.public_key_sha256 &&
      now >= known->second.at && now < known->second.at + kRenewalPause) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "client \"", name, "\" had a new certificate less than ",
        absl::FormatDuration(kRenewalPause), " ago; ask again later"));
  }
  CHOIR_ASSIGN_OR_RETURN(
      std::string pem,
      Issue(request.certificate_request_pem(), name, info.public_key_sha256,
            true, {}));
  v1::RenewCertificateResponse response;
  response.set_certificate_pem(std::move(pem));
  return response;
}

}  // namespace choir::rpc
