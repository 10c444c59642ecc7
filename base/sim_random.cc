#include "base/sim_random.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "base/sha256.h"

namespace choir::base {
namespace {

constexpr double kPi = 3.14159265358979323846;

uint64_t RotateLeft(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

uint64_t SplitMix64(uint64_t& state) {
  uint64_t z = (state += 0x9e3779b97f4a7c15ULL);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

void AppendUint64(uint64_t value, Sha256& hasher) {
  uint8_t bytes[8];
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<uint8_t>(value >> (8 * i));
  hasher.Update(absl::MakeConstSpan(bytes));
}

}  // namespace

uint64_t DeriveSeed(uint64_t seed,
                    std::initializer_list<absl::string_view> parts) {
  Sha256 hasher;
  AppendUint64(seed, hasher);
  for (const absl::string_view part : parts) {
    AppendUint64(part.size(), hasher);
    hasher.Update(part);
  }
  const Sha256Digest digest = hasher.Finish();
  uint64_t derived = 0;
  for (int i = 0; i < 8; ++i) {
    derived |= static_cast<uint64_t>(digest[i]) << (8 * i);
  }
  return derived;
}

SimRandom::SimRandom(uint64_t seed) {
  for (uint64_t& word : state_) word = SplitMix64(seed);
}

uint64_t SimRandom::NextUint64() {
  const uint64_t result = RotateLeft(state_[1] * 5, 7) * 9;
  const uint64_t t = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= t;
  state_[3] = RotateLeft(state_[3], 45);
  return result;
}

uint64_t SimRandom::Below(uint64_t bound) {
  CHOIR_CHECK(bound > 0);
  // Values below the threshold would make the lower residues more frequent.
  const uint64_t threshold = (0 - bound) % bound;
  while (true) {
    const uint64_t value = NextUint64();
    if (value >= threshold) return value % bound;
  }
}

double SimRandom::Uniform() {
  return static_cast<double>(NextUint64() >> 11) * 0x1.0p-53;
}

double SimRandom::Normal() {
  const double u = 1.0 - Uniform();  // in (0, 1]: the logarithm is finite
  const double v = Uniform();
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * kPi * v);
}

double SimRandom::Gamma(double shape) {
  CHOIR_CHECK(shape > 0.0);
  if (shape < 1.0) {
    const double u = 1.0 - Uniform();
    return Gamma(shape + 1.0) * std::pow(u, 1.0 / shape);
  }
  const double d = shape - 1.0 / 3.0;
  const double c = 1.0 / std::sqrt(9.0 * d);
  while (true) {
    const double x = Normal();
    const double t = 1.0 + c * x;
    if (t <= 0.0) continue;
    const double v = t * t * t;
    const double u = 1.0 - Uniform();
    if (std::log(u) < 0.5 * x * x + d - d * v + d * std::log(v)) return d * v;
  }
}

}  // namespace choir::base
