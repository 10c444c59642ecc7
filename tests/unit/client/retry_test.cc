#include "client/agent/retry.h"

#include "gtest/gtest.h"

namespace choir::client {
namespace {

TEST(RetryTest, SortsErrors) {
  EXPECT_EQ(KindOf(absl::UnavailableError("")), ErrorKind::kTransient);
  EXPECT_EQ(KindOf(absl::InternalError("")), ErrorKind::kTransient);
  EXPECT_EQ(KindOf(absl::AbortedError("")), ErrorKind::kTask);
  EXPECT_EQ(KindOf(absl::ResourceExhaustedError("")), ErrorKind::kTask);
  EXPECT_EQ(KindOf(absl::UnauthenticatedError("")), ErrorKind::kFatal);
}

}  // namespace
}  // namespace choir::client
