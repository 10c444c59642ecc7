// Whole experiments on a tiny model: the result may depend on the settings and
// on nothing else.
#include "sim/experiment/simulation.h"

#include <signal.h>

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/files.h"
#include "coordinator/store/store.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "sim/experiment/pooled.h"
#include "sim/experiment/summary.h"
#include "tests/support/experiment.h"
#include "tests/support/golden.h"
#include "tests/support/process.h"

namespace choir::sim {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr char kTables[] = R"(
[job.adapter]
rank = 2
target_modules = ["q_proj", "v_proj"]
[job.training]
local_steps = 2
batch_size = 2
max_sequence_length = 32
learning_rate = 0.01
[job.rounds]
count = 4
cohort_size = 4
min_survivors = 1
[job.evaluation]
every = 2
)";

class SimulationTest : public testing::Test {
 protected:
  void SetUp() override {
    CHOIR_SKIP_WITHOUT_GOLDEN("stories260k");
    dir_ = tests::NewTempDir();
    toml_ = tests::WriteExperiment(
        dir_, {.base_model = tests::GoldenDir() + "/stories260k",
               .topics = 6,
               .examples = 60,
               .tables = kTables});
  }

  absl::StatusOr<RunResult> Run(const std::string& out,
                                std::vector<std::string> overrides,
                                RunOptions run = {}) {
    auto options = LoadExperiment(toml_, overrides);
    if (!options.ok()) return options.status();
    run.out_dir = Out(out);
    auto result = RunExperiment(*options, run);
    if (result.ok()) {
      const absl::Status written = WriteSummary(*options, *result, run.out_dir);
      if (!written.ok()) return written;
    }
    return result;
  }
  std::string Out(const std::string& name) {
    return base::JoinPath(dir_, name);
  }
  std::string Digest(const std::string& out,
                     const std::vector<std::string>& overrides,
                     RunOptions run = {}) {
    const auto result = Run(out, overrides, std::move(run));
    EXPECT_TRUE(result.ok()) << result.status();
    if (!result.ok()) return out + " failed";
    EXPECT_TRUE(result->progress.finished);
    return result->progress.adapter.digest();
  }

  std::string dir_;
  std::string toml_;
};

TEST_F(SimulationTest, OneWorkerManyWorkersAndAnyArrivalOrderAgree) {
  const std::string one = Digest("one", {"simulation.workers=1"});
  EXPECT_EQ(one, Digest("two", {"simulation.workers=2"}));
  EXPECT_EQ(one, Digest("five", {"simulation.workers=5"}));
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    RunOptions run;
    run.arrival_seed = seed;
    EXPECT_EQ(one, Digest(absl::StrCat("order", seed), {"simulation.workers=3"},
                          run));
  }
  EXPECT_NE(one, Digest("seed", {"job.seed=2"}));
}

TEST_F(SimulationTest, OverSelectionAndDropoutAreTheSameForAnyWorkers) {
  const std::vector<std::string> common = {
      "job.rounds.cohort_size=3", "job.rounds.over_selection=1.6",
      "job.rounds.min_survivors=1", "simulation.dropout_rate=0.3"};
  std::vector<std::string> one = common, many = common;
  one.push_back("simulation.workers=1");
  many.push_back("simulation.workers=4");
  EXPECT_EQ(Digest("a", one), Digest("b", many));
}

TEST_F(SimulationTest, AStoppedRunGoesOnToTheSameResult) {
  const std::string whole = Digest("whole", {});
  RunOptions run;
  int rounds = 0;
  run.on_client = [&rounds](int done, int total, bool evaluation) {
    rounds += done == total && !evaluation;
  };
  run.stop_requested = [&rounds] { return rounds >= 1; };
  const auto first = Run("parts", {}, run);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_TRUE(first->interrupted);
  EXPECT_FALSE(first->progress.finished);
  EXPECT_EQ(first->progress.rounds_committed, 1u);
  RunOptions again;
  again.resume = true;
  const auto second = Run("parts", {"simulation.workers=1"}, again);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->progress.adapter.digest(), whole);
  const auto metrics =
      ReadMetrics(base::JoinPath(Out("parts"), "metrics.jsonl"));
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  ASSERT_EQ(metrics->size(), 4u);
  EXPECT_TRUE(std::isnan((*metrics)[0].heldout_loss));
  EXPECT_TRUE(std::isfinite((*metrics)[1].heldout_loss));
}

TEST_F(SimulationTest, AKilledProgramResumesToTheSameResult) {
  const std::string whole = Digest("whole", {"job.rounds.count=40"});
  const std::string out = Out("killed");
  std::vector<std::string> command = {
      base::JoinPath(tests::BinDir(), "choir-sim"),
      "run",
      toml_,
      "--out",
      out,
      "--quiet",
      "--set",
      "job.rounds.count=40"};
  const auto run = tests::Process::Start(command, "");
  // Killed as soon as some rounds are written, in the midst of another.
  ASSERT_TRUE(tests::WaitForFile(base::JoinPath(out, kMetricsName),
                                 absl::Minutes(5), run.get(), 600));
  run->Signal(SIGKILL);
  ASSERT_TRUE(run->Wait(absl::Minutes(1)));
  ASSERT_EQ(run->exit_code(), 128 + SIGKILL)
      << "the run ended before it was killed";
  command.push_back("--resume");
  const tests::CommandResult resumed =
      tests::RunCommand(command, absl::Minutes(5));
  EXPECT_EQ(resumed.exit_code, 0) << resumed.err;
  const auto text = base::ReadFile(base::JoinPath(out, "summary.json"));
  ASSERT_TRUE(text.ok()) << text.status();
  const auto summary = nlohmann::json::parse(*text);
  EXPECT_EQ(summary["adapter_digest"], "sha256:" + whole);
  EXPECT_EQ(summary["rounds"], 40);
  EXPECT_EQ(summary["resumed"], true);
}

TEST_F(SimulationTest, TrainingLowersTheHeldOutLossAndPooledTrainingToo) {
  const auto result = Run("learn", {"job.rounds.count=10"});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_LT(result->progress.heldout_loss,
            result->progress.heldout_loss_before - 0.3);
  const auto options = LoadExperiment(toml_, {});
  const auto pooled =
      TrainPooled(*options, 40, [](int, int) { return absl::OkStatus(); });
  ASSERT_TRUE(pooled.ok()) << pooled.status();
  // Both start from the same adapter and measure on the same examples.
  EXPECT_NEAR(pooled->heldout_loss_before, result->progress.heldout_loss_before,
              1e-6);
  EXPECT_LT(pooled->heldout_loss, pooled->heldout_loss_before - 0.3);
}

TEST_F(SimulationTest, LostRoundsAreCountedAndRepeated) {
  const auto result =
      Run("lossy", {"job.rounds.min_survivors=4", "simulation.dropout_rate=0.2",
                    "job.rounds.max_lost_in_a_row=50"});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->progress.rounds_committed, 4u);
  EXPECT_GT(result->progress.rounds_lost, 0u);
  EXPECT_GT(result->clients_lost, 0u);
}

TEST_F(SimulationTest, AFolderWithARunIsNotOverwritten) {
  ASSERT_TRUE(Run("out", {}).ok());
  EXPECT_EQ(Run("out", {}).status().code(), absl::StatusCode::kAlreadyExists);
  RunOptions resume;
  resume.resume = true;
  EXPECT_EQ(Run("out", {"job.seed=5"}, resume).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Run("nowhere", {}, resume).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(SimulationTest, GoesOnOnlyWithTheDataItBeganWith) {
  ASSERT_TRUE(Run("out", {}).ok());
  RunOptions resume;
  resume.resume = true;
  const std::string data = base::JoinPath(dir_, "data.jsonl");
  const std::string before = *base::ReadFile(data);
  std::string after = before;
  after.replace(after.find("number 7"), 8, "number 8");
  ASSERT_TRUE(base::WriteFileAtomic(data, after).ok());
  const absl::Status changed = Run("out", {}, resume).status();
  EXPECT_EQ(changed.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(changed.message()), HasSubstr("data"));
  ASSERT_TRUE(base::WriteFileAtomic(data, before).ok());
  EXPECT_TRUE(Run("out", {}, resume).ok());
}

TEST_F(SimulationTest, RefusesACohortLargerThanThePopulation) {
  const absl::Status status = Run("big", {"job.rounds.cohort_size=7"}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(base::FileExists(Out("big")));
}

TEST_F(SimulationTest, SingleUpdatesAreGoneAfterTheRunUnlessKept) {
  const auto blobs = [this](const std::string& out) {
    base::WallClock clock;
    auto store = store::Store::Open(base::JoinPath(Out(out), "store"),
                                    base::Durability::kProcessCrash, clock);
    EXPECT_TRUE(store.ok()) << store.status();
    return (*store)->blobs().List()->size();
  };
  ASSERT_TRUE(Run("gone", {}).ok());
  ASSERT_TRUE(Run("kept", {"simulation.keep_updates=true"}).ok());
  EXPECT_EQ(blobs("kept") - blobs("gone"), 4u * 4u);
}

TEST_F(SimulationTest, TheReportStandsAlone) {
  ASSERT_TRUE(Run("report", {}).ok());
  const auto html =
      base::ReadFile(base::JoinPath(Out("report"), "report.html"));
  ASSERT_TRUE(html.ok()) << html.status();
  EXPECT_THAT(*html, HasSubstr("prefers-color-scheme: dark"));
  EXPECT_THAT(*html, HasSubstr("<svg"));
  EXPECT_THAT(*html, HasSubstr("lang=\"en\""));
  for (const char* foreign :
       {"http://", "https://", "src=", "@import", "<script", "url("}) {
    EXPECT_THAT(*html, Not(HasSubstr(foreign)));
  }
}

}  // namespace
}  // namespace choir::sim
