// Memory must not grow with rounds: 1,000 rounds of 20 clients, resident memory
// compared between rounds 100 and 1,000. CHOIR_ROUNDS shortens the run.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "gtest/gtest.h"
#include "model/compute.h"
#include "sim/experiment/experiment_options.h"
#include "sim/experiment/simulation.h"
#include "tests/support/golden.h"
#include "tests/support/measure.h"

namespace choir::sim {
namespace {

constexpr uint32_t kWindow = 20;
constexpr double kMaxGrowth = 0.02;

std::string ExperimentText(const std::string& data, uint32_t rounds) {
  return absl::StrCat(R"(
[job]
name = "memory"
[job.model]
base = ")",
                      tests::GoldenDir(), R"(/stories260k"
[job.adapter]
rank = 2
target_modules = ["q_proj"]
[job.training]
local_steps = 1
batch_size = 1
max_sequence_length = 16
[job.rounds]
count = )",
                      rounds, R"(
cohort_size = 20
[job.evaluation]
every = 100
[clients]
count = 20
[clients.data]
path = ")",
                      data, R"("
[simulation]
workers = 2
[simulation.device]
kind = "cpu"
)");
}

double ResidentMib() { return tests::MemoryBytes("VmRSS") / 1048576.0; }

double Mean(const std::vector<double>& values) {
  double sum = 0.0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

TEST(SimulationMemoryTest, DoesNotGrowBetweenRound100AndRound1000) {
  CHOIR_SKIP_WITHOUT_GOLDEN("stories260k");
  const char* shortened = std::getenv("CHOIR_ROUNDS");
  const uint32_t rounds = shortened == nullptr ? 1000 : std::atoi(shortened);
  ASSERT_GE(rounds, 140u);
  ConfigureAllocator(2);
  model::ConfigureCompute(1);
  const std::string dir = tests::NewTempDir();
  std::string lines;
  for (int i = 0; i < 200; ++i) {
    absl::StrAppend(&lines, "{\"text\":\"once upon a time there was ", i,
                    "\"}\n");
  }
  const std::string data = base::JoinPath(dir, "data.jsonl");
  ASSERT_TRUE(base::WriteFileAtomic(data, lines).ok());
  const std::string toml = base::JoinPath(dir, "memory.toml");
  ASSERT_TRUE(base::WriteFileAtomic(toml, ExperimentText(data, rounds)).ok());
  const auto options = LoadExperiment(toml, {});
  ASSERT_TRUE(options.ok()) << options.status();

  std::vector<double> early, late;
  RunOptions run;
  run.out_dir = base::JoinPath(dir, "out");
  run.on_round = [&](const RoundMetrics& round) {
    if (round.round > 100 - kWindow && round.round <= 100) {
      early.push_back(ResidentMib());
    }
    if (round.round > rounds - kWindow) late.push_back(ResidentMib());
  };
  const auto result = RunExperiment(*options, run);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->clients_trained, uint64_t{20} * rounds);
  std::printf(
      "resident: %.1f MiB at round 100, %.1f MiB at round %u, "
      "%.1f clients/s\n",
      Mean(early), Mean(late), rounds,
      result->clients_trained / result->training_seconds);
  EXPECT_LT(Mean(late), Mean(early) * (1.0 + kMaxGrowth));
}

}  // namespace
}  // namespace choir::sim
