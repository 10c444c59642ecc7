// Sums have no order, and encode and decode to themselves.
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "base/sim_random.h"
#include "coordinator/aggregate/integer_sum.h"
#include "gtest/gtest.h"
#include "rapidcheck.h"

namespace choir::aggregate {
namespace {

constexpr int kElements = 17;

struct Weighted {
  std::vector<float> values;
  uint64_t weight;
};

std::vector<Weighted> RandomUpdates(base::SimRandom& random, int bits) {
  const double limit = std::ldexp(1.0, 31 - bits);
  std::vector<Weighted> updates(1 + random.Below(12));
  for (Weighted& update : updates) {
    update.weight = 1 + random.Below(1000000);
    const double scale = std::pow(10.0, -6.0 * random.Uniform()) * limit;
    for (int i = 0; i < kElements; ++i) {
      update.values.push_back(
          static_cast<float>((2.0 * random.Uniform() - 1.0) * scale));
    }
  }
  return updates;
}

codec::Layout TestLayout() {
  return *codec::Layout::Create({{"w", {kElements}}});
}

IntegerSum SumOf(const std::vector<Weighted>& updates, int bits) {
  IntegerSum sum = *IntegerSum::Create(TestLayout(), bits);
  for (const Weighted& update : updates) {
    RC_ASSERT(sum.Add(update.values, update.weight).ok());
  }
  return sum;
}

TEST(IntegerSumPropertyTest, OrderAndGroupingDoNotMatter) {
  EXPECT_TRUE(rc::check([](uint64_t seed) {
    base::SimRandom random(seed);
    const int bits = 8 + static_cast<int>(random.Below(21));
    std::vector<Weighted> updates = RandomUpdates(random, bits);
    const std::string expected = SumOf(updates, bits).Encode();
    random.Shuffle(updates);
    RC_ASSERT(SumOf(updates, bits).Encode() == expected);
    std::vector<IntegerSum> parts(1 + random.Below(5),
                                  *IntegerSum::Create(TestLayout(), bits));
    for (const Weighted& update : updates) {
      IntegerSum& part = parts[random.Below(parts.size())];
      RC_ASSERT(part.Add(update.values, update.weight).ok());
    }
    random.Shuffle(parts);
    for (size_t i = 1; i < parts.size(); ++i) {
      RC_ASSERT(parts[0].Merge(parts[i]).ok());
    }
    RC_ASSERT(parts[0].Encode() == expected);
  }));
}

TEST(IntegerSumPropertyTest, TheMeanIsWithinHalfAStepOfTheTrueOne) {
  EXPECT_TRUE(rc::check([](uint64_t seed) {
    base::SimRandom random(seed);
    const int bits = 8 + static_cast<int>(random.Below(21));
    const std::vector<Weighted> updates = RandomUpdates(random, bits);
    const std::vector<double> mean = *SumOf(updates, bits).MeanUpdate();
    const double half_step = std::ldexp(0.5, -bits);
    for (int i = 0; i < kElements; ++i) {
      long double sum = 0.0L;
      long double weight = 0.0L;
      for (const Weighted& update : updates) {
        sum += static_cast<long double>(update.values[i]) * update.weight;
        weight += update.weight;
      }
      RC_ASSERT(std::fabs(static_cast<double>(sum / weight) - mean[i]) <=
                half_step * (1.0 + 1e-6));
    }
  }));
}

TEST(IntegerSumPropertyTest, DecodeOfEncodeIsTheSame) {
  EXPECT_TRUE(rc::check([](uint64_t seed) {
    base::SimRandom random(seed);
    const IntegerSum sum = SumOf(RandomUpdates(random, 20), 20);
    const std::string bytes = sum.Encode();
    const absl::StatusOr<IntegerSum> decoded = IntegerSum::Decode(bytes);
    RC_ASSERT(decoded.ok());
    RC_ASSERT(decoded->Encode() == bytes);
    RC_ASSERT(*decoded->MeanUpdate() == *sum.MeanUpdate());
  }));
}

}  // namespace
}  // namespace choir::aggregate
