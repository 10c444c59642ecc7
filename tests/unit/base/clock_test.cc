#include "base/clock.h"

#include "gtest/gtest.h"

namespace choir::base {
namespace {

TEST(ForwardClockTest, GoesOnFromWhereItWasWhenTheSourceIsSetBack) {
  ManualClock source(absl::FromUnixSeconds(1000));
  const ForwardClock clock(source);
  EXPECT_EQ(clock.Now(), absl::FromUnixSeconds(1000));
  source.Advance(absl::Seconds(5));
  EXPECT_EQ(clock.Now(), absl::FromUnixSeconds(1005));
  for (int setback = 1; setback <= 3; ++setback) {
    source.SetTime(absl::FromUnixSeconds(100 / setback));
    EXPECT_EQ(clock.Now(), absl::FromUnixSeconds(1005)) << setback;
  }
  source.Advance(absl::Seconds(7));
  EXPECT_EQ(clock.Now(), absl::FromUnixSeconds(1012));
}

}  // namespace
}  // namespace choir::base
