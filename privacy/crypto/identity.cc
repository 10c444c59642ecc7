#include "privacy/crypto/identity.h"

#include <openssl/ec.h>

#include "base/status_macros.h"
#include "privacy/crypto/key_file.h"
#include "privacy/crypto/openssl_handles.h"

namespace choir::crypto {

absl::string_view RoleName(Role role) {
  switch (role) {
    case Role::kAgent:
      return "agent";
    case Role::kOperator:
      return "operator";
    case Role::kCoordinator:
      return "coordinator";
    case Role::kNone:
      break;
  }
  return "none";
}

Role RoleFromName(absl::string_view name) {
  for (const Role role : {Role::kAgent, Role::kOperator, Role::kCoordinator}) {
    if (name == RoleName(role)) return role;
  }
  return Role::kNone;
}

PrivateKey::PrivateKey(std::unique_ptr<Handle> handle)
    : handle_(std::move(handle)) {}
PrivateKey::PrivateKey(PrivateKey&&) noexcept = default;
PrivateKey& PrivateKey::operator=(PrivateKey&&) noexcept = default;
PrivateKey::~PrivateKey() = default;

absl::StatusOr<PrivateKey> PrivateKey::Generate() {
  KeyPtr key(EVP_EC_gen("P-256"));
  if (key == nullptr) return OpensslError("making a P-256 key");
  auto handle = std::make_unique<Handle>();
  handle->key = std::move(key);
  return PrivateKey(std::move(handle));
}

absl::StatusOr<PrivateKey> PrivateKey::FromPem(absl::string_view pem) {
  KeyPtr key = KeyFromPem(pem);
  if (key == nullptr) {
    return absl::InvalidArgumentError(
        "not an unencrypted private key in PEM form");
  }
  if (!IsP256(key.get())) {
    return absl::InvalidArgumentError("a private key must be P-256");
  }
  auto handle = std::make_unique<Handle>();
  handle->key = std::move(key);
  return PrivateKey(std::move(handle));
}

absl::StatusOr<PrivateKey> PrivateKey::ReadFile(const std::string& path) {
  return ReadKeyFile<PrivateKey>(path);
}

absl::StatusOr<SecretString> PrivateKey::ToPem() const {
  return KeyToPem(handle_->key.get());
}

absl::Status PrivateKey::WriteFile(const std::string& path) const {
  return WriteKeyFile(handle_->key.get(), path);
}

absl::StatusOr<std::string> PrivateKey::PublicKeySha256() const {
  return SpkiSha256(handle_->key.get());
}

absl::StatusOr<std::string> MakeCertificateRequest(const PrivateKey& key,
                                                   absl::string_view name,
                                                   Role role) {
  CHOIR_ASSIGN_OR_RETURN(NamePtr subject, MakeName(name, RoleName(role)));
  RequestPtr request(X509_REQ_new());
  EVP_PKEY* handle = key.handle().key.get();
  if (request == nullptr || X509_REQ_set_version(request.get(), 0) != 1 ||
      X509_REQ_set_subject_name(request.get(), subject.get()) != 1 ||
      X509_REQ_set_pubkey(request.get(), handle) != 1 ||
      X509_REQ_sign(request.get(), handle, EVP_sha256()) <= 0) {
    return OpensslError("making a certificate request");
  }
  BioPtr bio(BIO_new(BIO_s_mem()));
  if (PEM_write_bio_X509_REQ(bio.get(), request.get()) != 1) {
    return OpensslError("writing a certificate request");
  }
  return BioText(bio.get());
}

absl::StatusOr<RequestInfo> ParseCertificateRequest(absl::string_view pem) {
  CHOIR_ASSIGN_OR_RETURN(RequestPtr request, RequestFromPem(pem));
  RequestInfo info;
  const X509_NAME* subject = X509_REQ_get_subject_name(request.get());
  info.name = NameField(subject, NID_commonName);
  info.role = RoleFromName(NameField(subject, NID_organizationalUnitName));
  CHOIR_ASSIGN_OR_RETURN(info.public_key_sha256,
                         SpkiSha256(X509_REQ_get0_pubkey(request.get())));
  return info;
}

absl::StatusOr<CertificateInfo> ParseCertificate(absl::string_view pem) {
  CHOIR_ASSIGN_OR_RETURN(CertPtr certificate, CertFromPem(pem));
  return InfoOf(certificate.get());
}

}  // namespace choir::crypto
