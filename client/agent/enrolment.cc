#include "client/agent/enrolment.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/files.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "client/agent/retry.h"

namespace choir::client {
namespace {

constexpr uint64_t kMaxPemBytes = 64u << 10;
constexpr uint64_t kMaxTokenBytes = 4096;
// A coordinator that does not issue signing certificates is asked again.
constexpr absl::Duration kAskForSignerAgain = absl::Hours(1);

// When two thirds of a certificate's life are over.
absl::Time RenewalTime(absl::Time not_before, absl::Time not_after) {
  return not_before + (not_after - not_before) * 2 / 3;
}

}  // namespace

Enrolment::Enrolment(const ClientOptions& options, StateDir& state,
                     Transport& transport, const base::Clock& clock,
                     base::SecureRandom& random, Sleeper& sleeper)
    : options_(options),
      state_(state),
      transport_(transport),
      clock_(clock),
      random_(random),
      sleeper_(sleeper),
      backoff_({.initial = absl::Seconds(1), .max = absl::Seconds(30)},
               random) {}

absl::StatusOr<crypto::PrivateKey> Enrolment::LoadOrMakeKey() {
  if (base::FileExists(state_.key_path())) {
    return crypto::PrivateKey::ReadFile(state_.key_path());
  }
  CHOIR_ASSIGN_OR_RETURN(crypto::PrivateKey key,
                         crypto::PrivateKey::Generate());
  CHOIR_RETURN_IF_ERROR(key.WriteFile(state_.key_path()));
  return key;
}

absl::StatusOr<std::string> Enrolment::LoadOrMakeRequest(
    const crypto::PrivateKey& key) {
  if (base::FileExists(state_.request_path())) {
    CHOIR_ASSIGN_OR_RETURN(std::string request,
                           base::ReadFile(state_.request_path(), kMaxPemBytes));
    const auto info = crypto::ParseCertificateRequest(request);
    if (info.ok() && info->name == options_.name &&
        info->public_key_sha256 == public_key_sha256_) {
      return request;
    }
  }
  CHOIR_ASSIGN_OR_RETURN(
      std::string request,
      crypto::MakeCertificateRequest(key, options_.name, crypto::Role::kAgent));
  CHOIR_RETURN_IF_ERROR(base::WriteFileAtomic(state_.request_path(), request));
  return request;
}

absl::StatusOr<bool> Enrolment::LoadCertificate() {
  if (!base::FileExists(state_.certificate_path())) return false;
  CHOIR_ASSIGN_OR_RETURN(
      const std::string pem,
      base::ReadFile(state_.certificate_path(), kMaxPemBytes));
  CHOIR_ASSIGN_OR_RETURN(const crypto::CertificateInfo info,
                         crypto::ParseCertificate(pem));
  if (info.name != options_.name ||
      info.public_key_sha256 != public_key_sha256_) {
    return absl::FailedPreconditionError(absl::StrCat(
        state_.certificate_path(), " is for \"", info.name,
        "\" or for another key, not for name = \"", options_.name,
        "\" and client.key; use another state folder, or remove it to enrol "
        "anew"));
  }
  if (info.not_after <= clock_.Now()) {
    base::LogWarning("the certificate expired at ",
                     absl::FormatTime(info.not_after, absl::UTCTimeZone()),
                     "; enrolling again");
    return false;
  }
  CHOIR_RETURN_IF_ERROR(Use(pem, info));
  return true;
}

absl::Status Enrolment::Use(const std::string& certificate_pem,
                            const crypto::CertificateInfo& info) {
  CHOIR_RETURN_IF_ERROR(
      transport_.UseIdentity(certificate_pem, key_pem_.view()));
  expires_at_ = info.not_after;
  renew_at_ = RenewalTime(info.not_before, info.not_after);
  return absl::OkStatus();
}

absl::Status Enrolment::LoadSigner() {
  CHOIR_ASSIGN_OR_RETURN(ca_certificate_pem_,
                         base::ReadFile(options_.ca_certificate, 1u << 20));
  if (!base::FileExists(state_.signing_key_path())) {
    CHOIR_ASSIGN_OR_RETURN(const crypto::SigningKey key,
                           crypto::SigningKey::Generate(random_));
    CHOIR_RETURN_IF_ERROR(key.WriteFile(state_.signing_key_path()));
  }
  CHOIR_ASSIGN_OR_RETURN(
      const crypto::SigningKey key,
      crypto::SigningKey::ReadFile(state_.signing_key_path()));
  CHOIR_ASSIGN_OR_RETURN(signing_request_pem_,
                         crypto::MakeSigningRequest(key, options_.name));
  renew_signer_at_ = clock_.Now();
  const std::string path = state_.signing_certificate_path();
  if (!base::FileExists(path)) return absl::OkStatus();
  CHOIR_ASSIGN_OR_RETURN(const std::string pem,
                         base::ReadFile(path, kMaxPemBytes));
  // One that is of no use is replaced.
  if (const absl::Status status = UseSigner(pem); !status.ok()) {
    base::LogWarning(path, ": ", status.message());
  }
  return absl::OkStatus();
}

absl::Status Enrolment::UseSigner(const std::string& certificate_pem) {
  CHOIR_ASSIGN_OR_RETURN(
      crypto::SigningKey key,
      crypto::SigningKey::ReadFile(state_.signing_key_path()));
  CHOIR_ASSIGN_OR_RETURN(
      std::unique_ptr<secagg::CertifiedSigner> signer,
      secagg::CertifiedSigner::Create(std::move(key), certificate_pem,
                                      ca_certificate_pem_));
  const crypto::SignerInfo& info = signer->info();
  if (info.name != options_.name) {
    return absl::FailedPreconditionError(
        absl::StrCat("a signing certificate for \"", info.name,
                     "\", not for \"", options_.name, "\""));
  }
  renew_signer_at_ = RenewalTime(info.not_before, info.not_after);
  signer_ = std::move(signer);
  return absl::OkStatus();
}

absl::Status Enrolment::AdoptSigner(const std::string& certificate_pem) {
  if (certificate_pem.empty()) {
    return absl::UnimplementedError(
        "the coordinator issues no signing certificates");
  }
  CHOIR_RETURN_IF_ERROR(UseSigner(certificate_pem));
  return base::WriteFileAtomic(state_.signing_certificate_path(),
                               certificate_pem);
}

const secagg::CertifiedSigner* Enrolment::signer() const {
  if (signer_ == nullptr || clock_.Now() >= signer_->info().not_after) {
    return nullptr;
  }
  return signer_.get();
}

void Enrolment::RenewSignerIfDue() {
  const absl::Time now = clock_.Now();
  if (now < renew_signer_at_ || signing_request_pem_.empty()) return;
  v1::RenewCertificateRequest request;
  request.set_signing_request_pem(signing_request_pem_);
  const absl::StatusOr<v1::RenewCertificateResponse> response =
      transport_.RenewCertificate(request);
  absl::Status status = response.status();
  if (status.ok()) status = AdoptSigner(response->signing_certificate_pem());
  if (status.ok()) {
    base::LogInfo(
        "signing certificate valid until ",
        absl::FormatTime(signer_->info().not_after, absl::UTCTimeZone()));
    return;
  }
  if (sleeper_.stopping()) return;
  renew_signer_at_ =
      now + (KindOf(status) == ErrorKind::kTransient ? absl::Seconds(30)
                                                     : kAskForSignerAgain);
  base::LogInfo("no new signing certificate, which secure rounds need: ",
                Describe(status), "; asked for again later");
}

absl::Status Enrolment::Adopt(const std::string& certificate_pem) {
  CHOIR_ASSIGN_OR_RETURN(const crypto::CertificateInfo info,
                         crypto::ParseCertificate(certificate_pem));
  if (info.name != options_.name ||
      info.public_key_sha256 != public_key_sha256_) {
    return absl::FailedPreconditionError(
        absl::StrCat("the coordinator sent a certificate for \"", info.name,
                     "\" or for another key, not for \"", options_.name, "\""));
  }
  CHOIR_RETURN_IF_ERROR(
      base::WriteFileAtomic(state_.certificate_path(), certificate_pem));
  return Use(certificate_pem, info);
}

absl::Status Enrolment::Enroll(const std::string& request_pem) {
  if (options_.token_file.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "\"", options_.name, "\" has no valid certificate in ", options_.state,
        "; ask an operator for a token (choir-admin token "
        "create) and name its file in token_file"));
  }
  CHOIR_ASSIGN_OR_RETURN(std::string token_text,
                         base::ReadFile(options_.token_file, kMaxTokenBytes));
  const crypto::SecretString secret(std::move(token_text));
  v1::EnrollRequest request;
  request.set_name(options_.name);
  request.set_token(std::string(absl::StripAsciiWhitespace(secret.view())));
  request.set_certificate_request_pem(request_pem);
  request.set_signing_request_pem(signing_request_pem_);
  bool waiting = false;
  while (!sleeper_.stopping()) {
    const absl::StatusOr<v1::EnrollResponse> response =
        transport_.Enroll(request);
    if (sleeper_.stopping()) break;
    if (response.ok() && !response->certificate_pem().empty()) {
      crypto::Wipe(*request.mutable_token());
      CHOIR_RETURN_IF_ERROR(Adopt(response->certificate_pem()));
      // Without one it is asked for again as soon as it is due.
      if (const absl::Status status =
              AdoptSigner(response->signing_certificate_pem());
          !status.ok()) {
        base::LogInfo("enrolled without a signing certificate: ",
                      status.message());
      }
      return absl::OkStatus();
    }
    if (response.ok()) {
      if (!waiting) {
        base::LogInfo("enrolment of ", options_.name,
                      " waits for an operator's approval (choir-admin client "
                      "approve ",
                      options_.name, ")");
      }
      waiting = true;
      sleeper_.Sleep(backoff_.Next());
      continue;
    }
    if (KindOf(response.status()) != ErrorKind::kTransient) {
      return absl::Status(
          response.status().code(),
          absl::StrCat("enrolment of ", options_.name,
                       " was refused: ", response.status().message()));
    }
    const absl::Duration wait = backoff_.Next();
    base::LogWarning("enrolment: ", Describe(response.status()),
                     "; next try in ", absl::FormatDuration(wait));
    sleeper_.Sleep(wait);
  }
  return absl::CancelledError("asked to stop");
}

absl::Status Enrolment::EnsureEnrolled() {
  CHOIR_ASSIGN_OR_RETURN(const crypto::PrivateKey key, LoadOrMakeKey());
  CHOIR_ASSIGN_OR_RETURN(key_pem_, key.ToPem());
  CHOIR_ASSIGN_OR_RETURN(public_key_sha256_, key.PublicKeySha256());
  CHOIR_ASSIGN_OR_RETURN(request_pem_, LoadOrMakeRequest(key));
  CHOIR_RETURN_IF_ERROR(LoadSigner());
  CHOIR_ASSIGN_OR_RETURN(const bool loaded, LoadCertificate());
  if (!loaded) CHOIR_RETURN_IF_ERROR(Enroll(request_pem_));
  backoff_.Reset();
  base::LogInfo("enrolled as ", options_.name, ", certificate valid until ",
                absl::FormatTime(expires_at_, absl::UTCTimeZone()));
  return absl::OkStatus();
}

absl::Status Enrolment::RenewIfDue() {
  const absl::Time now = clock_.Now();
  if (now >= expires_at_) {
    return absl::UnauthenticatedError(
        absl::StrCat("the certificate of ", options_.name, " expired at ",
                     absl::FormatTime(expires_at_, absl::UTCTimeZone()),
                     "; ask an operator for a new token and start again"));
  }
  RenewSignerIfDue();
  if (now < renew_at_) return absl::OkStatus();
  v1::RenewCertificateRequest request;
  request.set_certificate_request_pem(request_pem_);
  const absl::StatusOr<v1::RenewCertificateResponse> response =
      transport_.RenewCertificate(request);
  absl::Status status = response.status();
  if (status.ok()) status = Adopt(response->certificate_pem());
  if (status.ok()) {
    backoff_.Reset();
    base::LogInfo("certificate renewed, valid until ",
                  absl::FormatTime(expires_at_, absl::UTCTimeZone()));
    return absl::OkStatus();
  }
  if (sleeper_.stopping()) return absl::OkStatus();
  if (KindOf(status) == ErrorKind::kFatal) return status;
  renew_at_ = now + backoff_.Next();
  base::LogWarning("certificate renewal: ", Describe(status),
                   "; tried again later");
  return absl::OkStatus();
}

}  // namespace choir::client
