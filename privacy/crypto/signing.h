// Ed25519 keys that sign for a client, and the certificates that bind them to
// its name.
//
// A signing certificate is issued by the deployment's CA; its common name is
// the client's and its organisational unit "signer", which is no role: it opens
// no connection. Source: RFC 8032 (Ed25519), RFC 8410 (in certificates).
#ifndef CHOIR_PRIVACY_CRYPTO_SIGNING_H_
#define CHOIR_PRIVACY_CRYPTO_SIGNING_H_

#include <memory>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/secure_random.h"
#include "privacy/crypto/authority.h"
#include "privacy/crypto/secret.h"

namespace choir::crypto {

inline constexpr size_t kSigningPublicKeyBytes = 32;
inline constexpr size_t kSignatureBytes = 64;
// The organisational unit of signing certificates.
inline constexpr absl::string_view kSignerUnit = "signer";

// Threads: const methods are safe.
class SigningKey {
 public:
  static absl::StatusOr<SigningKey> Generate(base::SecureRandom& random);
  // From the 32 bytes of RFC 8032.
  static absl::StatusOr<SigningKey> FromPrivate(absl::string_view bytes);
  static absl::StatusOr<SigningKey> FromPem(absl::string_view pem);
  // FAILED_PRECONDITION if others than the owner may read or write the file.
  static absl::StatusOr<SigningKey> ReadFile(const std::string& path);

  SigningKey(SigningKey&&) noexcept;
  SigningKey& operator=(SigningKey&&) noexcept;
  ~SigningKey();

  // PKCS#8, not encrypted.
  absl::StatusOr<SecretString> ToPem() const;
  // Mode 0600, atomically, durable when it returns.
  absl::Status WriteFile(const std::string& path) const;
  // 32 bytes.
  absl::StatusOr<std::string> PublicKey() const;
  // 64 bytes; the same text gives the same signature.
  absl::StatusOr<std::string> Sign(absl::string_view text) const;

  // For the other files of this folder.
  struct Handle;
  const Handle& handle() const { return *handle_; }

 private:
  explicit SigningKey(std::unique_ptr<Handle> handle);
  std::unique_ptr<Handle> handle_;
};

// Whether `signature` is that of `text` by the holder of `public_key`.
bool SignatureIsValid(absl::string_view public_key, absl::string_view text,
                      absl::string_view signature);

// A PKCS#10 request, PEM, for `name`.
absl::StatusOr<std::string> MakeSigningRequest(const SigningKey& key,
                                               absl::string_view name);
// The name in a request. INVALID_ARGUMENT also if the key is not Ed25519 or the
// request is not signed with it.
absl::StatusOr<std::string> SigningRequestName(absl::string_view pem);

// The DER of a certificate in PEM form, and back.
absl::StatusOr<std::string> CertificateDer(absl::string_view pem);
absl::StatusOr<std::string> CertificatePem(absl::string_view der);

struct SignerInfo {
  std::string name;
  std::string public_key;  // 32 bytes
  std::string serial;
  absl::Time not_before;
  absl::Time not_after;
};

// Reads a signing certificate and checks that the CA signed it. Threads: const
// methods are safe.
class SigningCertificateVerifier {
 public:
  static absl::StatusOr<SigningCertificateVerifier> Create(
      absl::string_view ca_certificate_pem);
  SigningCertificateVerifier(SigningCertificateVerifier&&) noexcept;
  SigningCertificateVerifier& operator=(SigningCertificateVerifier&&) noexcept;
  ~SigningCertificateVerifier();

  // PERMISSION_DENIED, saying why, unless `der` is one certificate of an
  // Ed25519 key with a name and the unit "signer", issued by the CA, and
  // nothing else. Its times and revocation are the caller's to check.
  // Cost: one P-256 verification, about 0.1 ms.
  absl::StatusOr<SignerInfo> Check(absl::string_view der) const;
  // PERMISSION_DENIED if `info` is not valid at `now`.
  static absl::Status CheckTime(const SignerInfo& info, absl::Time now);

 private:
  struct State;
  explicit SigningCertificateVerifier(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace choir::crypto

#endif  // CHOIR_PRIVACY_CRYPTO_SIGNING_H_
