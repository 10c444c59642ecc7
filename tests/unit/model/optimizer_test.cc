#include "model/kernels/optimizer.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"

namespace choir::model {
namespace {

TEST(OptimizerTest, AdamWFollowsTheFormula) {
  std::vector<float> p = {1.0f, -2.0f};
  std::vector<float> m(2), v(2);
  const AdamWOptions o{0.1, 0.9, 0.99, 1e-8, 0.5};
  double dp[2] = {1.0, -2.0}, dm[2] = {0, 0}, dv[2] = {0, 0};
  for (int step = 1; step <= 5; ++step) {
    const std::vector<float> g = {0.3f * step, -1.0f / step};
    AdamWStep(o, step, g, absl::MakeSpan(m), absl::MakeSpan(v),
              absl::MakeSpan(p));
    for (int i = 0; i < 2; ++i) {
      dm[i] = 0.9 * dm[i] + 0.1 * g[i];
      dv[i] = 0.99 * dv[i] + 0.01 * g[i] * g[i];
      dp[i] *= 1.0 - 0.1 * 0.5;
      dp[i] -= 0.1 * (dm[i] / (1 - std::pow(0.9, step))) /
               (std::sqrt(dv[i] / (1 - std::pow(0.99, step))) + 1e-8);
      EXPECT_NEAR(p[i], dp[i], 1e-5) << "step " << step;
    }
  }
}

TEST(OptimizerTest, SgdStartsMomentumWithTheFirstGradient) {
  std::vector<float> p = {1.0f};
  std::vector<float> buffer = {123.0f};  // left over from an earlier call
  const SgdOptions o{0.1, 0.9, 0.0};
  SgdStep(o, 1, {1.0f}, absl::MakeSpan(buffer), absl::MakeSpan(p));
  EXPECT_FLOAT_EQ(p[0], 0.9f);
  SgdStep(o, 2, {1.0f}, absl::MakeSpan(buffer), absl::MakeSpan(p));
  EXPECT_FLOAT_EQ(p[0], 0.9f - 0.1f * 1.9f);
}

TEST(OptimizerTest, ClippingScalesDownOnlyLargeGradients) {
  std::vector<float> g = {3.0f, 4.0f};
  EXPECT_DOUBLE_EQ(ClipGradient(absl::MakeSpan(g), 10.0), 5.0);
  EXPECT_FLOAT_EQ(g[0], 3.0f);
  EXPECT_DOUBLE_EQ(ClipGradient(absl::MakeSpan(g), 0.0), 5.0);
  EXPECT_FLOAT_EQ(g[1], 4.0f);
  EXPECT_DOUBLE_EQ(ClipGradient(absl::MakeSpan(g), 1.0), 5.0);
  EXPECT_NEAR(g[0], 0.6f, 1e-6);
  EXPECT_NEAR(g[1], 0.8f, 1e-6);
}

}  // namespace
}  // namespace choir::model
