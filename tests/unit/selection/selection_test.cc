#include "coordinator/selection/selection.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace choir::selection {
namespace {

std::set<std::string> Names(int count) {
  std::set<std::string> names;
  for (int i = 0; i < count; ++i) names.insert(absl::StrCat("c", 100 + i));
  return names;
}

TEST(SelectUniformTest, GivesDistinctSortedCandidates) {
  const std::set<std::string> names = Names(20);
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const auto chosen = SelectUniform(names, 7, seed);
    ASSERT_EQ(chosen.size(), 7u);
    EXPECT_TRUE(std::is_sorted(chosen.begin(), chosen.end()));
    EXPECT_EQ(std::set<std::string>(chosen.begin(), chosen.end()).size(), 7u);
    for (const std::string& name : chosen) EXPECT_EQ(names.count(name), 1u);
    EXPECT_EQ(chosen, SelectUniform(names, 7, seed));
  }
}

TEST(SelectUniformTest, TakesAllWhenThereAreNotEnough) {
  EXPECT_EQ(SelectUniform(Names(3), 10, 1).size(), 3u);
  EXPECT_TRUE(SelectUniform({}, 10, 1).empty());
  EXPECT_TRUE(SelectUniform(Names(3), 0, 1).empty());
}

// 4,000 fixed seeds; a fair draw would leave the bounds (6 standard
// deviations) once in 10^8 such tests.
TEST(SelectUniformTest, EachCandidateIsEquallyLikely) {
  std::map<std::string, int> counts;
  constexpr int kDraws = 4000;
  for (uint64_t seed = 0; seed < kDraws; ++seed) {
    for (const std::string& name : SelectUniform(Names(10), 3, seed)) {
      ++counts[name];
    }
  }
  ASSERT_EQ(counts.size(), 10u);
  for (const auto& [name, count] : counts) {
    EXPECT_NEAR(count, kDraws * 0.3, 6 * 29.0) << name;
  }
}

TEST(SelectPoissonTest, EachCandidateIsDrawnByItself) {
  std::map<std::string, int> counts;
  std::set<size_t> sizes;
  constexpr int kDraws = 4000;
  for (uint64_t seed = 0; seed < kDraws; ++seed) {
    const auto chosen = SelectPoisson(Names(10), 0.3, seed);
    EXPECT_TRUE(std::is_sorted(chosen.begin(), chosen.end()));
    sizes.insert(chosen.size());
    for (const std::string& name : chosen) ++counts[name];
  }
  EXPECT_GE(sizes.size(), 6u) << "the size of the cohort varies";
  for (const auto& [name, count] : counts) {
    EXPECT_NEAR(count, kDraws * 0.3, 6 * 29.0) << name;
  }
  EXPECT_EQ(SelectPoisson(Names(10), 1.0, 5).size(), 10u);
}

}  // namespace
}  // namespace choir::selection
