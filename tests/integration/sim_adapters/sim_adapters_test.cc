// Every kind of adapter through whole experiments, and clients that share a
// pass.
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/adapter/lora_layout.h"
#include "model/adapter/peft_folder.h"
#include "model/checkpoint/quantize_checkpoint.h"
#include "nlohmann/json.hpp"
#include "sim/experiment/simulation.h"
#include "sim/experiment/summary.h"
#include "tests/support/experiment.h"
#include "tests/support/golden.h"

namespace choir::sim {
namespace {

std::string MicroModel() {
  return base::JoinPath(tests::SourceDir(), "tests/data/micro-llama");
}

constexpr char kTables[] = R"(
[job.training]
local_steps = 4
batch_size = 2
max_sequence_length = 32
learning_rate = 0.02
[job.rounds]
count = 4
cohort_size = 4
min_survivors = 1
[job.evaluation]
every = 4
)";

class SimAdaptersTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    dir_ = tests::NewTempDir();
    toml_ = tests::WriteExperiment(
        dir_, {.base_model = MicroModel(),
               .topics = 6,
               .examples = 48,
               .tables = absl::StrCat("[job.adapter]\nkind = \"", GetParam(),
                                      "\"\n", kTables)});
  }
  RunResult Run(const std::string& out,
                const std::vector<std::string>& overrides) {
    const auto options = LoadExperiment(toml_, overrides);
    EXPECT_TRUE(options.ok()) << options.status();
    RunOptions run;
    run.out_dir = base::JoinPath(dir_, out);
    auto result = RunExperiment(*options, run);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *std::move(result) : RunResult();
  }
  std::string dir_, toml_;
};

TEST_P(SimAdaptersTest, LowersTheHeldOutLossAndIsTheSameForAnyWorkers) {
  const RunResult one = Run("one", {"simulation.workers=1"});
  const RunResult two = Run("two", {"simulation.workers=2"});
  EXPECT_EQ(one.progress.adapter.digest(), two.progress.adapter.digest());
  const auto summary = nlohmann::json::parse(SummaryJson(
      *LoadExperiment(toml_, {}), one, base::JoinPath(dir_, "one")));
  EXPECT_LT(summary["heldout_loss"].get<double>(),
            summary["heldout_loss_before"].get<double>() - 0.005);

  // The folder is one that PEFT reads: a frozen A lies beside its B.
  const auto config = model::LoadModelConfig(MicroModel() + "/config.json");
  const auto adapter = model::ReadPeftFolder(one.adapter_dir, *config);
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  const bool frozen = std::string(GetParam()) == "frozen_a";
  EXPECT_EQ(config::AdapterKindName(adapter->options.kind),
            frozen ? "lora" : GetParam());
  if (frozen) {
    const auto text = base::ReadFile(one.adapter_dir + "/adapter_config.json");
    EXPECT_FALSE(absl::StrContains(*text, "choir"));
  }
}

TEST_P(SimAdaptersTest, TrainsOnAQuantisedBase) {
  for (const auto format :
       {model::WeightFormat::kInt8, model::WeightFormat::kNf4}) {
    const std::string name(model::WeightFormatName(format));
    const std::string folder = base::JoinPath(dir_, name);
    ASSERT_TRUE(model::QuantizeCheckpoint(MicroModel(), format, folder).ok());
    const std::string base = absl::StrCat("job.model.base=", folder);
    const RunResult one = Run(name + "-1", {base, "simulation.workers=1"});
    const RunResult two = Run(name + "-2", {base, "simulation.workers=2"});
    EXPECT_EQ(one.progress.adapter.digest(), two.progress.adapter.digest());
    const auto summary = nlohmann::json::parse(SummaryJson(
        *LoadExperiment(toml_, {base}), one, base::JoinPath(dir_, name)));
    EXPECT_LT(summary["heldout_loss"].get<double>(),
              summary["heldout_loss_before"].get<double>() - 0.005);
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, SimAdaptersTest,
                         testing::Values("lora", "dora", "frozen_a", "ia3",
                                         "lofit"),
                         [](const auto& info) {
                           return std::string(info.param);
                         });

class SharedPassTest : public SimAdaptersTest {};

TEST_P(SharedPassTest, GivesTheAdapterOfOneAfterAnother) {
  // SGD: AdamW's many steps would blow the last bits up.
  const auto run = [this](const std::string& out, int workers, int clients) {
    return Run(out,
               {"job.training.optimizer=sgd", "job.training.learning_rate=0.1",
                absl::StrCat("simulation.workers=", workers),
                absl::StrCat("simulation.clients_per_pass=", clients)});
  };
  const RunResult alone = run("alone", 1, 1);
  const RunResult shared = run("shared", 1, 4);
  const RunResult uneven = run("uneven", 2, 3);
  const auto config = model::LoadModelConfig(MicroModel() + "/config.json");
  const auto expected = model::ReadPeftFolder(alone.adapter_dir, *config);
  for (const RunResult* other : {&shared, &uneven}) {
    const auto got = model::ReadPeftFolder(other->adapter_dir, *config);
    ASSERT_TRUE(expected.ok() && got.ok());
    double error = 0.0, size = 0.0;
    for (size_t i = 0; i < got->values.size(); ++i) {
      const double difference = got->values[i] - expected->values[i];
      error += difference * difference;
      size += static_cast<double>(expected->values[i]) * expected->values[i];
    }
    EXPECT_LT(std::sqrt(error / size), 1e-5);
  }
}

TEST_P(SharedPassTest, AdaptersInBfloat16AreTrainedAlone) {
  const auto run = [this](const std::string& out, const char* precision,
                          int clients) {
    return Run(out, {absl::StrCat("job.adapter.precision=", precision),
                     absl::StrCat("simulation.clients_per_pass=", clients)})
        .progress.adapter.digest();
  };
  const std::string alone = run("alone", "bf16", 1);
  EXPECT_EQ(alone, run("shared", "bf16", 4));
  EXPECT_NE(alone, run("fp32", "fp32", 1));
}

INSTANTIATE_TEST_SUITE_P(Kinds, SharedPassTest,
                         testing::Values("lora", "frozen_a", "ia3"),
                         [](const auto& info) {
                           return std::string(info.param);
                         });

}  // namespace
}  // namespace choir::sim
