// One Ctrl-C or SIGTERM ends every verb of choir-model soon, and nothing
// half-written is left.
#include <csignal>
#include <cstdint>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/exit_codes.h"
#include "base/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/golden.h"
#include "tests/support/process.h"

namespace choir {
namespace {

std::string Tiny() {
  return base::JoinPath(tests::SourceDir(), "models/choir-tiny");
}

std::vector<std::string> ChoirModel(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(),
                   base::JoinPath(tests::BinDir(), "choir-model"));
  return arguments;
}

// Whether the process has a handler of its own for `signal_number`.
bool Handles(const tests::Process& process, int signal_number) {
  std::ifstream status(absl::StrCat("/proc/", process.pid(), "/status"));
  std::string key;
  while (status >> key) {
    uint64_t caught = 0;
    if (key != "SigCgt:") continue;
    status >> std::hex >> caught;
    return (caught >> (signal_number - 1) & 1) != 0;
  }
  return false;
}

// Runs choir-model, sends one signal as soon as that is heard, and expects the
// end of what would go on for much longer.
void ExpectStops(const std::vector<std::string>& arguments,
                 int signal_number = SIGINT) {
  SCOPED_TRACE(arguments[0]);
  const std::string log = base::JoinPath(tests::NewTempDir(), "log");
  const auto process = tests::Process::Start(ChoirModel(arguments), log);
  while (!Handles(*process, signal_number) && !process->Ended()) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  process->Signal(signal_number);
  ASSERT_TRUE(process->Wait(absl::Seconds(60)));
  EXPECT_EQ(process->exit_code(), base::kExitInterrupted);
  EXPECT_THAT(base::ReadFile(log).value(), testing::HasSubstr("told to stop"));
}

TEST(StopTest, LongEvaluationsAndMeasurementsEnd) {
  const std::string ids = base::JoinPath(tests::NewTempDir(), "ids.json");
  std::ofstream file(ids);
  file << "[[1,2,3]";
  for (int row = 0; row < 30000; ++row) file << ",[4,5,6,7,8,9,10,11]";
  file << "]";
  file.close();
  ExpectStops({"eval", "--model", Tiny(), "--ids", ids});
  ExpectStops({"eval", "--model", Tiny(), "--ids", ids, "--json"}, SIGTERM);
  ExpectStops({"plan", "--model", Tiny(), "--budget-mib", "2000",
               "--batch-size", "64", "--measure"});
}

TEST(StopTest, WritersLeaveNothing) {
  // Large enough that quantising it takes a while.
  const std::string large = base::JoinPath(tests::NewTempDir(), "large");
  const tests::CommandResult made = tests::RunCommand(ChoirModel(
      {"upcycle", "--model", Tiny(), "--out", large, "--experts", "32"}));
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const std::string out = base::JoinPath(tests::NewTempDir(), "out");
  ExpectStops({"quantize", "--model", large, "--to", "nf4", "--out", out});
  EXPECT_FALSE(base::FileExists(out));
  ExpectStops({"upcycle", "--model", Tiny(), "--out", out, "--experts", "256"},
              SIGTERM);
  EXPECT_FALSE(base::FileExists(out));
}

}  // namespace
}  // namespace choir
