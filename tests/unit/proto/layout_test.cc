#include "proto/codec/layout.h"

#include <gtest/gtest.h>

namespace choir::codec {
namespace {

TEST(LayoutTest, SortsByNameAndCounts) {
  const auto layout = Layout::Create({{"b", {2, 3}}, {"a", {4}}, {"c", {}}});
  ASSERT_TRUE(layout.ok());
  EXPECT_EQ(layout->tensors()[0].name, "a");
  EXPECT_EQ(layout->offset(1), 4);
  EXPECT_EQ(layout->offset(2), 10);
  EXPECT_EQ(layout->num_elements(), 11);
}

TEST(LayoutTest, DigestDependsOnNamesAndShapes) {
  const std::string digest = Layout::Create({{"a", {2, 3}}})->digest();
  EXPECT_EQ(digest, Layout::Create({{"a", {2, 3}}})->digest());
  EXPECT_NE(digest, Layout::Create({{"a", {3, 2}}})->digest());
  EXPECT_NE(digest, Layout::Create({{"b", {2, 3}}})->digest());
}

TEST(LayoutTest, RefusesWhatIsNoLayout) {
  EXPECT_FALSE(Layout::Create({{"a", {1}}, {"a", {2}}}).ok());
  EXPECT_FALSE(Layout::Create({{"", {1}}}).ok());
  EXPECT_FALSE(Layout::Create({{"a", {0}}}).ok());
  EXPECT_FALSE(Layout::Create({{"a", {-1}}}).ok());
  EXPECT_FALSE(Layout::Create({{"a\nb", {1}}}).ok());
  // Would overflow 64 bits if it were multiplied out.
  EXPECT_FALSE(Layout::Create({{"a", {1LL << 35, 1LL << 35}}}).ok());
}

}  // namespace
}  // namespace choir::codec
