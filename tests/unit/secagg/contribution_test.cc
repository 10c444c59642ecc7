#include "privacy/secagg/contribution.h"

#include <cmath>
#include <limits>
#include <vector>

#include "base/sim_random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace choir::secagg {
namespace {

using ::testing::HasSubstr;

ContributionSpec Spec(uint64_t parameters, int value_bits = 32) {
  ContributionSpec spec;
  spec.num_parameters = parameters;
  spec.value_bits = value_bits;
  spec.max_weight = 100;
  spec.max_clients = 10;
  return spec;
}

// Modulus bits ceil(log2(n (2^b - 1) + 1)).
TEST(ModulusBitsTest, GivesTheTable) {
  const int bits[] = {8, 12, 16, 20, 22};
  const int clients[] = {10, 100, 1000, 10000};
  const int expected[4][5] = {{12, 16, 20, 24, 26},
                              {15, 19, 23, 27, 29},
                              {18, 22, 26, 30, 32},
                              {22, 26, 30, 34, 36}};
  for (int row = 0; row < 4; ++row) {
    for (int column = 0; column < 5; ++column) {
      ContributionSpec spec = Spec(1, bits[column]);
      spec.max_weight = 1;
      spec.max_clients = clients[row];
      EXPECT_EQ(*ModulusBits(spec), expected[row][column])
          << clients[row] << " clients, " << bits[column] << " bits";
    }
  }
}

TEST(ModulusBitsTest, NamesWhatToLower) {
  ContributionSpec spec = Spec(1);
  spec.max_weight = uint64_t{1} << 30;
  spec.max_clients = 1000;
  EXPECT_THAT(std::string(ModulusBits(spec).status().message()),
              HasSubstr("lower value_bits"));
  spec.max_weight = ~uint64_t{0};
  spec.max_clients = ~uint64_t{0};
  EXPECT_FALSE(ModulusBits(spec).ok());
  spec.value_bits = 33;
  EXPECT_FALSE(ModulusBits(spec).ok());
}

TEST(ContributionTest, SumsAreThoseOfThePlainGrid) {
  const ContributionSpec spec = Spec(3);
  const std::vector<float> a = {1.5f, -0.25f, 1e-8f};
  const std::vector<float> b = {-2.0f, 0.125f, 3.0f};
  auto sum = EncodeContribution(spec, {a, 3, 2.0, 0});
  const auto other = EncodeContribution(spec, {b, 5, 4.0, 0});
  ASSERT_TRUE(sum.ok() && other.ok());
  sum->Add(*other);
  const auto decoded = DecodeSum(spec, *sum, 2);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  const double scale = 1 << 24;
  EXPECT_EQ(decoded->sums,
            (std::vector<int64_t>{
                static_cast<int64_t>((3 * 1.5 - 5 * 2.0) * scale),
                static_cast<int64_t>((3 * -0.25 + 5 * 0.125) * scale),
                static_cast<int64_t>(15 * scale)}));
  EXPECT_EQ(decoded->total_weight, 8u);
  EXPECT_NEAR(decoded->mean_loss, (3 * 2.0 + 5 * 4.0) / 8, 1e-4);
  // Only one element is not on the grid: 1e-8 * 2^24 = 0.168 steps.
  EXPECT_NEAR(decoded->rounding_error_l2, 3 * 1e-8 / 8, 1e-10);
}

TEST(ContributionTest, BookkeepingFitsWhateverTheValueBits) {
  for (int bits = 4; bits <= 32; ++bits) {
    ContributionSpec spec = Spec(2, bits);
    spec.fixed_point_bits = bits - 2;
    const std::vector<float> values = {0.3f, -0.7f};
    auto sum = EncodeContribution(spec, {values, 100, 3.25, 0});
    ASSERT_TRUE(sum.ok()) << sum.status();
    const MaskedVector one = *sum;
    for (int i = 1; i < 10; ++i) sum->Add(one);
    const auto decoded = DecodeSum(spec, *sum, 10);
    ASSERT_TRUE(decoded.ok()) << decoded.status() << " bits " << bits;
    EXPECT_EQ(decoded->total_weight, 1000u);
    EXPECT_NEAR(decoded->mean_loss, 3.25, 1e-4);
    // Ten equal errors, as if independent: sqrt(10) / 10 of one.
    const double step = std::ldexp(1.0, -spec.fixed_point_bits);
    const auto miss = [&](double x) { return x - std::round(x / step) * step; };
    const double error = std::hypot(miss(0.3f), miss(-0.7f)) / std::sqrt(10);
    EXPECT_NEAR(decoded->rounding_error_l2, error, 0.01 * error + 1e-6 * step);
  }
}

TEST(ContributionTest, LossesThatAreStrangeDoNotSpoilTheRound) {
  const ContributionSpec spec = Spec(1);
  const std::vector<float> values = {0.0f};
  for (const double loss :
       {std::nan(""), -1.0, std::numeric_limits<double>::infinity(), 1e300}) {
    const auto vector = EncodeContribution(spec, {values, 1, loss, 0});
    ASSERT_TRUE(vector.ok());
    const auto decoded = DecodeSum(spec, *vector, 1);
    ASSERT_TRUE(decoded.ok());
    EXPECT_GE(decoded->mean_loss, 0);
    EXPECT_LE(decoded->mean_loss, 256);
  }
}

TEST(ContributionTest, RefusesWhatCannotBeSummed) {
  const ContributionSpec spec = Spec(2, 16);  // below 2^-9
  const auto status = [&](std::vector<float> values, uint64_t weight) {
    return EncodeContribution(spec, {values, weight, 0, 0}).status();
  };
  const auto kBad = absl::StatusCode::kInvalidArgument;
  EXPECT_TRUE(status({0.001f, -0.001f}, 1).ok());
  EXPECT_EQ(status({0.001f}, 1).code(), kBad);
  EXPECT_EQ(status({0.001f, 0}, 0).code(), kBad);
  // Of all that makes no sense the same is told, whatever and wherever it is.
  const absl::Status diverged = status({0, std::nanf("")}, 1);
  EXPECT_EQ(diverged.code(), kBad);
  EXPECT_EQ(status({-INFINITY, 0}, 1), diverged);
  EXPECT_EQ(status({0, 3.40e38f}, 7), diverged);
  EXPECT_EQ(status({128, 0}, 1), diverged);
}

// The coordinator chooses weights' and values' bounds. Were those refused that
// are beyond them, it could find out each client's.
TEST(ContributionTest, WhatIsBeyondTheBoundsCountsAsTheBound) {
  const ContributionSpec spec = Spec(3, 16);
  const float largest = std::ldexp(32767.0f, -24);
  const std::vector<float> values = {1.0f, -127.9f, 0.001f};
  const std::vector<float> clipped = {largest, -largest, 0.001f};
  const auto encode = [&](const std::vector<float>& update, uint64_t weight) {
    return *DecodeSum(spec, *EncodeContribution(spec, {update, weight, 2, 0}),
                      1);
  };
  const DecodedSum sum = encode(values, 31337);
  EXPECT_EQ(sum.total_weight, 100u);
  EXPECT_EQ(sum.sums, encode(clipped, 100).sums);
  EXPECT_EQ(sum.mean_loss, 2.0);
  const double missed = std::hypot(1.0 - largest, 127.9f - largest);
  EXPECT_NEAR(sum.rounding_error_l2, missed, 1e-6 * missed);
}

TEST(ContributionTest, TheErrorOfSmallWeightsAmongLargeOnesIsSeen) {
  for (const uint64_t max_weight : {100ull, 1000000ull, 1000000000ull}) {
    ContributionSpec spec = Spec(2, 16);
    spec.max_weight = max_weight;
    spec.fixed_point_bits = 8;
    const std::vector<float> values = {0.25f / 256, 1.0f};
    const auto sum = EncodeContribution(spec, {values, 1, 0, 0});
    ASSERT_TRUE(sum.ok()) << sum.status();
    EXPECT_NEAR(DecodeSum(spec, *sum, 1)->rounding_error_l2, 0.25 / 256, 1e-7)
        << max_weight;
  }
}

TEST(ContributionTest, GarbageIsNotASum) {
  const ContributionSpec spec = Spec(100);
  MaskedVector garbage(*ModulusBits(spec), ContributionLength(spec));
  int accepted = 0;
  for (int i = 0; i < 50; ++i) {
    ASSERT_TRUE(garbage
                    .AddMask(std::string(32, static_cast<char>(i)),
                             MaskedVector::Sign::kAdd)
                    .ok());
    if (DecodeSum(spec, garbage, 10).ok()) ++accepted;
  }
  EXPECT_EQ(accepted, 0);
  const std::vector<float> values(100, 0.5f);
  const auto one = EncodeContribution(spec, {values, 1, 1, 0});
  ASSERT_TRUE(one.ok());
  // A weight of 1 cannot be that of two clients.
  EXPECT_EQ(DecodeSum(spec, *one, 2).status().code(),
            absl::StatusCode::kDataLoss);
  EXPECT_FALSE(DecodeSum(spec, *one, 0).ok());
  EXPECT_FALSE(DecodeSum(spec, *one, 11).ok());
  EXPECT_FALSE(DecodeSum(Spec(101), *one, 1).ok());
}

TEST(ContributionTest, StochasticRoundingIsUnbiased) {
  ContributionSpec spec = Spec(4, 16);
  spec.fixed_point_bits = 8;
  spec.rounding = Rounding::kStochastic;
  const std::vector<float> values = {0.3f / 256, -0.75f / 256, 2.0f, 0.0f};
  double sums[4] = {};
  constexpr int kRuns = 20000;
  for (int run = 0; run < kRuns; ++run) {
    const auto vector = EncodeContribution(
        spec, {values, 1, 0, base::DeriveSeed(5, {std::to_string(run)})});
    ASSERT_TRUE(vector.ok());
    for (int i = 0; i < 4; ++i) sums[i] += vector->Signed(i);
  }
  EXPECT_NEAR(sums[0] / kRuns, 0.3, 0.02);
  EXPECT_NEAR(sums[1] / kRuns, -0.75, 0.02);
  EXPECT_EQ(sums[2] / kRuns, 512.0);
  EXPECT_EQ(sums[3], 0.0);
}

TEST(ContributionTest, RotationGivesTheMeanBackWithFewerBits) {
  // One large element among many small ones: without rotation it is clipped.
  constexpr int kSize = 1000;
  ContributionSpec spec = Spec(kSize, 12);
  spec.fixed_point_bits = 10;
  spec.max_clients = 5;
  spec.public_seed = 17;
  base::SimRandom random(4);
  std::vector<std::vector<float>> updates(5, std::vector<float>(kSize));
  for (auto& update : updates) {
    for (float& x : update) x = static_cast<float>(0.02 * random.Normal());
    update[123] = 6.0f;
  }
  const auto error_of_one = [&] {
    const auto vector = EncodeContribution(spec, {updates[0], 1, 0, 0});
    return DecodeSum(spec, *vector, 1)->rounding_error_l2;
  };
  EXPECT_GT(error_of_one(), 4.0);
  spec.rotate = true;
  EXPECT_LT(error_of_one(), 0.1);
  EXPECT_EQ(ContributionLength(spec), ContributionLength(Spec(1024, 12)));
  MaskedVector sum(*ModulusBits(spec), ContributionLength(spec));
  std::vector<double> mean(kSize);
  for (size_t u = 0; u < updates.size(); ++u) {
    const auto vector = EncodeContribution(spec, {updates[u], u + 1, 1, 0});
    ASSERT_TRUE(vector.ok()) << vector.status();
    sum.Add(*vector);
    for (int i = 0; i < kSize; ++i) mean[i] += updates[u][i] * (u + 1) / 15.0;
  }
  const auto decoded = DecodeSum(spec, sum, 5);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  ASSERT_EQ(decoded->sums.size(), size_t{kSize});
  double error = 0;
  for (int i = 0; i < kSize; ++i) {
    const double x = std::ldexp(decoded->sums[i] / 15.0, -10);
    error += (x - mean[i]) * (x - mean[i]);
  }
  EXPECT_GT(decoded->rounding_error_l2, 0.5 * std::sqrt(error));
  EXPECT_LT(decoded->rounding_error_l2, 2.0 * std::sqrt(error));
  EXPECT_LT(std::sqrt(error), 0.02);
}

}  // namespace
}  // namespace choir::secagg
