#include "coordinator/aggregate/integer_sum.h"

#include <cfenv>
#include <cmath>
#include <limits>

#include "absl/strings/escaping.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace choir::aggregate {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

codec::Layout TestLayout(int64_t elements, const char* name = "w") {
  absl::StatusOr<codec::Layout> layout =
      codec::Layout::Create({{name, {elements}}});
  EXPECT_TRUE(layout.ok());
  return *layout;
}

IntegerSum Empty(int64_t elements, int bits = 24) {
  absl::StatusOr<IntegerSum> sum =
      IntegerSum::Create(TestLayout(elements), bits);
  EXPECT_TRUE(sum.ok());
  return *std::move(sum);
}

TEST(QuantizeTest, RoundsToNearestTiesToEven) {
  EXPECT_EQ(Quantize(0.0f, 8), 0);
  EXPECT_EQ(Quantize(1.0f, 8), 256);
  EXPECT_EQ(Quantize(-1.0f, 8), -256);
  EXPECT_EQ(Quantize(0.5f / 256, 8), 0);
  EXPECT_EQ(Quantize(1.5f / 256, 8), 2);
  EXPECT_EQ(Quantize(2.5f / 256, 8), 2);
  EXPECT_EQ(Quantize(-0.5f / 256, 8), 0);
  EXPECT_EQ(Quantize(-1.5f / 256, 8), -2);
  EXPECT_EQ(Quantize(-2.5f / 256, 8), -2);
  EXPECT_EQ(Quantize(0.51f / 256, 8), 1);
  EXPECT_EQ(Quantize(-0.51f / 256, 8), -1);
  EXPECT_EQ(Quantize(1e-45f, 28), 0);
  EXPECT_EQ(Quantize(128.0f, 24), int64_t{1} << 31);
  EXPECT_EQ(Quantize(-8.0f, 28), -(int64_t{1} << 31));
}

TEST(QuantizeTest, IgnoresTheProcessorsRoundingMode) {
  const float values[] = {0.3f / 256,  0.5f / 256,  0.7f / 256,  1.5f / 256,
                          -0.3f / 256, -0.7f / 256, -1.5f / 256, 3.14159f};
  for (const int mode : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
    for (const float x : values) {
      const int64_t nearest = Quantize(x, 8);
      ASSERT_EQ(std::fesetround(mode), 0);
      const int64_t other = Quantize(x, 8);
      std::fesetround(FE_TONEAREST);
      EXPECT_EQ(other, nearest) << x << " in mode " << mode;
    }
  }
}

TEST(IntegerSumTest, IsTheWeightedSumOnTheGrid) {
  IntegerSum sum = Empty(3, 8);
  ASSERT_TRUE(sum.Add({1.0f, -2.0f, 0.0f}, 3).ok());
  ASSERT_TRUE(sum.Add({0.5f, 1.0f, 4.0f}, 1).ok());
  EXPECT_THAT(sum.sums(), ElementsAre(3 * 256 + 128, -6 * 256 + 256, 1024));
  EXPECT_EQ(sum.total_weight(), 4u);
  EXPECT_EQ(sum.num_updates(), 2u);
  const auto mean = sum.MeanUpdate();
  ASSERT_TRUE(mean.ok());
  EXPECT_THAT(*mean, ElementsAre(0.875, -1.25, 1.0));
}

TEST(IntegerSumTest, BitsMustBeInRange) {
  for (const int bits : {-1, 0, 7, 29, 64}) {
    EXPECT_TRUE(absl::IsInvalidArgument(
        IntegerSum::Create(TestLayout(1), bits).status()))
        << bits;
  }
  EXPECT_TRUE(IntegerSum::Create(TestLayout(1), 8).ok());
  EXPECT_TRUE(IntegerSum::Create(TestLayout(1), 28).ok());
}

TEST(IntegerSumTest, RefusesWhatIsNotAnUpdateAndStaysAsItWas) {
  IntegerSum sum = Empty(2);
  ASSERT_TRUE(sum.Add({1.0f, 2.0f}, 1).ok());
  const std::string before = sum.Encode();
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(absl::IsInvalidArgument(sum.Add({1.0f}, 1)));
  EXPECT_TRUE(absl::IsInvalidArgument(sum.Add({1.0f, 1.0f, 1.0f}, 1)));
  EXPECT_TRUE(absl::IsInvalidArgument(sum.Add({1.0f, 1.0f}, 0)));
  EXPECT_TRUE(absl::IsInvalidArgument(sum.Add({1.0f, nan}, 1)));
  EXPECT_TRUE(absl::IsInvalidArgument(sum.Add({nan, 1.0f}, 1)));
  EXPECT_TRUE(absl::IsInvalidArgument(sum.Add({inf, 1.0f}, 1)));
  EXPECT_TRUE(absl::IsInvalidArgument(sum.Add({1.0f, -inf}, 1)));
  EXPECT_TRUE(absl::IsInvalidArgument(
      sum.Add({std::nextafter(128.0f, 200.0f), 1.0f}, 1)));
  EXPECT_EQ(sum.Encode(), before);
  EXPECT_TRUE(sum.Add({128.0f, -128.0f}, 1).ok());
}

TEST(IntegerSumTest, RefusesInsteadOfOverflowing) {
  IntegerSum sum = Empty(1);
  // 2^31 on the grid: 2^32 - 1 of weight just fit below 2^63.
  const uint64_t most = (uint64_t{1} << 32) - 1;
  EXPECT_TRUE(absl::IsResourceExhausted(sum.Add({128.0f}, most + 1)));
  ASSERT_TRUE(sum.Add({128.0f}, most - 1).ok());
  ASSERT_TRUE(sum.Add({-128.0f}, 1).ok());
  const std::string before = sum.Encode();
  const absl::Status full = sum.Add({128.0f}, 1);
  EXPECT_TRUE(absl::IsResourceExhausted(full));
  EXPECT_THAT(std::string(full.message()), HasSubstr("max_examples"));
  EXPECT_TRUE(absl::IsResourceExhausted(sum.Merge(sum)));
  EXPECT_TRUE(absl::IsResourceExhausted(
      sum.Add({1.0f}, std::numeric_limits<uint64_t>::max())));
  EXPECT_TRUE(absl::IsResourceExhausted(
      sum.Add({0.0f}, std::numeric_limits<uint64_t>::max())));
  EXPECT_EQ(sum.Encode(), before);
  EXPECT_EQ(sum.sums()[0], static_cast<int64_t>(most - 2) * (int64_t{1} << 31));
}

TEST(IntegerSumTest, SmallUpdatesMayWeighMore) {
  IntegerSum sum = Empty(1);
  EXPECT_TRUE(sum.Add({0.001f}, uint64_t{1} << 40).ok());
}

TEST(IntegerSumTest, MergesOnlyWhatBelongsTogether) {
  IntegerSum sum = Empty(2);
  IntegerSum other_layout = *IntegerSum::Create(TestLayout(2, "v"), 24);
  IntegerSum other_bits = Empty(2, 20);
  EXPECT_TRUE(absl::IsInvalidArgument(sum.Merge(other_layout)));
  EXPECT_TRUE(absl::IsInvalidArgument(sum.Merge(other_bits)));
}

TEST(IntegerSumTest, AnEmptySumHasNoMean) {
  EXPECT_TRUE(absl::IsFailedPrecondition(Empty(2).MeanUpdate().status()));
}

TEST(IntegerSumTest, EncodesTheBytesOfTheDocumentedExample) {
  IntegerSum sum = Empty(2);
  ASSERT_TRUE(sum.Add({1.0f, -2.0f}, 3).ok());
  EXPECT_EQ(absl::BytesToHexString(sum.Encode()),
            "43485331"
            "c3917846d4b16d17e2b14a45072ebff995eb68ca0b1cac7cf7838ec570cb2408"
            "18000000"
            "0100000000000000"
            "0300000000000000"
            "0000000600000000"
            "0200000000000000"
            "0000000300000000"
            "000000faffffffff");
}

TEST(IntegerSumTest, DecodesOnlyWhatItEncodes) {
  IntegerSum sum = Empty(3, 12);
  ASSERT_TRUE(sum.Add({1.0f, -2.0f, 0.25f}, 7).ok());
  const std::string bytes = sum.Encode();
  const auto decoded = IntegerSum::Decode(bytes);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->Encode(), bytes);
  EXPECT_EQ(decoded->layout_digest(), TestLayout(3).digest());
  EXPECT_EQ(decoded->fixed_point_bits(), 12);
  EXPECT_EQ(decoded->total_weight(), 7u);
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_TRUE(absl::IsInvalidArgument(
        IntegerSum::Decode(bytes.substr(0, size)).status()))
        << size;
  }
  EXPECT_FALSE(IntegerSum::Decode(bytes + "x").ok());
  EXPECT_FALSE(IntegerSum::Decode(bytes + "12345678").ok());
  // Magic, bits, number of updates, total weight, bound (lowest and top byte:
  // larger than any element is wrong too), count, an element's top byte.
  for (const size_t at : {0u, 37u, 46u, 55u, 56u, 63u, 71u, 79u}) {
    std::string broken = bytes;
    broken[at] = static_cast<char>(broken[at] ^ 0xff);
    EXPECT_FALSE(IntegerSum::Decode(broken).ok()) << at;
  }
}

}  // namespace
}  // namespace choir::aggregate
