#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "privacy/crypto/authority.h"
#include "privacy/crypto/openssl_handles.h"

namespace choir::crypto {
namespace {

// INVALID_ARGUMENT for what is no serial number.
absl::StatusOr<IntegerPtr> SerialFromText(const std::string& text) {
  if (text.empty() || text.size() > 40 ||
      text.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", text, "\" is not a serial number: 1 to 40 hexadecimal digits"));
  }
  BIGNUM* number = nullptr;
  BN_hex2bn(&number, text.c_str());
  const BignumPtr owner(number);
  IntegerPtr serial(number == nullptr ? nullptr
                                      : BN_to_ASN1_INTEGER(number, nullptr));
  if (serial == nullptr) return OpensslError("reading a serial number");
  return serial;
}

absl::Status AddRevoked(X509_CRL* crl, const RevokedSerial& revoked) {
  CHOIR_ASSIGN_OR_RETURN(IntegerPtr serial, SerialFromText(revoked.serial));
  RevokedPtr entry(X509_REVOKED_new());
  TimePtr when = MakeTime(revoked.revoked_at);
  if (entry == nullptr || when == nullptr ||
      X509_REVOKED_set_serialNumber(entry.get(), serial.get()) != 1 ||
      X509_REVOKED_set_revocationDate(entry.get(), when.get()) != 1 ||
      X509_CRL_add0_revoked(crl, entry.get()) != 1) {
    return OpensslError("adding to a revocation list");
  }
  entry.release();  // NOLINT(bugprone-unused-return-value): the list owns it
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> CertificateAuthority::SignRevocationList(
    const std::vector<RevokedSerial>& revoked, absl::Time now) const {
  CHOIR_ASSIGN_OR_RETURN(CertPtr ca, CertFromPem(certificate_pem()));
  CrlPtr crl(X509_CRL_new());
  TimePtr issued = MakeTime(now);
  TimePtr next = MakeTime(now + absl::Hours(24 * 365));
  if (crl == nullptr || issued == nullptr || next == nullptr ||
      X509_CRL_set_version(crl.get(), X509_CRL_VERSION_2) != 1 ||
      X509_CRL_set_issuer_name(crl.get(), X509_get_subject_name(ca.get())) !=
          1 ||
      X509_CRL_set1_lastUpdate(crl.get(), issued.get()) != 1 ||
      X509_CRL_set1_nextUpdate(crl.get(), next.get()) != 1) {
    return OpensslError("making a revocation list");
  }
  for (const RevokedSerial& entry : revoked) {
    CHOIR_RETURN_IF_ERROR(AddRevoked(crl.get(), entry));
  }
  X509_CRL_sort(crl.get());
  if (X509_CRL_sign(crl.get(), key().handle().key.get(), EVP_sha256()) <= 0) {
    return OpensslError("signing a revocation list");
  }
  BioPtr bio(BIO_new(BIO_s_mem()));
  if (PEM_write_bio_X509_CRL(bio.get(), crl.get()) != 1) {
    return OpensslError("writing a revocation list");
  }
  return BioText(bio.get());
}

absl::StatusOr<std::vector<RevokedSerial>> ParseRevocationList(
    absl::string_view crl_pem, absl::string_view ca_certificate_pem) {
  CHOIR_ASSIGN_OR_RETURN(CertPtr ca, CertFromPem(ca_certificate_pem));
  BioPtr bio = ReadOnlyBio(crl_pem);
  CrlPtr crl(PEM_read_bio_X509_CRL(bio.get(), nullptr, nullptr, nullptr));
  ERR_clear_error();
  if (crl == nullptr) {
    return absl::InvalidArgumentError("not a revocation list in PEM form");
  }
  if (X509_CRL_verify(crl.get(), X509_get0_pubkey(ca.get())) != 1) {
    ERR_clear_error();
    return absl::DataLossError("the revocation list was not signed by this CA");
  }
  std::vector<RevokedSerial> out;
  STACK_OF(X509_REVOKED)* entries = X509_CRL_get_REVOKED(crl.get());
  for (int i = 0; i < sk_X509_REVOKED_num(entries); ++i) {
    const X509_REVOKED* entry = sk_X509_REVOKED_value(entries, i);
    out.push_back({SerialText(X509_REVOKED_get0_serialNumber(entry)),
                   TimeOf(X509_REVOKED_get0_revocationDate(entry))});
  }
  return out;
}

absl::flat_hash_set<std::string> SerialSet(
    const std::vector<RevokedSerial>& revoked) {
  absl::flat_hash_set<std::string> out;
  for (const RevokedSerial& entry : revoked) out.insert(entry.serial);
  return out;
}

}  // namespace choir::crypto
