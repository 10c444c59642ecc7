// Reproducible randomness, for everything that must come out the same twice:
// selection, shuffling, initialisation, simulation. Never for secrets; that is
// base/secure_random.h. The two kinds are different types on purpose.
#ifndef CHOIR_BASE_SIM_RANDOM_H_
#define CHOIR_BASE_SIM_RANDOM_H_

#include <cstdint>
#include <initializer_list>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace choir::base {

// A seed that depends on all `parts` and on nothing else (SHA-256 of the parts
// with their lengths). Two lists that differ give unrelated seeds.
uint64_t DeriveSeed(uint64_t seed,
                    std::initializer_list<absl::string_view> parts);

// xoshiro256** (Blackman and Vigna, 2018), seeded through splitmix64. The same
// numbers on every platform, unlike the distributions of <random>.
// Threads: one thread at a time per object.
class SimRandom {
 public:
  explicit SimRandom(uint64_t seed);

  uint64_t NextUint64();
  // Uniform in [0, bound), without bias. bound must be positive.
  uint64_t Below(uint64_t bound);
  // Uniform in [0, 1) with 53 random bits.
  double Uniform();
  // Standard normal (Box-Muller).
  double Normal();
  // Gamma with the given positive shape and scale 1 (Marsaglia and Tsang 2000).
  double Gamma(double shape);

  template <typename T>
  void Shuffle(std::vector<T>& items) {
    for (size_t i = items.size(); i > 1; --i) {
      std::swap(items[i - 1], items[Below(i)]);
    }
  }

 private:
  uint64_t state_[4];
};

}  // namespace choir::base

#endif  // CHOIR_BASE_SIM_RANDOM_H_
