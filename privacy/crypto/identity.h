// Who a peer is: P-256 keys, certificate requests and certificates.
//
// A certificate's common name is the peer's name and its organisational unit is
// its role. Texts are PEM. Errors everywhere: INVALID_ARGUMENT for a text that
// is not what it should be, INTERNAL if OpenSSL fails; messages never contain
// key material. Source: RFC 5280 (certificates), RFC 2986 (requests).
#ifndef CHOIR_PRIVACY_CRYPTO_IDENTITY_H_
#define CHOIR_PRIVACY_CRYPTO_IDENTITY_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "privacy/crypto/secret.h"

namespace choir::crypto {

// kNone: no such role; it may call nothing.
enum class Role { kNone, kAgent, kOperator, kCoordinator };

// "agent", "operator", "coordinator"; "none".
absl::string_view RoleName(Role role);
// kNone for anything else than the three names.
Role RoleFromName(absl::string_view name);

// A P-256 private key. OpenSSL wipes it when it is freed.
// Threads: const methods are safe.
class PrivateKey {
 public:
  static absl::StatusOr<PrivateKey> Generate();
  static absl::StatusOr<PrivateKey> FromPem(absl::string_view pem);
  // FAILED_PRECONDITION if others than the owner may read or write the file.
  static absl::StatusOr<PrivateKey> ReadFile(const std::string& path);

  PrivateKey(PrivateKey&&) noexcept;
  PrivateKey& operator=(PrivateKey&&) noexcept;
  ~PrivateKey();

  // PKCS#8, not encrypted.
  absl::StatusOr<SecretString> ToPem() const;
  // Mode 0600, atomically, durable when it returns.
  absl::Status WriteFile(const std::string& path) const;
  // SHA-256, hexadecimal, of the SubjectPublicKeyInfo (DER).
  absl::StatusOr<std::string> PublicKeySha256() const;

  // For the other files of this folder.
  struct Handle;
  const Handle& handle() const { return *handle_; }

 private:
  explicit PrivateKey(std::unique_ptr<Handle> handle);
  std::unique_ptr<Handle> handle_;
};

// A PKCS#10 request signed with `key`: common name `name`, organisational unit
// `role`. The CA decides on its own what it writes into the certificate.
absl::StatusOr<std::string> MakeCertificateRequest(const PrivateKey& key,
                                                   absl::string_view name,
                                                   Role role);

struct RequestInfo {
  std::string name;
  Role role = Role::kNone;
  std::string public_key_sha256;
};

// INVALID_ARGUMENT also if the request is not signed with its own key, the key
// is not P-256, or the text is longer than 16 KiB.
absl::StatusOr<RequestInfo> ParseCertificateRequest(absl::string_view pem);

struct CertificateInfo {
  std::string name;
  Role role = Role::kNone;
  // Lower-case hexadecimal digits without leading zeros.
  std::string serial;
  absl::Time not_before;
  absl::Time not_after;
  // DNS names and IP addresses, as text.
  std::vector<std::string> alt_names;
  // SHA-256, hexadecimal, of the SubjectPublicKeyInfo (DER).
  std::string public_key_sha256;
  // SHA-256, hexadecimal, of the certificate (DER).
  std::string fingerprint;
  bool is_ca = false;
};

// Reads the first certificate in `pem`. Says nothing about who signed it.
absl::StatusOr<CertificateInfo> ParseCertificate(absl::string_view pem);

}  // namespace choir::crypto

#endif  // CHOIR_PRIVACY_CRYPTO_IDENTITY_H_
