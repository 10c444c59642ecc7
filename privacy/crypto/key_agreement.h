// X25519: two parties agree on a secret over an open channel.
//
// Source: RFC 7748.
#ifndef CHOIR_PRIVACY_CRYPTO_KEY_AGREEMENT_H_
#define CHOIR_PRIVACY_CRYPTO_KEY_AGREEMENT_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/secure_random.h"
#include "privacy/crypto/secret.h"

namespace choir::crypto {

inline constexpr size_t kX25519Bytes = 32;

// A key pair. The private key is wiped with the object, by OpenSSL too.
// Threads: const methods are safe.
class X25519Key {
 public:
  static absl::StatusOr<X25519Key> Generate(base::SecureRandom& random);
  // INVALID_ARGUMENT unless `bytes` are 32.
  static absl::StatusOr<X25519Key> FromPrivate(absl::string_view bytes);
  X25519Key(X25519Key&&) noexcept;
  X25519Key& operator=(X25519Key&&) noexcept;
  ~X25519Key();

  const std::string& public_key() const { return public_key_; }
  // 32 bytes; whoever copies them wipes the copy.
  absl::string_view private_key() const { return private_key_.view(); }

  // The shared secret, 32 bytes, to be put through HkdfSha256(). Cost: about 40
  // microseconds.
  // Errors: INVALID_ARGUMENT if `peer` is not 32 bytes, or a point of low
  //   order (RFC 7748, 6.1), with which the secret would be known to all.
  absl::StatusOr<SecretString> Agree(absl::string_view peer) const;
  // Agree() with each of `peers`, in order. With AVX-512 IFMA eight at a time,
  // by code of our own instead of OpenSSL's, in a fifth of the time. For keys
  // that are secret no more: those of clients who dropped out.
  // Errors: those of Agree(), for any of them.
  absl::StatusOr<std::vector<SecretString>> AgreeWithAll(
      absl::Span<const absl::string_view> peers) const;

 private:
  // OpenSSL's form of the key: to make it costs as much as an agreement.
  struct Handle;
  X25519Key(SecretString private_key, std::string public_key,
            std::unique_ptr<Handle> handle);

  SecretString private_key_;
  std::string public_key_;
  std::unique_ptr<Handle> handle_;
};

// Whether `public_key`, 32 bytes, is a point of low order: one with which every
// agreement fails. Cost: that of an agreement.
bool HasLowOrder(absl::string_view public_key);

}  // namespace choir::crypto

#endif  // CHOIR_PRIVACY_CRYPTO_KEY_AGREEMENT_H_
