// Unpredictable randomness, for keys, tokens and jitter. Reproducible
// randomness is base/sim_random.h.
#ifndef CHOIR_BASE_SECURE_RANDOM_H_
#define CHOIR_BASE_SECURE_RANDOM_H_

#include <cstdint>
#include <string>

#include "absl/types/span.h"

namespace choir::base {

// Threads: safe.
class SecureRandom {
 public:
  virtual ~SecureRandom() = default;
  virtual void Fill(absl::Span<uint8_t> out) = 0;

  uint64_t NextUint64();
  // `bytes` random bytes as lower-case hexadecimal digits.
  std::string Hex(int bytes);
};

// The operating system's generator through OpenSSL. Ends the process if it
// fails: there is no safe way to go on without it.
class SystemRandom final : public SecureRandom {
 public:
  void Fill(absl::Span<uint8_t> out) override;
};

}  // namespace choir::base

#endif  // CHOIR_BASE_SECURE_RANDOM_H_
