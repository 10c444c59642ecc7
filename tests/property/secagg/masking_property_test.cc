// Sums of masked contributions equal plain ones, whatever the values; nothing
// wraps at the bounds; a masked vector looks like noise.
#include <cmath>
#include <string>
#include <vector>

#include "base/sim_random.h"
#include "gtest/gtest.h"
#include "privacy/secagg/contribution.h"
#include "privacy/secagg/grid.h"
#include "privacy/secagg/masked_vector.h"
#include "rapidcheck.h"

namespace choir::secagg {
namespace {

std::string KeyOf(uint64_t seed, int a, int b) {
  base::SimRandom random(base::DeriveSeed(
      seed, {std::to_string(std::min(a, b)), std::to_string(std::max(a, b))}));
  std::string key;
  while (key.size() < 32) key.push_back(static_cast<char>(random.Below(256)));
  return key;
}

ContributionSpec RandomSpec(base::SimRandom& random) {
  ContributionSpec spec;
  spec.num_parameters = 1 + random.Below(200);
  spec.value_bits = static_cast<int>(4 + random.Below(29));
  spec.fixed_point_bits = static_cast<int>(random.Below(29));
  spec.max_weight = 1 + random.Below(uint64_t{1} << random.Below(17));
  spec.max_clients = 2 + random.Below(8);
  return spec;
}

TEST(MaskingPropertyTest, MasksCancelAndSumsAreExact) {
  EXPECT_TRUE(rc::check([](uint64_t seed) {
    base::SimRandom random(seed);
    const ContributionSpec spec = RandomSpec(random);
    const int n = static_cast<int>(spec.max_clients);
    const double limit =
        std::ldexp(1.0, spec.value_bits - 1 - spec.fixed_point_bits);
    std::vector<int64_t> expected(spec.num_parameters);
    uint64_t total_weight = 0;
    MaskedVector sum(*ModulusBits(spec), ContributionLength(spec));
    for (int client = 0; client < n; ++client) {
      std::vector<float> values(spec.num_parameters);
      const uint64_t weight = 1 + random.Below(spec.max_weight);
      total_weight += weight;
      for (size_t i = 0; i < values.size(); ++i) {
        values[i] =
            static_cast<float>((2 * random.Uniform() - 1) * limit * 0.85);
        // The grid point nearest to a value may be the limit itself.
        if (std::abs(Quantize(values[i], spec.fixed_point_bits)) >=
            int64_t{1} << (spec.value_bits - 1)) {
          values[i] = 0;
        }
        expected[i] += static_cast<int64_t>(weight) *
                       Quantize(values[i], spec.fixed_point_bits);
      }
      auto vector = EncodeContribution(spec, {values, weight, 1.0, 0});
      RC_ASSERT(vector.ok());
      for (int peer = 0; peer < n; ++peer) {
        if (peer == client) continue;
        RC_ASSERT(vector
                      ->AddMask(KeyOf(seed, client, peer),
                                peer < client ? MaskedVector::Sign::kAdd
                                              : MaskedVector::Sign::kSubtract)
                      .ok());
      }
      RC_ASSERT(sum.AddEncoded(vector->Encode()).ok());
    }
    const auto decoded = DecodeSum(spec, sum, spec.max_clients);
    RC_ASSERT(decoded.ok());
    RC_ASSERT(decoded->sums == expected);
    RC_ASSERT(decoded->total_weight == total_weight);
  }));
}

TEST(MaskingPropertyTest, NothingWrapsAtTheBounds) {
  EXPECT_TRUE(rc::check([](uint64_t seed) {
    base::SimRandom random(seed);
    ContributionSpec spec = RandomSpec(random);
    spec.num_parameters = 2;
    // Values that a float holds exactly.
    spec.value_bits = std::min(spec.value_bits, 24);
    const int64_t largest = (int64_t{1} << (spec.value_bits - 1)) - 1;
    const float x = static_cast<float>(
        std::ldexp(static_cast<double>(largest), -spec.fixed_point_bits));
    const std::vector<float> values = {x, -x};
    const auto one =
        EncodeContribution(spec, {values, spec.max_weight, 1e9, 0});
    RC_ASSERT(one.ok());
    MaskedVector sum(one->modulus_bits(), one->length());
    for (uint64_t i = 0; i < spec.max_clients; ++i) sum.Add(*one);
    const auto decoded = DecodeSum(spec, sum, spec.max_clients);
    RC_ASSERT(decoded.ok());
    const int64_t most = largest * static_cast<int64_t>(spec.max_weight) *
                         static_cast<int64_t>(spec.max_clients);
    RC_ASSERT(decoded->sums[0] == most);
    RC_ASSERT(decoded->sums[1] == -most);
    RC_ASSERT(decoded->total_weight == spec.max_weight * spec.max_clients);
  }));
}

// Chi-square over all elements of a constant vector under one mask.
TEST(MaskingPropertyTest, MaskedConstantsAreUniform) {
  for (const int bits : {8, 13, 20, 32, 42, 64}) {
    for (const uint64_t constant : {uint64_t{0}, ~uint64_t{0}, uint64_t{77}}) {
      constexpr uint64_t kLength = 100000;
      MaskedVector vector(bits, kLength);
      for (uint64_t i = 0; i < kLength; ++i) vector.Set(i, constant);
      ASSERT_TRUE(
          vector.AddMask(KeyOf(constant, bits, 1), MaskedVector::Sign::kAdd)
              .ok());
      // The lowest and the highest eight bits of each element.
      for (const int shift : {0, bits - 8}) {
        std::vector<double> counts(256);
        for (uint64_t i = 0; i < kLength; ++i) {
          ++counts[(vector[i] >> shift) & 255];
        }
        double chi_square = 0;
        for (const double count : counts) {
          chi_square += (count - kLength / 256.0) * (count - kLength / 256.0) /
                        (kLength / 256.0);
        }
        EXPECT_LT(chi_square, 255 + 5 * 22.6) << bits << " " << constant;
        EXPECT_GT(chi_square, 255 - 5 * 22.6) << bits << " " << constant;
      }
    }
  }
}

}  // namespace
}  // namespace choir::secagg
