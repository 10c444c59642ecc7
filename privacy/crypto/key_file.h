// Private keys as text and in files. For this folder only.
#ifndef CHOIR_PRIVACY_CRYPTO_KEY_FILE_H_
#define CHOIR_PRIVACY_CRYPTO_KEY_FILE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/status_macros.h"
#include "privacy/crypto/openssl_handles.h"
#include "privacy/crypto/secret.h"

namespace choir::crypto {

// Null for what is not an unencrypted private key.
KeyPtr KeyFromPem(absl::string_view pem);
// PKCS#8, not encrypted.
absl::StatusOr<SecretString> KeyToPem(EVP_PKEY* key);

// The text of a key file. FAILED_PRECONDITION if others than the owner may read
// or write it.
absl::StatusOr<SecretString> ReadKeyText(const std::string& path);
// Mode 0600, atomically, durable when it returns.
absl::Status WriteKeyFile(EVP_PKEY* key, const std::string& path);

// Key::FromPem() of a file; errors name it.
template <typename Key>
absl::StatusOr<Key> ReadKeyFile(const std::string& path) {
  CHOIR_ASSIGN_OR_RETURN(const SecretString pem, ReadKeyText(path));
  absl::StatusOr<Key> key = Key::FromPem(pem.view());
  if (!key.ok()) {
    return absl::Status(key.status().code(),
                        absl::StrCat(path, ": ", key.status().message()));
  }
  return key;
}

}  // namespace choir::crypto

#endif  // CHOIR_PRIVACY_CRYPTO_KEY_FILE_H_
