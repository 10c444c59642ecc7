#include "privacy/crypto/symmetric.h"

#include <openssl/core_names.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "privacy/crypto/openssl_handles.h"

namespace choir::crypto {
namespace {

constexpr size_t kNonceBytes = 12;
constexpr size_t kTagBytes = 16;
// Keeps sizes within OpenSSL's int.
constexpr size_t kMostAtOnce = 1 << 30;

const unsigned char* Bytes(absl::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}
unsigned char* Bytes(std::string& text) {
  return reinterpret_cast<unsigned char*>(text.data());
}

// Algorithms are looked up once: a look-up costs more than a short message.
const EVP_CIPHER* Aes256Gcm() {
  static const EVP_CIPHER* cipher =
      EVP_CIPHER_fetch(nullptr, "AES-256-GCM", nullptr);
  return cipher;
}
const EVP_CIPHER* Aes256Ctr() {
  static const EVP_CIPHER* cipher =
      EVP_CIPHER_fetch(nullptr, "AES-256-CTR", nullptr);
  return cipher;
}
EVP_KDF* Hkdf() {
  static EVP_KDF* kdf = EVP_KDF_fetch(nullptr, "HKDF", nullptr);
  return kdf;
}

absl::Status CheckKey(absl::string_view key) {
  if (key.size() == kKeyBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("a key of ", key.size(),
                                                 " bytes where one of ",
                                                 kKeyBytes, " is needed"));
}

absl::Status CheckSize(size_t size) {
  if (size <= kMostAtOnce) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(size, " bytes are too many to be sealed at once"));
}

// The context is passed first, as associated data.
bool Update(EVP_CIPHER_CTX* cipher, absl::string_view context,
            absl::string_view text, unsigned char* out) {
  int size = 0;
  return (context.empty() ||
          EVP_CipherUpdate(cipher, nullptr, &size, Bytes(context),
                           static_cast<int>(context.size())) == 1) &&
         (text.empty() || EVP_CipherUpdate(cipher, out, &size, Bytes(text),
                                           static_cast<int>(text.size())) == 1);
}

}  // namespace

absl::StatusOr<SecretString> HkdfSha256(absl::string_view secret,
                                        absl::string_view salt,
                                        absl::string_view info, size_t bytes) {
  if (bytes == 0 || bytes > 255 * 32) {
    return absl::InvalidArgumentError(
        absl::StrCat("HKDF-SHA256 gives 1 to 8160 bytes, not ", bytes));
  }
  const KdfContextPtr context(EVP_KDF_CTX_new(Hkdf()));
  if (context == nullptr) return OpensslError("HKDF");
  const auto octets = [](const char* name, absl::string_view text) {
    // OpenSSL does not write to it.
    return OSSL_PARAM_construct_octet_string(
        name, const_cast<char*>(text.data() == nullptr ? "" : text.data()),
        text.size());
  };
  char digest[] = "SHA256";
  const OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
      octets(OSSL_KDF_PARAM_KEY, secret),
      octets(OSSL_KDF_PARAM_SALT, salt),
      octets(OSSL_KDF_PARAM_INFO, info),
      OSSL_PARAM_construct_end(),
  };
  std::string out(bytes, '\0');
  if (EVP_KDF_derive(context.get(), Bytes(out), out.size(), parameters) != 1) {
    Wipe(out);
    return OpensslError("HKDF");
  }
  return SecretString(std::move(out));
}

absl::StatusOr<std::string> Seal(absl::string_view key,
                                 absl::string_view context,
                                 absl::string_view text,
                                 base::SecureRandom& random) {
  uint8_t nonce[kNonceBytes];
  random.Fill(absl::MakeSpan(nonce));
  return SealWithNonce(
      key, absl::string_view(reinterpret_cast<const char*>(nonce), kNonceBytes),
      context, text);
}

absl::StatusOr<std::string> SealWithNonce(absl::string_view key,
                                          absl::string_view nonce,
                                          absl::string_view context,
                                          absl::string_view text) {
  CHOIR_RETURN_IF_ERROR(CheckKey(key));
  CHOIR_RETURN_IF_ERROR(CheckSize(std::max(context.size(), text.size())));
  if (nonce.size() != kNonceBytes) {
    return absl::InvalidArgumentError("a nonce has 12 bytes");
  }
  std::string out(kSealOverhead + text.size(), '\0');
  std::memcpy(out.data(), nonce.data(), kNonceBytes);
  const CipherContextPtr cipher(EVP_CIPHER_CTX_new());
  unsigned char* end = Bytes(out) + kNonceBytes + text.size();
  int size = 0;
  if (cipher == nullptr ||
      EVP_CipherInit_ex2(cipher.get(), Aes256Gcm(), Bytes(key), Bytes(nonce), 1,
                         nullptr) != 1 ||
      !Update(cipher.get(), context, text, Bytes(out) + kNonceBytes) ||
      EVP_CipherFinal_ex(cipher.get(), end, &size) != 1 ||
      EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_AEAD_GET_TAG, kTagBytes,
                          end) != 1) {
    return OpensslError("AES-256-GCM");
  }
  return out;
}

absl::StatusOr<SecretString> Open(absl::string_view key,
                                  absl::string_view context,
                                  absl::string_view sealed) {
  CHOIR_RETURN_IF_ERROR(CheckKey(key));
  CHOIR_RETURN_IF_ERROR(CheckSize(std::max(context.size(), sealed.size())));
  if (sealed.size() < kSealOverhead) {
    return absl::DataLossError("a sealed text that is too short");
  }
  const absl::string_view text =
      sealed.substr(kNonceBytes, sealed.size() - kSealOverhead);
  std::string tag(sealed.substr(sealed.size() - kTagBytes));
  std::string out(text.size(), '\0');
  const CipherContextPtr cipher(EVP_CIPHER_CTX_new());
  if (cipher == nullptr ||
      EVP_CipherInit_ex2(cipher.get(), Aes256Gcm(), Bytes(key), Bytes(sealed),
                         0, nullptr) != 1) {
    return OpensslError("AES-256-GCM");
  }
  unsigned char ignored[kTagBytes];
  int size = 0;
  if (!Update(cipher.get(), context, text, Bytes(out)) ||
      EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_AEAD_SET_TAG, kTagBytes,
                          tag.data()) != 1 ||
      EVP_CipherFinal_ex(cipher.get(), ignored, &size) != 1) {
    Wipe(out);
    ERR_clear_error();
    return absl::DataLossError(
        "a sealed text was changed, or sealed with another key or context");
  }
  return SecretString(std::move(out));
}

struct AesCtrStream::Context {
  CipherContextPtr cipher;
};

AesCtrStream::AesCtrStream(std::unique_ptr<Context> context)
    : context_(std::move(context)) {}
AesCtrStream::AesCtrStream(AesCtrStream&&) noexcept = default;
AesCtrStream& AesCtrStream::operator=(AesCtrStream&&) noexcept = default;
AesCtrStream::~AesCtrStream() = default;

absl::StatusOr<AesCtrStream> AesCtrStream::Create(absl::string_view key) {
  CHOIR_RETURN_IF_ERROR(CheckKey(key));
  auto context = std::make_unique<Context>();
  context->cipher.reset(EVP_CIPHER_CTX_new());
  constexpr unsigned char kZero[16] = {};
  if (context->cipher == nullptr ||
      EVP_EncryptInit_ex2(context->cipher.get(), Aes256Ctr(), Bytes(key), kZero,
                          nullptr) != 1) {
    return OpensslError("AES-256-CTR");
  }
  return AesCtrStream(std::move(context));
}

void AesCtrStream::Next(absl::Span<uint8_t> out) {
  // Zeros that stay in the cache cost less than clearing `out` first.
  alignas(64) static constexpr uint8_t kZeros[8192] = {};
  while (!out.empty()) {
    const size_t n = std::min(out.size(), sizeof(kZeros));
    int size = 0;
    CHOIR_CHECK(EVP_EncryptUpdate(context_->cipher.get(), out.data(), &size,
                                  kZeros, static_cast<int>(n)) == 1);
    out.remove_prefix(n);
  }
}

void AesCtrStream::Xor(absl::Span<uint8_t> data) {
  while (!data.empty()) {
    const size_t n = std::min(data.size(), kMostAtOnce);
    int size = 0;
    CHOIR_CHECK(EVP_EncryptUpdate(context_->cipher.get(), data.data(), &size,
                                  data.data(), static_cast<int>(n)) == 1);
    data.remove_prefix(n);
  }
}

}  // namespace choir::crypto
