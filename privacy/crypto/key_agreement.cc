#include "privacy/crypto/key_agreement.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "privacy/crypto/openssl_handles.h"
#include "privacy/crypto/x25519_lanes.h"

namespace choir::crypto {
namespace {

constexpr char kLowOrder[] = "a peer's public key is a point of low order";

const unsigned char* Bytes(absl::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

absl::Status CheckSize(absl::string_view what, absl::string_view key) {
  if (key.size() == kX25519Bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      what, " has ", key.size(), " bytes; X25519 keys have ", kX25519Bytes));
}

KeyPtr LoadPrivate(absl::string_view bytes) {
  return KeyPtr(EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, nullptr,
                                             Bytes(bytes), bytes.size()));
}

}  // namespace

struct X25519Key::Handle {
  KeyPtr key;
};

X25519Key::X25519Key(SecretString private_key, std::string public_key,
                     std::unique_ptr<Handle> handle)
    : private_key_(std::move(private_key)),
      public_key_(std::move(public_key)),
      handle_(std::move(handle)) {}
X25519Key::X25519Key(X25519Key&&) noexcept = default;
X25519Key& X25519Key::operator=(X25519Key&&) noexcept = default;
X25519Key::~X25519Key() = default;

absl::StatusOr<X25519Key> X25519Key::Generate(base::SecureRandom& random) {
  std::string bytes(kX25519Bytes, '\0');
  random.Fill(
      absl::MakeSpan(reinterpret_cast<uint8_t*>(bytes.data()), bytes.size()));
  const SecretString secret(std::move(bytes));
  return FromPrivate(secret.view());
}

absl::StatusOr<X25519Key> X25519Key::FromPrivate(absl::string_view bytes) {
  CHOIR_RETURN_IF_ERROR(CheckSize("a private key", bytes));
  KeyPtr key = LoadPrivate(bytes);
  std::string public_key(kX25519Bytes, '\0');
  size_t size = public_key.size();
  if (key == nullptr ||
      EVP_PKEY_get_raw_public_key(
          key.get(), reinterpret_cast<unsigned char*>(public_key.data()),
          &size) != 1 ||
      size != kX25519Bytes) {
    return OpensslError("making an X25519 key");
  }
  return X25519Key(SecretString(std::string(bytes)), std::move(public_key),
                   std::make_unique<Handle>(Handle{std::move(key)}));
}

absl::StatusOr<SecretString> X25519Key::Agree(absl::string_view peer) const {
  CHOIR_RETURN_IF_ERROR(CheckSize("a peer's public key", peer));
  const KeyPtr other(EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, nullptr,
                                                 Bytes(peer), peer.size()));
  if (other == nullptr) {
    return OpensslError("loading a peer's X25519 key");
  }
  const KeyContextPtr context(EVP_PKEY_CTX_new(handle_->key.get(), nullptr));
  if (context == nullptr || EVP_PKEY_derive_init(context.get()) != 1 ||
      EVP_PKEY_derive_set_peer(context.get(), other.get()) != 1) {
    return OpensslError("agreeing on a secret");
  }
  std::string secret(kX25519Bytes, '\0');
  size_t size = secret.size();
  // OpenSSL refuses an all-zero result.
  if (EVP_PKEY_derive(context.get(),
                      reinterpret_cast<unsigned char*>(secret.data()),
                      &size) != 1 ||
      size != kX25519Bytes) {
    Wipe(secret);
    ERR_clear_error();
    return absl::InvalidArgumentError(kLowOrder);
  }
  return SecretString(std::move(secret));
}

bool HasLowOrder(absl::string_view public_key) {
  // Whatever the private key is: all are multiples of 8, the largest such
  // order.
  static const X25519Key* const kAny =
      new X25519Key(*X25519Key::FromPrivate(std::string(kX25519Bytes, 'x')));
  return absl::IsInvalidArgument(kAny->Agree(public_key).status());
}

absl::StatusOr<std::vector<SecretString>> X25519Key::AgreeWithAll(
    absl::Span<const absl::string_view> peers) const {
  std::vector<SecretString> secrets;
  secrets.reserve(peers.size());
  size_t next = 0;
#ifdef CHOIR_X25519_LANES
  static const bool lanes =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512ifma");
  // Fewer than half of the lanes are not worth it.
  while (lanes && next + kX25519Lanes / 2 < peers.size()) {
    const size_t count = std::min<size_t>(kX25519Lanes, peers.size() - next);
    uint8_t points[kX25519Lanes][kX25519Bytes] = {};
    uint8_t out[kX25519Lanes][kX25519Bytes];
    for (size_t i = 0; i < count; ++i) {
      CHOIR_RETURN_IF_ERROR(CheckSize("a peer's public key", peers[next + i]));
      std::memcpy(points[i], peers[next + i].data(), kX25519Bytes);
    }
    X25519EightPoints(Bytes(private_key_.view()), points, out);
    for (size_t i = 0; i < count; ++i) {
      std::string secret(reinterpret_cast<const char*>(out[i]), kX25519Bytes);
      if (secret.find_first_not_of('\0') == std::string::npos) {
        return absl::InvalidArgumentError(kLowOrder);
      }
      secrets.emplace_back(std::move(secret));
    }
    OPENSSL_cleanse(out, sizeof(out));
    next += count;
  }
#endif
  for (; next < peers.size(); ++next) {
    CHOIR_ASSIGN_OR_RETURN(SecretString secret, Agree(peers[next]));
    secrets.push_back(std::move(secret));
  }
  return secrets;
}

}  // namespace choir::crypto
