#include "coordinator/aggregate/group_rule.h"

#include <algorithm>
#include <limits>

#include "base/sim_random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace choir::aggregate {
namespace {

using config::GroupRule;
using ::testing::ElementsAre;

codec::Layout TestLayout(int64_t elements) {
  return *codec::Layout::Create({{"w", {elements}}});
}

IntegerSum Sum(std::vector<int64_t> sums, uint64_t weight,
               uint64_t updates = 1) {
  const codec::Layout layout = TestLayout(static_cast<int64_t>(sums.size()));
  return *IntegerSum::FromSums(layout.digest(), 16, std::move(sums), updates,
                               weight);
}

TEST(GroupRuleTest, TheMeanIsTheSumOfAllUpdates) {
  const codec::Layout layout = TestLayout(3);
  IntegerSum all = *IntegerSum::Create(layout, 16);
  std::vector<IntegerSum> groups(3, all);
  base::SimRandom random(1);
  for (int i = 0; i < 12; ++i) {
    const std::vector<float> update = {static_cast<float>(random.Normal()),
                                       static_cast<float>(random.Normal()),
                                       static_cast<float>(random.Normal())};
    const uint64_t weight = 1 + random.Below(100);
    ASSERT_TRUE(all.Add(update, weight).ok());
    ASSERT_TRUE(groups[i % 3].Add(update, weight).ok());
  }
  const auto combined = CombineGroups(GroupRule::kMean, groups);
  ASSERT_TRUE(combined.ok()) << combined.status();
  EXPECT_EQ(combined->Encode(), all.Encode());
}

TEST(GroupRuleTest, AMedianOfOddManyIsTheMiddleGroupScaledToAll) {
  // Means 10, 2, 30 with weights 2, 3, 5.
  const auto combined = CombineGroups(
      GroupRule::kMedian, {Sum({20}, 2), Sum({6}, 3), Sum({150}, 5)});
  ASSERT_TRUE(combined.ok()) << combined.status();
  EXPECT_EQ(combined->total_weight(), 10u);
  EXPECT_EQ(combined->num_updates(), 3u);
  EXPECT_THAT(
      std::vector<int64_t>(combined->sums().begin(), combined->sums().end()),
      ElementsAre(100));
}

TEST(GroupRuleTest, AMedianOfEvenManyIsHalfwayWithTiesToEven) {
  const auto combined = CombineGroups(
      GroupRule::kMedian, {Sum({0, 1, -5, 3}, 1), Sum({1, 2, -2, 3}, 1),
                           Sum({2, 3, -1, 4}, 1), Sum({9, 9, 9, 9}, 1)});
  ASSERT_TRUE(combined.ok()) << combined.status();
  // Scaled by 4: middles are 4|8, 8|12, -8|-4, 12|16.
  EXPECT_THAT(
      std::vector<int64_t>(combined->sums().begin(), combined->sums().end()),
      ElementsAre(6, 10, -6, 14));
}

TEST(GroupRuleTest, ATrimmedMeanLeavesOutAFourthAtEachEnd) {
  std::vector<IntegerSum> groups;
  for (const int64_t value : {-1000, 1, 2, 3, 4, 5, 6, 1000000}) {
    groups.push_back(Sum({value}, 1));
  }
  const auto combined = CombineGroups(GroupRule::kTrimmedMean, groups);
  ASSERT_TRUE(combined.ok()) << combined.status();
  // Of 8 groups, 2 at each end: the mean of 2, 3, 4, 5, times 8.
  EXPECT_EQ(combined->sums()[0], 28);
}

TEST(GroupRuleTest, RoundingGoesToTheNearestAndToEven) {
  // Weights 1, 1, 2: the third is 4 * S / 2; scaled values are even. With
  // weight 3 they are not: 5 * 1 / 3 = 1.67, 5 * 2 / 3 = 3.33.
  const auto thirds =
      CombineGroups(GroupRule::kMedian,
                    {Sum({0, 0}, 1), Sum({1, -1}, 3), Sum({1000, -1000}, 1)});
  ASSERT_TRUE(thirds.ok()) << thirds.status();
  EXPECT_THAT(
      std::vector<int64_t>(thirds->sums().begin(), thirds->sums().end()),
      ElementsAre(2, -2));
  // 3 * 1 / 2 = 1.5 and 3 * 3 / 2 = 4.5 are ties.
  const auto halves = CombineGroups(
      GroupRule::kTrimmedMean,
      {Sum({0, 0}, 2), Sum({1, 3}, 2), Sum({1, 3}, 2), Sum({99, 99}, 2)});
  ASSERT_TRUE(halves.ok());
  EXPECT_THAT(
      std::vector<int64_t>(halves->sums().begin(), halves->sums().end()),
      ElementsAre(4, 12));
}

TEST(GroupRuleTest, OrderDoesNotMatterAndOneGroupMovesTheMedianLittle) {
  base::SimRandom random(5);
  for (int round = 0; round < 50; ++round) {
    std::vector<IntegerSum> groups;
    for (int g = 0; g < 7; ++g) {
      groups.push_back(Sum({static_cast<int64_t>(random.Below(1000)),
                            -static_cast<int64_t>(random.Below(1000))},
                           1 + random.Below(9)));
    }
    for (const GroupRule rule :
         {GroupRule::kMean, GroupRule::kMedian, GroupRule::kTrimmedMean}) {
      std::vector<IntegerSum> shuffled = groups;
      random.Shuffle(shuffled);
      EXPECT_EQ(CombineGroups(rule, groups)->Encode(),
                CombineGroups(rule, shuffled)->Encode());
    }
    std::vector<IntegerSum> poisoned = groups;
    poisoned[0] = Sum({std::numeric_limits<int64_t>::max(), 0}, 1);
    const auto median = CombineGroups(GroupRule::kMedian, poisoned);
    ASSERT_TRUE(median.ok()) << median.status();
    const double mean = median->MeanUpdate()->at(0);
    EXPECT_LE(mean, 1000.0 / (1 << 16));
    EXPECT_GE(mean, 0.0);
  }
}

TEST(GroupRuleTest, RefusesWhatCannotBeCombined) {
  const IntegerSum one = Sum({1}, 1);
  EXPECT_TRUE(
      absl::IsInvalidArgument(CombineGroups(GroupRule::kMean, {}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(
      CombineGroups(GroupRule::kMedian, {one, one}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(
      CombineGroups(GroupRule::kTrimmedMean, {one, one, one}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(
      CombineGroups(GroupRule::kMedian, {one, one, Sum({1, 2}, 1)}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(
      CombineGroups(GroupRule::kMedian, {one, one, Sum({0}, 0, 0)}).status()));
}

TEST(IntegerSumTest, SumsMadeElsewhereHaveTheBytesOfThoseMadeHere) {
  const codec::Layout layout = TestLayout(2);
  IntegerSum sum = *IntegerSum::Create(layout, 16);
  ASSERT_TRUE(sum.Add(std::vector<float>{1.5f, -2.0f}, 3).ok());
  ASSERT_TRUE(sum.Add(std::vector<float>{-1.5f, 0.25f}, 3).ok());
  const auto made = IntegerSum::FromSums(
      layout.digest(), 16, {sum.sums().begin(), sum.sums().end()}, 2, 6);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->Encode(), sum.Encode());
  EXPECT_TRUE(IntegerSum::Decode(made->Encode()).ok());
  EXPECT_FALSE(IntegerSum::FromSums(layout.digest(), 40, {0}, 1, 1).ok());
  EXPECT_FALSE(IntegerSum::FromSums("x", 16, {0}, 1, 1).ok());
  EXPECT_FALSE(IntegerSum::FromSums(layout.digest(), 16, {0}, 2, 1).ok());
  EXPECT_FALSE(IntegerSum::FromSums(layout.digest(), 16,
                                    {std::numeric_limits<int64_t>::min()}, 1, 1)
                   .ok());
}

}  // namespace
}  // namespace choir::aggregate
