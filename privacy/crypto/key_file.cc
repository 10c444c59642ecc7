#include "privacy/crypto/key_file.h"

#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "base/files.h"

namespace choir::crypto {

KeyPtr KeyFromPem(absl::string_view pem) {
  BioPtr bio = ReadOnlyBio(pem);
  // An empty password callback keeps OpenSSL from asking on the terminal.
  KeyPtr key(PEM_read_bio_PrivateKey(
      bio.get(), nullptr, [](char*, int, int, void*) { return 0; }, nullptr));
  ERR_clear_error();
  return key;
}

absl::StatusOr<SecretString> KeyToPem(EVP_PKEY* key) {
  // Secure memory BIOs wipe what they held.
  BioPtr bio(BIO_new(BIO_s_secmem()));
  if (bio == nullptr ||
      PEM_write_bio_PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr,
                               nullptr) != 1) {
    return OpensslError("writing a private key");
  }
  return SecretString(BioText(bio.get()));
}

absl::StatusOr<SecretString> ReadKeyText(const std::string& path) {
  struct stat file = {};
  if (::stat(path.c_str(), &file) != 0) {
    return base::ErrnoStatus(errno, absl::StrCat("read ", path));
  }
  if ((file.st_mode & 077) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("others may read or write the private key ", path,
                     "; run: chmod 600 ", path));
  }
  CHOIR_ASSIGN_OR_RETURN(std::string text, base::ReadFile(path, 1 << 20));
  return SecretString(std::move(text));
}

absl::Status WriteKeyFile(EVP_PKEY* key, const std::string& path) {
  CHOIR_ASSIGN_OR_RETURN(const SecretString pem, KeyToPem(key));
  return base::WriteFileAtomic(path, pem.view(), base::Durability::kPowerLoss,
                               0600);
}

}  // namespace choir::crypto
