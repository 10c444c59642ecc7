#include "coordinator/main/ca_commands.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "privacy/crypto/authority.h"
#include "privacy/crypto/signing.h"
#include "proto/config/job_options.h"

namespace choir::coordinator {
namespace {

constexpr uint64_t kMaxPemBytes = 64u << 20;

absl::Status MustNotExist(const std::string& path) {
  if (!base::FileExists(path)) return absl::OkStatus();
  return absl::AlreadyExistsError(absl::StrCat(
      path, " exists; it is not overwritten (move it away first)"));
}

absl::Status CheckDays(int days) {
  if (days >= 1 && days <= 36500) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--days is ", days, "; it must be 1 to 36500"));
}

absl::StatusOr<crypto::CertificateAuthority> OpenCa(
    const std::string& directory) {
  const std::string path = base::JoinPath(directory, "ca.crt");
  if (!base::FileExists(path)) {
    return absl::NotFoundError(absl::StrCat(
        "no CA in ", directory, "; make one with `choir-admin ca init --dir ",
        directory, "`"));
  }
  CHOIR_ASSIGN_OR_RETURN(const std::string pem,
                         base::ReadFile(path, kMaxPemBytes));
  CHOIR_ASSIGN_OR_RETURN(
      crypto::PrivateKey key,
      crypto::PrivateKey::ReadFile(base::JoinPath(directory, "ca.key")));
  return crypto::CertificateAuthority::FromPem(pem, std::move(key));
}

// The key and certificate with which an agent signs in secure aggregation, in
// NAME.signing.key and NAME.signing.crt; their paths and serial go to `out`.
absl::Status IssueSigner(const crypto::CertificateAuthority& ca,
                         const CaIssueOptions& options, absl::Time now,
                         base::SecureRandom& random, nlohmann::json& out) {
  const std::string base_path =
      base::JoinPath(options.directory, absl::StrCat(options.name, ".signing"));
  const std::string certificate = absl::StrCat(base_path, ".crt");
  const std::string key_path = absl::StrCat(base_path, ".key");
  CHOIR_RETURN_IF_ERROR(MustNotExist(certificate));
  CHOIR_RETURN_IF_ERROR(MustNotExist(key_path));
  CHOIR_ASSIGN_OR_RETURN(const crypto::SigningKey key,
                         crypto::SigningKey::Generate(random));
  CHOIR_ASSIGN_OR_RETURN(const std::string request,
                         crypto::MakeSigningRequest(key, options.name));
  CHOIR_ASSIGN_OR_RETURN(
      const std::string pem,
      ca.IssueSigner(request, options.name, absl::Hours(24) * options.days, now,
                     random));
  CHOIR_ASSIGN_OR_RETURN(const crypto::CertificateInfo info,
                         crypto::ParseCertificate(pem));
  CHOIR_RETURN_IF_ERROR(key.WriteFile(key_path));
  CHOIR_RETURN_IF_ERROR(base::WriteFileAtomic(certificate, pem));
  out["signing_certificate"] = certificate;
  out["signing_private_key"] = key_path;
  out["signing_serial"] = info.serial;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<nlohmann::json> RunCaInit(const CaInitOptions& options,
                                         const base::Clock& clock,
                                         base::SecureRandom& random) {
  CHOIR_RETURN_IF_ERROR(CheckDays(options.days));
  const std::string certificate = base::JoinPath(options.directory, "ca.crt");
  const std::string key = base::JoinPath(options.directory, "ca.key");
  const std::string crl = base::JoinPath(options.directory, "crl.pem");
  CHOIR_RETURN_IF_ERROR(base::MakeDirectories(options.directory));
  CHOIR_RETURN_IF_ERROR(MustNotExist(certificate));
  CHOIR_RETURN_IF_ERROR(MustNotExist(key));
  CHOIR_ASSIGN_OR_RETURN(
      const crypto::CertificateAuthority ca,
      crypto::CertificateAuthority::Create(
          options.name, absl::Hours(24) * options.days, clock.Now(), random));
  CHOIR_RETURN_IF_ERROR(ca.key().WriteFile(key));
  CHOIR_RETURN_IF_ERROR(
      base::WriteFileAtomic(certificate, ca.certificate_pem()));
  CHOIR_ASSIGN_OR_RETURN(const std::string list,
                         ca.SignRevocationList({}, clock.Now()));
  CHOIR_RETURN_IF_ERROR(base::WriteFileAtomic(crl, list));
  return nlohmann::json{
      {"ca_certificate", certificate}, {"ca_private_key", key}, {"crl", crl}};
}

absl::StatusOr<nlohmann::json> RunCaIssue(const CaIssueOptions& options,
                                          const base::Clock& clock,
                                          base::SecureRandom& random) {
  CHOIR_RETURN_IF_ERROR(CheckDays(options.days));
  if (!config::IsValidName(options.name)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--name is \"", options.name,
                     "\"; it must be 1 to 64 letters, "
                     "digits, '-', '_' and '.', not beginning with '.'"));
  }
  crypto::IssueOptions issue;
  issue.role = crypto::RoleFromName(options.role);
  if (issue.role == crypto::Role::kNone) {
    return absl::InvalidArgumentError(
        absl::StrCat("--role is \"", options.role,
                     "\"; it must be agent, operator or "
                     "coordinator"));
  }
  issue.name = options.name;
  issue.hosts = options.hosts;
  issue.lifetime = absl::Hours(24) * options.days;
  CHOIR_ASSIGN_OR_RETURN(const crypto::CertificateAuthority ca,
                         OpenCa(options.directory));
  const std::string base_path = base::JoinPath(options.directory, options.name);
  const std::string certificate = absl::StrCat(base_path, ".crt");
  const std::string key_path = absl::StrCat(base_path, ".key");
  CHOIR_RETURN_IF_ERROR(MustNotExist(certificate));
  CHOIR_RETURN_IF_ERROR(MustNotExist(key_path));
  CHOIR_ASSIGN_OR_RETURN(const crypto::PrivateKey key,
                         crypto::PrivateKey::Generate());
  CHOIR_ASSIGN_OR_RETURN(
      const std::string request,
      crypto::MakeCertificateRequest(key, issue.name, issue.role));
  CHOIR_ASSIGN_OR_RETURN(const std::string pem,
                         ca.Issue(request, issue, clock.Now(), random));
  CHOIR_ASSIGN_OR_RETURN(const crypto::CertificateInfo info,
                         crypto::ParseCertificate(pem));
  CHOIR_RETURN_IF_ERROR(key.WriteFile(key_path));
  CHOIR_RETURN_IF_ERROR(base::WriteFileAtomic(certificate, pem));
  nlohmann::json out = {
      {"certificate", certificate},
      {"private_key", key_path},
      {"name", info.name},
      {"role", options.role},
      {"serial", info.serial},
      {"expires_unix_seconds", absl::ToUnixSeconds(info.not_after)}};
  if (issue.role == crypto::Role::kAgent) {
    CHOIR_RETURN_IF_ERROR(IssueSigner(ca, options, clock.Now(), random, out));
  }
  return out;
}

absl::StatusOr<nlohmann::json> RunCaRevoke(const CaRevokeOptions& options,
                                           const base::Clock& clock) {
  if (options.serial.empty() == options.certificate.empty()) {
    return absl::InvalidArgumentError(
        "give exactly one of --serial and --cert");
  }
  CHOIR_ASSIGN_OR_RETURN(const crypto::CertificateAuthority ca,
                         OpenCa(options.directory));
  std::string serial = absl::AsciiStrToLower(options.serial);
  if (!options.certificate.empty()) {
    CHOIR_ASSIGN_OR_RETURN(const std::string pem,
                           base::ReadFile(options.certificate, kMaxPemBytes));
    CHOIR_ASSIGN_OR_RETURN(const crypto::CertificateInfo info,
                           crypto::ParseCertificate(pem));
    serial = info.serial;
  }
  while (serial.size() > 1 && serial[0] == '0') serial.erase(0, 1);
  const std::string path = base::JoinPath(options.directory, "crl.pem");
  std::vector<crypto::RevokedSerial> revoked;
  if (base::FileExists(path)) {
    CHOIR_ASSIGN_OR_RETURN(const std::string pem,
                           base::ReadFile(path, kMaxPemBytes));
    CHOIR_ASSIGN_OR_RETURN(
        revoked, crypto::ParseRevocationList(pem, ca.certificate_pem()));
  }
  if (!crypto::SerialSet(revoked).contains(serial)) {
    revoked.push_back({serial, clock.Now()});
  }
  CHOIR_ASSIGN_OR_RETURN(const std::string list,
                         ca.SignRevocationList(revoked, clock.Now()));
  CHOIR_RETURN_IF_ERROR(base::WriteFileAtomic(path, list));
  return nlohmann::json{
      {"serial", serial}, {"crl", path}, {"revoked", revoked.size()}};
}

}  // namespace choir::coordinator
