// Symmetric cryptography: keys from secrets, sealing, and a key's stream.
#ifndef CHOIR_PRIVACY_CRYPTO_SYMMETRIC_H_
#define CHOIR_PRIVACY_CRYPTO_SYMMETRIC_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/secure_random.h"
#include "privacy/crypto/secret.h"

namespace choir::crypto {

inline constexpr size_t kKeyBytes = 32;

// `bytes` of key material (at most 255 * 32) from `secret`. Whatever the key is
// for and depends on belongs into `info`. Source: RFC 5869.
absl::StatusOr<SecretString> HkdfSha256(absl::string_view secret,
                                        absl::string_view salt,
                                        absl::string_view info, size_t bytes);

// What Seal() adds to a text: nonce (12 bytes) before it, tag (16) after it.
inline constexpr size_t kSealOverhead = 28;

// AES-256-GCM with a random nonce: who does not have the key learns nothing of
// `text`, and cannot change it or its `context` (which is not sent) unnoticed.
// INVALID_ARGUMENT unless `key` has 32 bytes. Source: NIST SP 800-38D.
absl::StatusOr<std::string> Seal(absl::string_view key,
                                 absl::string_view context,
                                 absl::string_view text,
                                 base::SecureRandom& random);
// With a nonce of the caller's, 12 bytes, that is used once with this key.
absl::StatusOr<std::string> SealWithNonce(absl::string_view key,
                                          absl::string_view nonce,
                                          absl::string_view context,
                                          absl::string_view text);
// DATA_LOSS if the text or context is not what was sealed with this key.
absl::StatusOr<SecretString> Open(absl::string_view key,
                                  absl::string_view context,
                                  absl::string_view sealed);

// The stream of AES-256 in counter mode, the counter starting at zero. A key is
// used for one stream only. Threads: one thread at a time per object.
// Source: NIST SP 800-38A.
class AesCtrStream {
 public:
  // INVALID_ARGUMENT unless `key` has 32 bytes.
  static absl::StatusOr<AesCtrStream> Create(absl::string_view key);
  AesCtrStream(AesCtrStream&&) noexcept;
  AesCtrStream& operator=(AesCtrStream&&) noexcept;
  ~AesCtrStream();

  // The next bytes of the stream.
  void Next(absl::Span<uint8_t> out);
  // Adds the next bytes to `data`, by exclusive or.
  void Xor(absl::Span<uint8_t> data);

 private:
  struct Context;
  explicit AesCtrStream(std::unique_ptr<Context> context);
  std::unique_ptr<Context> context_;
};

}  // namespace choir::crypto

#endif  // CHOIR_PRIVACY_CRYPTO_SYMMETRIC_H_
