#include "client/agent/backoff.h"

#include <cmath>

#include "gtest/gtest.h"
#include "tests/unit/client/fakes.h"

namespace choir::client {
namespace {

TEST(BackoffTest, StaysBetweenHalfAndWholeOfAGrowingCeiling) {
  SeededRandom random(3);
  Backoff backoff({.initial = absl::Seconds(1), .max = absl::Seconds(10)},
                  random);
  const double ceilings[] = {1, 2, 4, 8, 10, 10, 10};
  double spread = 0;
  for (const double ceiling : ceilings) {
    const double wait = absl::ToDoubleSeconds(backoff.Next());
    EXPECT_GE(wait, ceiling / 2);
    EXPECT_LE(wait, ceiling);
    spread += std::abs(wait - ceiling * 0.75);
  }
  EXPECT_GT(spread, 0.1) << "no jitter";
  backoff.Reset();
  EXPECT_LE(backoff.Next(), absl::Seconds(1));
}

}  // namespace
}  // namespace choir::client
