// SHA-256 digests: the names of blobs, layouts and journal entries.
#ifndef CHOIR_BASE_SHA256_H_
#define CHOIR_BASE_SHA256_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace choir::base {

using Sha256Digest = std::array<uint8_t, 32>;

// Incremental SHA-256. Threads: one thread at a time per object.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void Update(absl::string_view bytes);
  void Update(absl::Span<const uint8_t> bytes);
  // Returns the digest of all bytes so far and starts afresh.
  Sha256Digest Finish();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

Sha256Digest Sha256Of(absl::string_view bytes);

// 64 lower-case hexadecimal digits: how digests stand in file names, protos
// and logs. User-facing documents write "sha256:" in front.
std::string ToHex(const Sha256Digest& digest);
std::string Sha256Hex(absl::string_view bytes);

// INVALID_ARGUMENT unless `hex` is 64 hexadecimal digits (a leading "sha256:"
// is accepted).
absl::StatusOr<Sha256Digest> DigestFromHex(absl::string_view hex);

}  // namespace choir::base

#endif  // CHOIR_BASE_SHA256_H_
