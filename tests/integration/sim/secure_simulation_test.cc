// Experiments whose updates are summed in secret come out as those that sum the
// same clients' updates in the open, bit for bit.
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "base/clock.h"
#include "base/files.h"
#include "coordinator/store/store.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/experiment/simulation.h"
#include "tests/support/experiment.h"
#include "tests/support/golden.h"

namespace choir::sim {
namespace {

constexpr char kTables[] = R"(
[job.adapter]
rank = 2
target_modules = ["q_proj", "v_proj"]
[job.training]
local_steps = 1
batch_size = 2
max_sequence_length = 24
learning_rate = 0.01
[job.rounds]
count = 3
cohort_size = 10
min_survivors = 7
[job.aggregation]
weighting = "examples"
)";

std::vector<std::string> Secure(std::vector<std::string> more = {}) {
  more.insert(more.begin(), {"job.secure_aggregation.enabled=true",
                             "job.secure_aggregation.dropout_fraction=0.3",
                             "job.secure_aggregation.min_clients=5"});
  return more;
}

// Three clients of twelve in each round, each in another phase.
absl::optional<int> DropPhase(uint32_t round, const std::string& client) {
  int index = 0;
  if (!absl::SimpleAtoi(client.substr(1), &index)) return absl::nullopt;
  const int turn = index + static_cast<int>(round);
  if (turn % 4 != 0) return absl::nullopt;
  return turn / 4 % 5;
}

class SecureSimulationTest : public testing::Test {
 protected:
  void SetUp() override {
    CHOIR_SKIP_WITHOUT_GOLDEN("stories260k");
    dir_ = tests::NewTempDir();
    toml_ = tests::WriteExperiment(
        dir_, {.base_model = tests::GoldenDir() + "/stories260k",
               .topics = 12,
               .examples = 90,
               .tables = kTables});
  }

  struct Outcome {
    std::string adapter;
    uint32_t lost = 0;
    std::vector<std::vector<std::string>> survivors;
    int phases = 0;
    int dropped = 0;
  };
  Outcome Run(const std::string& name, std::vector<std::string> overrides,
              RunOptions run = {}) {
    const auto options = LoadExperiment(toml_, overrides);
    EXPECT_TRUE(options.ok()) << options.status();
    if (!options.ok()) return {};
    run.out_dir = base::JoinPath(dir_, name);
    const auto result = RunExperiment(*options, run);
    EXPECT_TRUE(result.ok()) << name << ": " << result.status();
    if (!result.ok()) return {};
    EXPECT_TRUE(result->progress.finished);
    Outcome outcome;
    outcome.adapter = result->progress.adapter.digest();
    outcome.lost = result->progress.rounds_lost;
    base::WallClock clock;
    const auto store = store::Store::Open(
        result->store_dir, base::Durability::kProcessCrash, clock);
    EXPECT_TRUE(store.ok());
    EXPECT_TRUE(
        (*store)
            ->journal()
            .ForEach([&](const store::JournalEntry& entry) {
              if (entry.record.has_round_committed()) {
                const auto& names = entry.record.round_committed().survivors();
                outcome.survivors.emplace_back(names.begin(), names.end());
              }
              if (entry.record.has_secure_phase_closed()) {
                ++outcome.phases;
                outcome.dropped +=
                    entry.record.secure_phase_closed().dropped_size();
              }
              return absl::OkStatus();
            })
            .ok());
    return outcome;
  }

  std::string dir_;
  std::string toml_;
};

TEST_F(SecureSimulationTest, SumsAreThoseOfThePlainRun) {
  const Outcome plain = Run("plain", {});
  const Outcome secure = Run("secure", Secure());
  EXPECT_EQ(secure.adapter, plain.adapter);
  EXPECT_EQ(secure.survivors, plain.survivors);
  EXPECT_EQ(secure.phases, 5 * 3);
  EXPECT_EQ(plain.phases, 0);
  const Outcome curious =
      Run("curious", Secure({"job.secure_aggregation.adversary=curious"}));
  EXPECT_EQ(curious.adapter, plain.adapter);
  EXPECT_EQ(curious.phases, 4 * 3);
}

TEST_F(SecureSimulationTest, WithDropoutsInEveryPhaseTheSurvivorsAreSummed) {
  RunOptions drops;
  drops.drop_phase = [](uint32_t round, uint32_t, const std::string& client) {
    return DropPhase(round, client);
  };
  const Outcome secure = Run("secure", Secure(), drops);
  EXPECT_EQ(secure.lost, 0u);
  EXPECT_GT(secure.dropped, 3);
  // Who drops out after its masked vector arrived is in the sum.
  drops.drop_phase = [](uint32_t round, uint32_t,
                        const std::string& client) -> absl::optional<int> {
    const auto phase = DropPhase(round, client);
    if (phase.has_value() && *phase <= 2) return 0;
    return absl::nullopt;
  };
  const Outcome plain = Run("plain", {}, drops);
  EXPECT_EQ(secure.survivors, plain.survivors);
  EXPECT_EQ(secure.adapter, plain.adapter);
  EXPECT_NE(secure.adapter, Run("undisturbed", {}).adapter);
}

TEST_F(SecureSimulationTest, WorkersChangeNothingEvenWithRandomRounding) {
  const std::vector<std::string> overrides = Secure(
      {"job.secure_aggregation.rounding=stochastic",
       "job.secure_aggregation.rotate=true",
       "job.secure_aggregation.value_bits=20",
       "job.aggregation.fixed_point_bits=18", "simulation.dropout_rate=0.1"});
  const Outcome one = Run("one", overrides);
  std::vector<std::string> more = overrides;
  more.push_back("simulation.workers=2");
  const Outcome two = Run("two", more);
  EXPECT_EQ(one.adapter, two.adapter);
  EXPECT_EQ(one.survivors, two.survivors);
}

TEST_F(SecureSimulationTest, StoppedAndResumedItEndsTheSame) {
  const std::vector<std::string> overrides =
      Secure({"job.secure_aggregation.rounding=stochastic",
              "job.secure_aggregation.rotate=true"});
  const Outcome whole = Run("whole", overrides);
  const auto options = LoadExperiment(toml_, overrides);
  ASSERT_TRUE(options.ok());
  RunOptions run;
  run.out_dir = base::JoinPath(dir_, "parts");
  int rounds = 0;
  run.on_round = [&rounds](const RoundMetrics&) { ++rounds; };
  run.stop_requested = [&rounds] { return rounds >= 1; };
  const auto first = RunExperiment(*options, run);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_TRUE(first->interrupted);
  run.resume = true;
  run.stop_requested = nullptr;
  const auto second = RunExperiment(*options, run);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_TRUE(second->progress.finished);
  EXPECT_EQ(second->progress.adapter.digest(), whole.adapter);
}

TEST_F(SecureSimulationTest, GroupsGoThroughARobustRule) {
  const Outcome groups =
      Run("groups", Secure({"job.secure_aggregation.group_size=3",
                            "job.secure_aggregation.dropout_fraction=0",
                            "job.secure_aggregation.min_clients=3",
                            "job.rounds.min_survivors=9",
                            "job.secure_aggregation.group_rule=median"}));
  EXPECT_EQ(groups.survivors.size(), 3u);
}

}  // namespace
}  // namespace choir::sim
