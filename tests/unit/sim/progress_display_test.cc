#include "sim/main/progress_display.h"

#include <gtest/gtest.h>

namespace choir::sim {
namespace {

TEST(BarTest, FillsWithWhatIsDone) {
  EXPECT_EQ(Bar(0, 4, 8), "[--------]");
  EXPECT_EQ(Bar(1, 4, 8), "[##------]");
  EXPECT_EQ(Bar(9, 4, 8), "[########]");
  EXPECT_EQ(Bar(1, 0, 4), "[----]");
}

TEST(FitLineTest, StaysOnOneLineOfTheTerminal) {
  const std::string figures(50, 'x');
  EXPECT_EQ(FitLine(1, 2, figures, 200), Bar(1, 2, 24) + figures);
  for (size_t columns = 1; columns < 90; ++columns) {
    EXPECT_LT(FitLine(1, 2, figures, columns).size(), columns);
  }
}

TEST(FitLineTest, NarrowTerminalsLoseTheBarFirst) {
  EXPECT_EQ(FitLine(1, 2, " 1/2  loss 3.1", 30),
            Bar(1, 2, 13) + " 1/2  loss 3.1");
  EXPECT_EQ(FitLine(1, 2, " 1/2  loss 3.1", 20), " 1/2  loss 3.1");
  EXPECT_EQ(FitLine(1, 2, " 1/2  loss 3.1", 10), " 1/2  los");
  EXPECT_EQ(FitLine(1, 2, "x", 0), "");
}

TEST(FiguresTest, NarrowTerminalsLoseWholeFiguresFromTheEnd) {
  const std::vector<std::string> parts = {"1/2", "loss 3.1", "",
                                          "training 43/45"};
  EXPECT_EQ(Figures(parts, 80), " 1/2  loss 3.1  training 43/45");
  EXPECT_EQ(Figures(parts, 31), " 1/2  loss 3.1  training 43/45");
  EXPECT_EQ(Figures(parts, 30), " 1/2  loss 3.1");
  EXPECT_EQ(Figures(parts, 14), " 1/2");
  EXPECT_EQ(Figures(parts, 1), "");
}

}  // namespace
}  // namespace choir::sim
