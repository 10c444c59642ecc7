// Counts that peers claim: adding them up must not wrap around.
#ifndef CHOIR_BASE_SATURATING_ADD_H_
#define CHOIR_BASE_SATURATING_ADD_H_

#include <cstdint>
#include <limits>

namespace choir::base {

// a + b, or the largest value where that would not fit.
inline uint64_t SaturatingAdd(uint64_t a, uint64_t b) {
  constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();
  return b > kMost - a ? kMost : a + b;
}

}  // namespace choir::base

#endif  // CHOIR_BASE_SATURATING_ADD_H_
