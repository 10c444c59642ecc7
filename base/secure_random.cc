#include "base/secure_random.h"

#include <openssl/rand.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/escaping.h"
#include "base/check.h"

namespace choir::base {

uint64_t SecureRandom::NextUint64() {
  uint8_t bytes[8];
  Fill(absl::MakeSpan(bytes));
  uint64_t value = 0;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

std::string SecureRandom::Hex(int bytes) {
  std::string raw(bytes, '\0');
  Fill(absl::MakeSpan(reinterpret_cast<uint8_t*>(raw.data()), raw.size()));
  return absl::BytesToHexString(raw);
}

void SystemRandom::Fill(absl::Span<uint8_t> out) {
  constexpr size_t kMost = 1 << 30;
  while (!out.empty()) {
    const size_t n = std::min(out.size(), kMost);
    CHOIR_CHECK(RAND_bytes(out.data(), static_cast<int>(n)) == 1);
    out.remove_prefix(n);
  }
}

}  // namespace choir::base
