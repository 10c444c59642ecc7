#include "privacy/crypto/signing.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "privacy/crypto/key_file.h"
#include "privacy/crypto/openssl_handles.h"

namespace choir::crypto {
namespace {

const unsigned char* Bytes(absl::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

absl::StatusOr<std::string> RawPublicKey(EVP_PKEY* key) {
  std::string out(kSigningPublicKeyBytes, '\0');
  size_t size = out.size();
  if (EVP_PKEY_get_raw_public_key(
          key, reinterpret_cast<unsigned char*>(out.data()), &size) != 1 ||
      size != kSigningPublicKeyBytes) {
    return OpensslError("reading a public key");
  }
  return out;
}

}  // namespace

struct SigningKey::Handle {
  KeyPtr key;
};

SigningKey::SigningKey(std::unique_ptr<Handle> handle)
    : handle_(std::move(handle)) {}
SigningKey::SigningKey(SigningKey&&) noexcept = default;
SigningKey& SigningKey::operator=(SigningKey&&) noexcept = default;
SigningKey::~SigningKey() = default;

absl::StatusOr<SigningKey> SigningKey::Generate(base::SecureRandom& random) {
  std::string bytes(32, '\0');
  random.Fill(
      absl::MakeSpan(reinterpret_cast<uint8_t*>(bytes.data()), bytes.size()));
  const SecretString secret(std::move(bytes));
  return FromPrivate(secret.view());
}

absl::StatusOr<SigningKey> SigningKey::FromPrivate(absl::string_view bytes) {
  if (bytes.size() != 32) {
    return absl::InvalidArgumentError(absl::StrCat(
        "an Ed25519 private key has 32 bytes, not ", bytes.size()));
  }
  auto handle = std::make_unique<Handle>();
  handle->key.reset(EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nullptr,
                                                 Bytes(bytes), bytes.size()));
  if (handle->key == nullptr) return OpensslError("making an Ed25519 key");
  return SigningKey(std::move(handle));
}

absl::StatusOr<SigningKey> SigningKey::FromPem(absl::string_view pem) {
  KeyPtr key = KeyFromPem(pem);
  if (key == nullptr || !IsEd25519(key.get())) {
    return absl::InvalidArgumentError(
        "not an unencrypted Ed25519 private key in PEM form");
  }
  auto handle = std::make_unique<Handle>();
  handle->key = std::move(key);
  return SigningKey(std::move(handle));
}

absl::StatusOr<SigningKey> SigningKey::ReadFile(const std::string& path) {
  return ReadKeyFile<SigningKey>(path);
}

absl::StatusOr<SecretString> SigningKey::ToPem() const {
  return KeyToPem(handle_->key.get());
}

absl::Status SigningKey::WriteFile(const std::string& path) const {
  return WriteKeyFile(handle_->key.get(), path);
}

absl::StatusOr<std::string> SigningKey::PublicKey() const {
  return RawPublicKey(handle_->key.get());
}

absl::StatusOr<std::string> SigningKey::Sign(absl::string_view text) const {
  const DigestContextPtr context(EVP_MD_CTX_new());
  std::string out(kSignatureBytes, '\0');
  size_t size = out.size();
  if (context == nullptr ||
      EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr,
                         handle_->key.get()) != 1 ||
      EVP_DigestSign(context.get(),
                     reinterpret_cast<unsigned char*>(out.data()), &size,
                     Bytes(text), text.size()) != 1 ||
      size != kSignatureBytes) {
    return OpensslError("signing");
  }
  return out;
}

bool SignatureIsValid(absl::string_view public_key, absl::string_view text,
                      absl::string_view signature) {
  if (public_key.size() != kSigningPublicKeyBytes ||
      signature.size() != kSignatureBytes) {
    return false;
  }
  const KeyPtr key(EVP_PKEY_new_raw_public_key(
      EVP_PKEY_ED25519, nullptr, Bytes(public_key), public_key.size()));
  const DigestContextPtr context(EVP_MD_CTX_new());
  const bool valid =
      key != nullptr && context != nullptr &&
      EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr,
                           key.get()) == 1 &&
      EVP_DigestVerify(context.get(), Bytes(signature), signature.size(),
                       Bytes(text), text.size()) == 1;
  ERR_clear_error();
  return valid;
}

absl::StatusOr<std::string> MakeSigningRequest(const SigningKey& key,
                                               absl::string_view name) {
  CHOIR_ASSIGN_OR_RETURN(NamePtr subject, MakeName(name, kSignerUnit));
  RequestPtr request(X509_REQ_new());
  EVP_PKEY* handle = key.handle().key.get();
  if (request == nullptr || X509_REQ_set_version(request.get(), 0) != 1 ||
      X509_REQ_set_subject_name(request.get(), subject.get()) != 1 ||
      X509_REQ_set_pubkey(request.get(), handle) != 1 ||
      X509_REQ_sign(request.get(), handle, nullptr) <= 0) {
    return OpensslError("making a certificate request");
  }
  BioPtr bio(BIO_new(BIO_s_mem()));
  if (PEM_write_bio_X509_REQ(bio.get(), request.get()) != 1) {
    return OpensslError("writing a certificate request");
  }
  return BioText(bio.get());
}

absl::StatusOr<std::string> SigningRequestName(absl::string_view pem) {
  CHOIR_ASSIGN_OR_RETURN(RequestPtr request, SigningRequestFromPem(pem));
  return NameField(X509_REQ_get_subject_name(request.get()), NID_commonName);
}

absl::StatusOr<std::string> CertificateDer(absl::string_view pem) {
  CHOIR_ASSIGN_OR_RETURN(CertPtr certificate, CertFromPem(pem));
  unsigned char* der = nullptr;
  const int size = i2d_X509(certificate.get(), &der);
  if (size <= 0) return OpensslError("encoding a certificate");
  std::string out(reinterpret_cast<char*>(der), static_cast<size_t>(size));
  OPENSSL_free(der);
  return out;
}

namespace {

// Null unless `der` is one certificate and nothing else.
CertPtr CertFromDer(absl::string_view der) {
  const unsigned char* at = Bytes(der);
  CertPtr certificate(
      der.size() > (1u << 16)
          ? nullptr
          : d2i_X509(nullptr, &at, static_cast<long>(der.size())));  // NOLINT
  ERR_clear_error();
  if (certificate != nullptr && at != Bytes(der) + der.size()) {
    certificate = nullptr;
  }
  return certificate;
}

}  // namespace

absl::StatusOr<std::string> CertificatePem(absl::string_view der) {
  const CertPtr certificate = CertFromDer(der);
  if (certificate == nullptr) {
    return absl::InvalidArgumentError("not a certificate in DER form");
  }
  BioPtr bio(BIO_new(BIO_s_mem()));
  if (PEM_write_bio_X509(bio.get(), certificate.get()) != 1) {
    return OpensslError("writing a certificate");
  }
  return BioText(bio.get());
}

struct SigningCertificateVerifier::State {
  CertPtr ca;
};

SigningCertificateVerifier::SigningCertificateVerifier(
    std::unique_ptr<State> state)
    : state_(std::move(state)) {}
SigningCertificateVerifier::SigningCertificateVerifier(
    SigningCertificateVerifier&&) noexcept = default;
SigningCertificateVerifier& SigningCertificateVerifier::operator=(
    SigningCertificateVerifier&&) noexcept = default;
SigningCertificateVerifier::~SigningCertificateVerifier() = default;

absl::StatusOr<SigningCertificateVerifier> SigningCertificateVerifier::Create(
    absl::string_view ca_certificate_pem) {
  CHOIR_ASSIGN_OR_RETURN(CertPtr ca, CertFromPem(ca_certificate_pem));
  CHOIR_ASSIGN_OR_RETURN(const CertificateInfo info, InfoOf(ca.get()));
  if (!info.is_ca) {
    return absl::InvalidArgumentError(
        absl::StrCat("the certificate of \"", info.name, "\" is not a CA's"));
  }
  auto state = std::make_unique<State>();
  state->ca = std::move(ca);
  return SigningCertificateVerifier(std::move(state));
}

absl::StatusOr<SignerInfo> SigningCertificateVerifier::Check(
    absl::string_view der) const {
  const CertPtr certificate = CertFromDer(der);
  if (certificate == nullptr) {
    return absl::PermissionDeniedError("not a certificate");
  }
  X509* leaf = certificate.get();
  const bool ours = X509_check_issued(state_->ca.get(), leaf) == X509_V_OK &&
                    X509_verify(leaf, X509_get0_pubkey(state_->ca.get())) == 1;
  ERR_clear_error();
  if (!ours) {
    return absl::PermissionDeniedError(
        "a signing certificate that this deployment's CA did not issue");
  }
  SignerInfo info;
  const X509_NAME* subject = X509_get_subject_name(leaf);
  info.name = NameField(subject, NID_commonName);
  if (info.name.empty() || X509_check_ca(leaf) > 0 ||
      NameField(subject, NID_organizationalUnitName) != kSignerUnit) {
    return absl::PermissionDeniedError(
        "a certificate that is not one for signing");
  }
  EVP_PKEY* key = X509_get0_pubkey(leaf);
  if (!IsEd25519(key)) {
    return absl::PermissionDeniedError(
        "a signing certificate whose key is not Ed25519");
  }
  CHOIR_ASSIGN_OR_RETURN(info.public_key, RawPublicKey(key));
  info.serial = SerialText(X509_get0_serialNumber(leaf));
  info.not_before = TimeOf(X509_get0_notBefore(leaf));
  info.not_after = TimeOf(X509_get0_notAfter(leaf));
  return info;
}

absl::Status SigningCertificateVerifier::CheckTime(const SignerInfo& info,
                                                   absl::Time now) {
  const auto text = [](absl::Time time) {
    return absl::FormatTime(absl::RFC3339_sec, time, absl::UTCTimeZone());
  };
  if (now > info.not_after) {
    return absl::PermissionDeniedError(
        absl::StrCat("the signing certificate of \"", info.name,
                     "\" expired at ", text(info.not_after)));
  }
  if (now < info.not_before) {
    return absl::PermissionDeniedError(absl::StrCat(
        "the signing certificate of \"", info.name, "\" is valid only from ",
        text(info.not_before), " on; compare the clocks"));
  }
  return absl::OkStatus();
}

}  // namespace choir::crypto
