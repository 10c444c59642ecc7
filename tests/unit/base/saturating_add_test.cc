#include "base/saturating_add.h"

#include "gtest/gtest.h"

namespace choir::base {
namespace {

TEST(SaturatingAddTest, StaysAtTheLargestValue) {
  const uint64_t max = std::numeric_limits<uint64_t>::max();
  EXPECT_EQ(SaturatingAdd(2, 3), 5u);
  EXPECT_EQ(SaturatingAdd(max, 1), max);
  EXPECT_EQ(SaturatingAdd(max - 1, 1), max);
  EXPECT_EQ(SaturatingAdd(max, max), max);
}

}  // namespace
}  // namespace choir::base
