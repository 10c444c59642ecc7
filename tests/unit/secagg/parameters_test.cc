#include "privacy/secagg/parameters.h"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace choir::secagg {
namespace {

constexpr auto kCurious = v1::SecureAssumptions::CURIOUS;
constexpr auto kSemiMalicious = v1::SecureAssumptions::SEMI_MALICIOUS;

struct Row {
  double corrupt;
  double dropout;
  v1::SecureAssumptions::Adversary adversary;
  int clients;
  int degree;  // 0: there is none
  int threshold;
};

// Degrees and thresholds published with the method for security 2^-40 and
// correctness 2^-20.
std::vector<Row> Rows() {
  const int sizes[] = {10, 20, 50, 100, 200, 500, 1000, 10000};
  struct Line {
    double corrupt;
    double dropout;
    v1::SecureAssumptions::Adversary adversary;
    int values[8][2];
  };
  const Line lines[] = {
      {.05,
       .05,
       kCurious,
       {{2, 2},
        {4, 2},
        {6, 3},
        {12, 6},
        {20, 11},
        {28, 16},
        {30, 17},
        {34, 20}}},
      {.05,
       .05,
       kSemiMalicious,
       {{2, 2},
        {4, 3},
        {8, 6},
        {16, 11},
        {30, 21},
        {44, 31},
        {52, 37},
        {62, 44}}},
      {.10,
       .10,
       kCurious,
       {{4, 2},
        {6, 3},
        {12, 6},
        {22, 11},
        {34, 19},
        {42, 24},
        {48, 27},
        {54, 31}}},
      {.10,
       .10,
       kSemiMalicious,
       {{4, 3},
        {8, 6},
        {16, 11},
        {32, 22},
        {56, 39},
        {82, 57},
        {96, 67},
        {122, 85}}},
      {.10,
       .30,
       kCurious,
       {{6, 2},
        {10, 3},
        {22, 6},
        {34, 11},
        {54, 21},
        {76, 31},
        {88, 36},
        {108, 44}}},
      {.10,
       .30,
       kSemiMalicious,
       {{8, 5},
        {16, 10},
        {36, 21},
        {72, 42},
        {134, 78},
        {276, 164},
        {414, 247},
        {778, 465}}},
      {.20,
       .20,
       kCurious,
       {{6, 3},
        {10, 5},
        {22, 11},
        {40, 21},
        {62, 34},
        {88, 48},
        {98, 54},
        {122, 67}}},
      {.20,
       .20,
       kSemiMalicious,
       {{8, 6},
        {14, 10},
        {32, 22},
        {62, 42},
        {118, 80},
        {220, 150},
        {302, 206},
        {482, 328}}},
      {.33,
       .10,
       kCurious,
       {{6, 4},
        {10, 7},
        {22, 17},
        {42, 32},
        {66, 47},
        {90, 64},
        {102, 72},
        {126, 88}}},
      {.33,
       .10,
       kSemiMalicious,
       {{6, 5},
        {12, 10},
        {28, 23},
        {54, 44},
        {98, 78},
        {168, 132},
        {218, 171},
        {310, 242}}},
      {.33,
       .33,
       kCurious,
       {{8, 4},
        {14, 7},
        {34, 17},
        {68, 34},
        {122, 64},
        {214, 113},
        {286, 150},
        {422, 221}}},
      {.33,
       .33,
       kSemiMalicious,
       {{0, 0},
        {0, 0},
        {0, 0},
        {0, 0},
        {0, 0},
        {496, 331},
        {992, 662},
        {9872, 6584}}},
  };
  std::vector<Row> rows;
  for (const Line& line : lines) {
    for (int i = 0; i < 8; ++i) {
      rows.push_back({line.corrupt, line.dropout, line.adversary, sizes[i],
                      line.values[i][0], line.values[i][1]});
    }
  }
  return rows;
}

std::vector<Row> MoreRows() {
  return {
      {.45, .45, kCurious, 100, 92, 46},
      {.45, .45, kCurious, 1000, 822, 417},
      {.45, .45, kCurious, 1000000, 6240, 3156},
      {.05, .33, kCurious, 10, 4, 2},
      {.05, .33, kCurious, 100, 28, 6},
      {.05, .33, kCurious, 1000, 72, 24},
      {.05, .33, kCurious, 10000, 86, 29},
      {.30, .30, kSemiMalicious, 100, 92, 62},
      {.30, .30, kSemiMalicious, 1000, 872, 584},
      {.05, .33, kSemiMalicious, 1000, 398, 223},
      {.05, .33, kSemiMalicious, 10000, 746, 420},
      {.33, .05, kSemiMalicious, 1000, 132, 109},
      {.33, .05, kSemiMalicious, 10000, 178, 146},
  };
}

void Expect(const Row& row) {
  SCOPED_TRACE(testing::Message()
               << row.corrupt << " corrupt, " << row.dropout << " dropping, "
               << v1::SecureAssumptions::Adversary_Name(row.adversary)
               << ", n = " << row.clients);
  const auto graph =
      FindGraph(row.clients, row.corrupt, row.dropout, row.adversary);
  if (row.degree == 0) {
    EXPECT_FALSE(graph.ok());
    return;
  }
  ASSERT_TRUE(graph.ok()) << graph.status();
  EXPECT_EQ(graph->degree, row.degree);
  EXPECT_EQ(graph->threshold, row.threshold);
}

TEST(FindGraphTest, GivesThePublishedTable) {
  for (const Row& row : Rows()) Expect(row);
}

TEST(FindGraphTest, GivesTheOtherPublishedRows) {
  for (const Row& row : MoreRows()) Expect(row);
}

TEST(FindGraphTest, FractionsHaveARange) {
  EXPECT_EQ(FindGraph(1000, -.1, .45, kCurious).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(FindGraph(1000, .1, std::nan(""), kCurious).status().code(),
            absl::StatusCode::kInvalidArgument);
}

// Bell et al.'s bound for sigma 40 and eta 30 is larger than what is needed.
TEST(FindGraphTest, StaysBelowTheClosedForm) {
  struct Bound {
    double fraction;
    int degree[3];
  };
  const Bound bounds[] = {{.05, {72, 79, 85}},
                          {.1, {91, 100, 107}},
                          {.2, {160, 176, 189}},
                          {.33, {498, 547, 587}}};
  const int sizes[] = {100, 1000, 10000};
  for (const Bound& bound : bounds) {
    for (int i = 0; i < 3; ++i) {
      const auto graph =
          FindGraph(sizes[i], bound.fraction, bound.fraction, kCurious, 40, 30);
      ASSERT_TRUE(graph.ok()) << graph.status();
      EXPECT_LT(graph->degree, bound.degree[i]);
    }
  }
}

v1::SecureAssumptions Assume(v1::SecureAssumptions::Adversary adversary,
                             double corrupt, double dropout,
                             uint32_t min_clients) {
  v1::SecureAssumptions out;
  out.set_adversary(adversary);
  out.set_corrupt_fraction(corrupt);
  out.set_dropout_fraction(dropout);
  out.set_min_clients(min_clients);
  return out;
}

// There are graphs for them, but hardly any clients left to sum.
TEST(ChooseParametersTest, ThirdsAreTooMuchForTheSemiMalicious) {
  // 0.33 + 2 * 0.33 is beyond the limit of 0.9.
  EXPECT_EQ(ChooseParameters(1000, Assume(kSemiMalicious, .33, .33, 8))
                .status()
                .code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(
      ChooseParameters(1000, Assume(kCurious, .46, .45, 8)).status().code(),
      absl::StatusCode::kInvalidArgument);
}

TEST(ChooseParametersTest, SmallCohortsShareWithAll) {
  const auto parameters =
      ChooseParameters(10, Assume(kSemiMalicious, .3, .3, 0));
  ASSERT_TRUE(parameters.ok()) << parameters.status();
  EXPECT_TRUE(parameters->complete());
  EXPECT_EQ(parameters->degree, 9);
  EXPECT_EQ(parameters->threshold, 7);
  EXPECT_EQ(parameters->min_survivors, 7);
}

TEST(ChooseParametersTest, CompleteGraphsAreSafeAndLive) {
  for (int n = 3; n < kMinGraphCohort; ++n) {
    for (const auto adversary : {kCurious, kSemiMalicious}) {
      for (const double corrupt : {0.0, .01, .1, .2, .3}) {
        for (const double dropout : {0.0, .1, .3}) {
          const auto parameters =
              ChooseParameters(n, Assume(adversary, corrupt, dropout, 3));
          if (!parameters.ok()) continue;
          const int bad = static_cast<int>(std::ceil(corrupt * n - 1e-9));
          const int t = parameters->threshold;
          EXPECT_GT(t, bad);
          EXPECT_GE(t, 2);
          if (adversary == kSemiMalicious) {
            EXPECT_GT(2 * t, n + bad);
          }
          const int left = n - int(dropout * n + 1e-9);
          EXPECT_LE(t, left);
          EXPECT_EQ(parameters->min_survivors, std::max(left, 3));
        }
      }
    }
  }
}

TEST(ChooseParametersTest, LargeCohortsShareWithSome) {
  const auto parameters =
      ChooseParameters(1000, Assume(kSemiMalicious, .1, .1, 8));
  ASSERT_TRUE(parameters.ok()) << parameters.status();
  EXPECT_FALSE(parameters->complete());
  EXPECT_EQ(parameters->degree, 96);
  EXPECT_EQ(parameters->threshold, 67);
  // Beyond the assumed dropouts the graph might fall apart.
  EXPECT_EQ(parameters->min_survivors, 900);
}

TEST(ChooseParametersTest, AssumesOneCorruptClientIfAnyAtAll) {
  // One in 100 is not even one of five, and none would leave enough shares.
  EXPECT_TRUE(ChooseParameters(5, Assume(kSemiMalicious, 0, .4, 3)).ok());
  EXPECT_FALSE(ChooseParameters(5, Assume(kSemiMalicious, .01, .4, 3)).ok());
}

// 3.4 of 10 are 4, which cost a share more; 7.2 of 72 are 8.
TEST(ChooseParametersTest, CountsThoseWhoColludeUp) {
  EXPECT_EQ(ChooseParameters(10, Assume(kSemiMalicious, .3, 0, 3))->threshold,
            7);
  EXPECT_EQ(ChooseParameters(10, Assume(kSemiMalicious, .34, 0, 3))->threshold,
            8);
  for (const auto adversary : {kCurious, kSemiMalicious}) {
    const auto parameters = ChooseParameters(72, Assume(adversary, .1, .1, 3));
    const auto eight = FindGraph(72, 8.0 / 72, .1, adversary);
    const auto seven = FindGraph(72, 7.0 / 72, .1, adversary);
    ASSERT_TRUE(parameters.ok() && seven.ok() && eight.ok());
    EXPECT_EQ(parameters->degree, eight->degree);
    EXPECT_EQ(parameters->threshold, eight->threshold);
    EXPECT_GT(parameters->threshold, seven->threshold);
  }
  // Fractions that are whole clients stay what they are.
  for (const int n : {20, 30, 60, 70, 100, 300, 700, 1000, 10000}) {
    for (const double corrupt : {.1, .2, .3}) {
      const auto given = ChooseParameters(n, Assume(kCurious, corrupt, .1, 3));
      const auto whole = ChooseParameters(
          n, Assume(kCurious, std::round(corrupt * n) / n, .1, 3));
      ASSERT_TRUE(given.ok() && whole.ok());
      EXPECT_EQ(given->degree, whole->degree) << n << " " << corrupt;
      EXPECT_EQ(given->threshold, whole->threshold) << n << " " << corrupt;
    }
  }
}

// Half of a cohort is enough shares, but no sum that was agreed to.
TEST(ChooseParametersTest, RevealsNoSumWithoutMoreThanTheAssumedDropouts) {
  const auto parameters = ChooseParameters(63, Assume(kCurious, .1, .1, 8));
  ASSERT_TRUE(parameters.ok()) << parameters.status();
  EXPECT_EQ(parameters->threshold, 32);
  EXPECT_EQ(parameters->min_survivors, 57);
  EXPECT_EQ(ChooseParameters(63, Assume(kCurious, .1, .3, 8))->min_survivors,
            45);
  EXPECT_EQ(ChooseParameters(63, Assume(kCurious, .1, .3, 50))->min_survivors,
            50);
}

// Figures by counting subsets.
TEST(RiskOfGroupTest, IsThatOfAGroupDrawnFromTheCohort) {
  const auto semi_malicious = Assume(kSemiMalicious, .1, .1, 3);
  auto parameters = ChooseParameters(10, semi_malicious);
  ASSERT_EQ(parameters->threshold, 7);
  GroupRisk risk = RiskOfGroup(*parameters, semi_malicious, 100);
  EXPECT_NEAR(risk.more_than_assumed, 0.261528466584, 1e-9);
  EXPECT_NEAR(*risk.enough_to_unmask, 0.008224876443, 1e-9);
  EXPECT_THAT(DescribeGroup(*parameters, semi_malicious, 100),
              testing::EndsWith(
                  "10 % of each group's clients colluding with it, 10 % "
                  "dropping out, no sum of fewer than 3; if 10 % of all 100 "
                  "collude, a group drawn at random has more of them with "
                  "probability 0.26, and enough of them to unmask one client "
                  "with probability 0.0082"));

  const auto curious = Assume(kCurious, .1, .1, 3);
  parameters = ChooseParameters(10, curious);
  ASSERT_EQ(parameters->threshold, 6);
  risk = RiskOfGroup(*parameters, curious, 100);
  EXPECT_NEAR(*risk.enough_to_unmask, 3.182315298211e-05, 1e-12);

  // The whole cohort has no more of them than the whole cohort.
  EXPECT_EQ(RiskOfGroup(*parameters, curious, 10).more_than_assumed, 0.0);
  parameters = ChooseParameters(100, curious);
  risk = RiskOfGroup(*parameters, curious, 300);
  EXPECT_GT(risk.more_than_assumed, 0.3);
  EXPECT_FALSE(risk.enough_to_unmask.has_value());
  EXPECT_THAT(DescribeGroup(*parameters, curious, 300),
              testing::Not(testing::HasSubstr("unmask")));
}

TEST(ChooseParametersTest, KeepsTheFloors) {
  const auto assumptions = Assume(kSemiMalicious, .1, .1, 20);
  EXPECT_EQ(ChooseParameters(19, assumptions).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ChooseParameters(20, assumptions)->min_survivors, 20);
  EXPECT_EQ(ChooseParameters(2, Assume(kCurious, 0, 0, 0)).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(ChooseParameters(3, Assume(kCurious, 0, 0, 0)).ok());
  // No adversary named: nothing can be promised.
  EXPECT_FALSE(ChooseParameters(10, Assume({}, .1, .1, 3)).ok());
}

TEST(ChooseParametersTest, SaysWhatIsTooSmall) {
  const auto status =
      ChooseParameters(5, Assume(kSemiMalicious, .1, .4, 3)).status();
  EXPECT_THAT(std::string(status.message()),
              testing::HasSubstr("take a larger cohort"));
}

TEST(ChooseParametersTest, RefusesMoreNeighboursThanAMessageHolds) {
  v1::SecureAssumptions assumptions;
  assumptions.set_adversary(v1::SecureAssumptions::SEMI_MALICIOUS);
  assumptions.set_corrupt_fraction(0.3);
  assumptions.set_dropout_fraction(0.3);
  EXPECT_TRUE(ChooseParameters(9000, assumptions).ok());
  const absl::Status refused = ChooseParameters(20000, assumptions).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.message()),
              testing::HasSubstr("room for 5000"));
}

TEST(AccusersNeededTest, IsOneMoreThanCollude) {
  for (const auto& [n, corrupt, needed] :
       {std::tuple<int, double, int>{3, .1, 2},
        {7, .1, 2},
        {7, 0, 2},
        {20, .1, 3},
        {50, .1, 6},
        {50, .3, 16},
        {63, .1, 8}}) {
    const auto assumptions = Assume(kSemiMalicious, corrupt, .1, 3);
    const auto parameters = ChooseParameters(n, assumptions);
    ASSERT_TRUE(parameters.ok()) << n;
    EXPECT_EQ(AccusersNeeded(*parameters, assumptions), needed) << n;
  }
}

// In a ring only neighbours can know, and fewer of them collude than of all.
TEST(AccusersNeededTest, OfALargeCohortIsOneMoreThanColludeAmongNeighbours) {
  for (const int n : {100, 1000}) {
    const auto assumptions = Assume(kSemiMalicious, .1, .1, 3);
    const auto parameters = ChooseParameters(n, assumptions);
    ASSERT_TRUE(parameters.ok() && !parameters->complete());
    const int k = parameters->degree;
    const int needed = AccusersNeeded(*parameters, assumptions);
    EXPECT_LT(needed, k) << "neighbours can prove it";
    // The chance that so many of k drawn from the n - 1 others collude.
    const auto at_least = [&](int x) {
      const auto choose = [](int a, int b) {
        return std::lgamma(a + 1.0) - std::lgamma(b + 1.0) -
               std::lgamma(a - b + 1.0);
      };
      const int corrupt = n / 10;
      double sum = 0.0;
      for (int i = x; i <= std::min(k, corrupt); ++i) {
        sum += std::exp(choose(corrupt, i) + choose(n - 1 - corrupt, k - i) -
                        choose(n - 1, k));
      }
      return sum;
    };
    EXPECT_LE(at_least(needed), std::exp2(-40) / n);
    EXPECT_GT(at_least(needed - 1), std::exp2(-40) / n);
  }
}

TEST(DescribeTest, NamesEverything) {
  const auto assumptions = Assume(kSemiMalicious, .1, .2, 8);
  const auto parameters = ChooseParameters(48, assumptions);
  ASSERT_TRUE(parameters.ok());
  EXPECT_EQ(Describe(*parameters, assumptions),
            "48 clients, each sharing with all 47 others; 33 shares "
            "reconstruct; at least 39 must survive; assumed: a semi-malicious "
            "coordinator, 10 % of the clients colluding with it, 20 % dropping "
            "out, no sum of fewer than 8");
}

TEST(FindGraphTest, GrowsSlowlyUpToAMillion) {
  const auto thousands = FindGraph(10000, .2, .2, kSemiMalicious);
  const auto million = FindGraph(1000000, .2, .2, kSemiMalicious);
  ASSERT_TRUE(thousands.ok() && million.ok());
  EXPECT_GT(million->degree, thousands->degree);
  EXPECT_LT(million->degree, 2 * thousands->degree);
}

}  // namespace
}  // namespace choir::secagg
