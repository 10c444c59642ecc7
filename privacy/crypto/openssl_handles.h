// Owners of OpenSSL's objects, and its last error as a Status. For this folder
// only.
#ifndef CHOIR_PRIVACY_CRYPTO_OPENSSL_HANDLES_H_
#define CHOIR_PRIVACY_CRYPTO_OPENSSL_HANDLES_H_

#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "privacy/crypto/identity.h"

namespace choir::crypto {

template <auto Free>
struct Freer {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};

using BioPtr = std::unique_ptr<BIO, Freer<BIO_free_all>>;
using KeyPtr = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY_free>>;
using KeyContextPtr = std::unique_ptr<EVP_PKEY_CTX, Freer<EVP_PKEY_CTX_free>>;
using KdfContextPtr = std::unique_ptr<EVP_KDF_CTX, Freer<EVP_KDF_CTX_free>>;
using CipherContextPtr =
    std::unique_ptr<EVP_CIPHER_CTX, Freer<EVP_CIPHER_CTX_free>>;
using DigestContextPtr = std::unique_ptr<EVP_MD_CTX, Freer<EVP_MD_CTX_free>>;
using CertPtr = std::unique_ptr<X509, Freer<X509_free>>;
using RequestPtr = std::unique_ptr<X509_REQ, Freer<X509_REQ_free>>;
using NamePtr = std::unique_ptr<X509_NAME, Freer<X509_NAME_free>>;
using CrlPtr = std::unique_ptr<X509_CRL, Freer<X509_CRL_free>>;
using RevokedPtr = std::unique_ptr<X509_REVOKED, Freer<X509_REVOKED_free>>;
using BignumPtr = std::unique_ptr<BIGNUM, Freer<BN_free>>;
using IntegerPtr = std::unique_ptr<ASN1_INTEGER, Freer<ASN1_INTEGER_free>>;
using TimePtr = std::unique_ptr<ASN1_TIME, Freer<ASN1_TIME_free>>;
using ExtensionPtr =
    std::unique_ptr<X509_EXTENSION, Freer<X509_EXTENSION_free>>;
using GeneralNamesPtr =
    std::unique_ptr<GENERAL_NAMES, Freer<GENERAL_NAMES_free>>;

struct PrivateKey::Handle {
  KeyPtr key;
};

// INTERNAL: "`what`: <OpenSSL's reason>"; empties OpenSSL's error queue.
absl::Status OpensslError(absl::string_view what);

// A read-only view of `text`, which outlives it.
BioPtr ReadOnlyBio(absl::string_view text);
// What was written to a memory BIO.
std::string BioText(BIO* bio);

// SHA-256, hexadecimal, of the key's SubjectPublicKeyInfo.
absl::StatusOr<std::string> SpkiSha256(EVP_PKEY* key);
bool IsP256(EVP_PKEY* key);
bool IsEd25519(EVP_PKEY* key);

// The text of a name's field (NID_commonName...), or "".
std::string NameField(const X509_NAME* name, int nid);
// CN = `name` and, if not empty, OU = `unit`.
absl::StatusOr<NamePtr> MakeName(absl::string_view name,
                                 absl::string_view unit);

absl::StatusOr<CertPtr> CertFromPem(absl::string_view pem);
// A request for a P-256 key.
absl::StatusOr<RequestPtr> RequestFromPem(absl::string_view pem);
// A request for an Ed25519 key.
absl::StatusOr<RequestPtr> SigningRequestFromPem(absl::string_view pem);
absl::StatusOr<CertificateInfo> InfoOf(X509* certificate);

// Lower-case hexadecimal digits without leading zeros.
std::string SerialText(const ASN1_INTEGER* serial);
absl::Time TimeOf(const ASN1_TIME* time);
TimePtr MakeTime(absl::Time time);

}  // namespace choir::crypto

#endif  // CHOIR_PRIVACY_CRYPTO_OPENSSL_HANDLES_H_
