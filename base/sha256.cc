#include "base/sha256.h"

#include <openssl/evp.h>

#include <charconv>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/check.h"

namespace choir::base {

struct Sha256::Context {
  EVP_MD_CTX* md = nullptr;
  ~Context() { EVP_MD_CTX_free(md); }
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {
  context_->md = EVP_MD_CTX_new();
  CHOIR_CHECK(context_->md != nullptr);
  CHOIR_CHECK(EVP_DigestInit_ex(context_->md, EVP_sha256(), nullptr) == 1);
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::Update(absl::string_view bytes) {
  CHOIR_CHECK(EVP_DigestUpdate(context_->md, bytes.data(), bytes.size()) == 1);
}

void Sha256::Update(absl::Span<const uint8_t> bytes) {
  CHOIR_CHECK(EVP_DigestUpdate(context_->md, bytes.data(), bytes.size()) == 1);
}

Sha256Digest Sha256::Finish() {
  Sha256Digest digest;
  unsigned int size = 0;
  CHOIR_CHECK(EVP_DigestFinal_ex(context_->md, digest.data(), &size) == 1);
  CHOIR_CHECK(size == digest.size());
  CHOIR_CHECK(EVP_DigestInit_ex(context_->md, EVP_sha256(), nullptr) == 1);
  return digest;
}

Sha256Digest Sha256Of(absl::string_view bytes) {
  Sha256 hasher;
  hasher.Update(bytes);
  return hasher.Finish();
}

std::string ToHex(const Sha256Digest& digest) {
  return absl::BytesToHexString(absl::string_view(
      reinterpret_cast<const char*>(digest.data()), digest.size()));
}

std::string Sha256Hex(absl::string_view bytes) {
  return ToHex(Sha256Of(bytes));
}

absl::StatusOr<Sha256Digest> DigestFromHex(absl::string_view hex) {
  const absl::string_view digits = absl::StripPrefix(hex, "sha256:");
  bool good = digits.size() == 64;
  for (const char c : digits) good = good && absl::ascii_isxdigit(c);
  if (!good) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", hex.substr(0, 80),
        "' is not a SHA-256 digest: 64 hexadecimal digits are needed"));
  }
  Sha256Digest digest;
  for (size_t i = 0; i < digest.size(); ++i) {
    const char* const pair = digits.data() + 2 * i;
    std::from_chars(pair, pair + 2, digest[i], 16);
  }
  return digest;
}

}  // namespace choir::base
