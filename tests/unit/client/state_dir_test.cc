#include "client/agent/state_dir.h"

#include <sys/stat.h>

#include <fstream>

#include "base/files.h"
#include "base/log.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/golden.h"
#include "tests/unit/client/fakes.h"

namespace choir::client {
namespace {

using ::testing::HasSubstr;

v1::ReportRequest TrainReport(const std::string& update) {
  v1::ReportRequest report;
  report.mutable_key()->set_job("j");
  *report.mutable_train()->mutable_update() = RefOf(update);
  report.mutable_train()->set_mean_loss(0.1);
  return report;
}

TEST(StateDirTest, KeepsPendingWorkAndAdmitsOneAgent) {
  const std::string path = base::JoinPath(tests::NewTempDir(), "state");
  auto state = StateDir::Open(path);
  ASSERT_TRUE(state.ok()) << state.status();
  struct stat info = {};
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  const auto second = StateDir::Open(path);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(second.status().message(), HasSubstr("another agent"));

  const v1::ReportRequest report = TrainReport("bytes");
  ASSERT_TRUE((*state)->SavePending(report, "bytes").ok());
  ASSERT_TRUE((*state)->SetAdapterDigest("abc").ok());
  state->reset();
  state = StateDir::Open(path);
  ASSERT_TRUE(state.ok() && (*state)->pending().has_value());
  EXPECT_EQ((*state)->pending()->SerializeAsString(),
            report.SerializeAsString());
  EXPECT_EQ((*state)->adapter_digest(), "abc");
  ASSERT_TRUE((*state)->ClearPending().ok());
  state->reset();
  state = StateDir::Open(path);
  EXPECT_FALSE((*state)->pending().has_value());
}

TEST(StateDirTest, GivesDamagedWorkUp) {
  base::SetLogLevel(base::LogLevel::kError);
  const std::string path = tests::NewTempDir();
  for (const char* file : {"state.json", "pending.update"}) {
    auto state = StateDir::Open(path);
    ASSERT_TRUE((*state)->SavePending(TrainReport("bytes"), "bytes").ok());
    state->reset();
    std::ofstream(base::JoinPath(path, file)) << "{";
    state = StateDir::Open(path);
    ASSERT_TRUE(state.ok()) << state.status();
    EXPECT_FALSE((*state)->pending().has_value()) << file;
  }
}

}  // namespace
}  // namespace choir::client
