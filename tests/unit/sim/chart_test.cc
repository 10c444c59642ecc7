#include "sim/experiment/chart.h"

#include <algorithm>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace choir::sim {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(ChartTest, StepsAreOneTwoOrFiveTimesAPowerOfTen) {
  EXPECT_DOUBLE_EQ(NiceStep(10.0, 5), 2.0);
  EXPECT_DOUBLE_EQ(NiceStep(0.7, 5), 0.2);
  EXPECT_DOUBLE_EQ(NiceStep(1000.0, 8), 200.0);
  EXPECT_DOUBLE_EQ(NiceStep(3.1, 5), 1.0);
}

TEST(ChartTest, TextIsEscaped) {
  EXPECT_EQ(EscapeHtml("<a href=\"x\">&'"),
            "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
}

TEST(ChartTest, SaysItsFiguresInWordsForScreenReaders) {
  Chart chart{
      "Loss", "round", "nats", false, {{"held <out>", "a", {{1, 4}, {2, 3}}}}};
  const std::string svg = ChartSvg(chart);
  EXPECT_THAT(svg, HasSubstr("role=\"img\""));
  EXPECT_THAT(svg, HasSubstr("held &lt;out&gt;: 4 at 1, 3 at 2."));
  EXPECT_THAT(svg, Not(HasSubstr("<out>")));
}

TEST(ChartTest, EmptyAndConstantSeriesAreDrawnWithoutNan) {
  Chart chart{"t", "x", "y", true, {{"none", "a", {}}, {"one", "b", {{1, 0}}}}};
  const std::string svg = ChartSvg(chart);
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(svg, Not(HasSubstr("inf")));
  EXPECT_THAT(svg, HasSubstr("none: no figures."));
}

TEST(ChartTest, CountsHaveAGridOfWholeNumbers) {
  const std::vector<Series> two = {{"clients", "a", {{1, 2}, {3, 2}}}};
  EXPECT_THAT(ChartSvg({"t", "x", "y", true, two}), Not(HasSubstr(">0.5<")));
  EXPECT_THAT(ChartSvg({"t", "x", "y", true, two}), HasSubstr(">2</text>"));
}

TEST(ChartTest, LongSeriesAreThinnedAndKeepTheirEnds) {
  Series series{"s", "a", {}};
  for (int i = 0; i <= 100000; ++i) series.points.emplace_back(i, i % 7);
  const std::string svg = ChartSvg({"t", "x", "y", false, {series}});
  EXPECT_LT(svg.size(), 20000u);
  EXPECT_THAT(svg, HasSubstr("704.0,"));  // the right end of the plot
}

}  // namespace
}  // namespace choir::sim
