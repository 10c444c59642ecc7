// What training really takes, measured as the peak of resident memory of a
// process of its own.
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/files.h"
#include "base/sim_random.h"
#include "gtest/gtest.h"
#include "model/checkpoint/families.h"
#include "model/checkpoint/safetensors_writer.h"
#include "nlohmann/json.hpp"
#include "tests/support/golden.h"
#include "tests/support/process.h"

namespace choir::model {
namespace {

ModelConfig Shape(int64_t hidden, int64_t layers, int64_t intermediate,
                  int64_t vocabulary) {
  ModelConfig config;
  config.hidden_size = hidden;
  config.num_layers = layers;
  config.intermediate_size = intermediate;
  config.vocab_size = vocabulary;
  config.num_heads = 8;
  config.num_kv_heads = 4;
  config.head_dim = hidden / 8;
  config.max_positions = 512;
  config.tie_word_embeddings = true;
  return config;
}

// A model folder with random weights, written tensor by tensor.
std::string WriteModel(const ModelConfig& config) {
  const std::string folder = tests::NewTempDir();
  CHOIR_CHECK(base::WriteFileAtomic(base::JoinPath(folder, "config.json"),
                                    ModelConfigJson(config))
                  .ok());
  base::SimRandom random(3);
  std::vector<float> noise(1 << 16);
  for (float& x : noise) x = static_cast<float>(random.Normal() * 0.02);
  auto writer =
      SafetensorsWriter::Create(base::JoinPath(folder, "model.safetensors"));
  CHOIR_CHECK(writer.ok());
  for (const codec::TensorSpec& spec : ModelTensors(config)) {
    std::vector<float> values(spec.num_elements(), 1.0f);
    for (size_t i = 0; spec.shape.size() > 1 && i < values.size(); ++i) {
      values[i] = noise[(i * 7 + spec.name.size()) % noise.size()];
    }
    TensorView view;
    view.name = spec.name;
    view.shape = spec.shape;
    const std::string bytes = FloatsToBytes(values, DType::kF32);
    view.bytes = bytes;
    CHOIR_CHECK((*writer)->Add(view).ok());
  }
  CHOIR_CHECK((*writer)->Finish().ok());
  return folder;
}

std::string WriteModel(int64_t hidden, int64_t layers, int64_t intermediate,
                       int64_t vocabulary) {
  return WriteModel(Shape(hidden, layers, intermediate, vocabulary));
}

struct Outcome {
  int exit_code = 0;
  nlohmann::json json;
};

Outcome Plan(const std::string& folder, int64_t budget,
             const std::vector<std::string>& more) {
  std::vector<std::string> arguments = {
      base::JoinPath(tests::BinDir(), "choir-model"),
      "plan",
      "--model",
      folder,
      "--budget-mib",
      absl::StrCat(budget),
      "--json"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  const tests::CommandResult result =
      tests::RunCommand(arguments, absl::Seconds(300));
  return {result.exit_code, nlohmann::json::parse(result.out, nullptr, false)};
}

int64_t SmallestBudget(const std::string& folder) {
  const Outcome refused = Plan(folder, 1, {});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_EQ(refused.json["error"]["code"], "RESOURCE_EXHAUSTED");
  const std::string message = refused.json["error"]["message"];
  const std::string marker = "smallest budget that would do is ";
  const size_t at = message.find(marker);
  EXPECT_NE(at, std::string::npos) << message;
  return std::atoll(message.c_str() + at + marker.size());
}

// Peak of full fine-tuning with passes of `batch` x 256 tokens, in MiB.
double MeasureFullStep(const std::string& folder, const std::string& batch) {
  const tests::CommandResult run = tests::RunCommand(
      {base::JoinPath(tests::BinDir(), "../tests/model_full_step_probe"),
       folder, batch, "256"},
      absl::Seconds(300));
  EXPECT_EQ(run.exit_code, 0) << run.err;
  return std::atof(run.out.c_str());
}

TEST(MemoryTest, TrainingAsPlannedStaysWithinTheBudget) {
  const std::string folder = WriteModel(256, 6, 704, 8192);
  const int64_t smallest = SmallestBudget(folder);
  ASSERT_GT(smallest, 0);
  EXPECT_EQ(Plan(folder, smallest - 1, {}).exit_code, 1);
  std::string before;
  for (const int64_t budget :
       {smallest, smallest + 12, smallest + 50, smallest + 150}) {
    const Outcome plan = Plan(folder, budget, {"--measure"});
    ASSERT_EQ(plan.exit_code, 0) << plan.json;
    EXPECT_LE(plan.json["estimate_mib"]["total"].get<int64_t>(), budget);
    EXPECT_LE(plan.json["measured_peak_mib"].get<double>(),
              static_cast<double>(budget))
        << plan.json;
    // More memory buys something.
    nlohmann::json settings = plan.json;
    settings.erase("budget_mib");
    settings.erase("measured_peak_mib");
    settings.erase("tokens_per_second");
    EXPECT_NE(settings.dump(), before);
    before = settings.dump();
  }
}

// Of a mixture a device holds as many experts as its memory has room for.
TEST(MemoryTest, APartOfTheExpertsStaysWithinTheBudget) {
  ModelConfig config = Shape(256, 4, 1024, 4096);
  config.family = Family::kMixtral;
  config.tie_word_embeddings = false;
  config.moe.num_experts = 16;
  config.moe.experts_per_token = 2;
  config.moe.intermediate_size = config.intermediate_size;
  const std::string folder = WriteModel(config);
  const int64_t smallest = SmallestBudget(folder);
  size_t before = 1;
  for (const int64_t budget : {smallest, smallest + 8, smallest + 16}) {
    const Outcome plan = Plan(folder, budget, {"--measure"});
    ASSERT_EQ(plan.exit_code, 0) << plan.json;
    EXPECT_LE(plan.json["measured_peak_mib"].get<double>(),
              static_cast<double>(budget))
        << plan.json;
    // The first ones; more memory holds more.
    EXPECT_GT(plan.json["experts"].size(), before) << plan.json;
    EXPECT_LT(plan.json["experts"].size(), 16u) << plan.json;
    EXPECT_EQ(plan.json["experts"][1], 1);
    before = plan.json["experts"].size();
  }
  // Named ones. In bfloat16 each is a copy, whether tokens pass it or not.
  const std::vector<std::string> every = {"--measure", "--precision", "bf16",
                                          "--batch-size", "1"};
  std::vector<std::string> some = every;
  some.insert(some.end(), {"--experts", "3,7,9"});
  const Outcome part = Plan(folder, 100000, some);
  const Outcome all = Plan(folder, 100000, every);
  ASSERT_EQ(part.exit_code, 0) << part.json;
  ASSERT_EQ(all.exit_code, 0) << all.json;
  EXPECT_EQ(part.json["experts"], nlohmann::json({3, 7, 9}));
  EXPECT_EQ(all.json["experts"].size(), 16u);
  // 13 of 16 experts are 78 MiB.
  EXPECT_LT(part.json["measured_peak_mib"].get<double>(),
            all.json["measured_peak_mib"].get<double>() - 60.0);
  EXPECT_EQ(Plan(folder, 100000, {"--experts", "3"}).exit_code, 2);
}

TEST(MemoryTest, CheckpointingTakesLess) {
  const std::string folder = WriteModel(256, 8, 704, 2048);
  const std::vector<std::string> common = {"--measure", "--precision", "fp32"};
  const Outcome kept = Plan(folder, 100000, common);
  std::vector<std::string> again = common;
  again.push_back("--checkpointing");
  const Outcome twice = Plan(folder, 100000, again);
  ASSERT_EQ(kept.exit_code, 0);
  ASSERT_EQ(twice.exit_code, 0);
  EXPECT_FALSE(kept.json["activation_checkpointing"].get<bool>());
  EXPECT_TRUE(twice.json["activation_checkpointing"].get<bool>());
  // Activations of about 90 MiB become about 30.
  EXPECT_LT(twice.json["measured_peak_mib"].get<double>(),
            kept.json["measured_peak_mib"].get<double>() - 45.0)
      << kept.json << twice.json;
}

// About 10 million parameters, where what every process takes counts most, and
// about 52 million.
TEST(MemoryTest, AnAdapterTakesAtMostThreeFifthsOfFullFineTuning) {
  for (const std::string& folder :
       {WriteModel(256, 8, 704, 16384), WriteModel(512, 12, 1408, 32000)}) {
    const Outcome adapter =
        Plan(folder, 100000, {"--measure", "--precision", "fp32"});
    ASSERT_EQ(adapter.exit_code, 0) << adapter.json;
    EXPECT_EQ(adapter.json["batch_size"], 8);
    EXPECT_EQ(adapter.json["max_sequence_length"], 256);
    const double full = MeasureFullStep(folder, "8");
    EXPECT_LE(adapter.json["measured_peak_mib"].get<double>(), 0.6 * full)
        << adapter.json << " full: " << full;
  }
}

TEST(MemoryTest, FewerBitsTakeLess) {
  const std::string folder = WriteModel(512, 12, 1408, 2048);
  double before = 1e9;
  for (const char* precision : {"fp32", "bf16", "int8", "nf4"}) {
    const Outcome run =
        Plan(folder, 100000,
             {"--measure", "--precision", precision, "--batch-size", "1",
              "--max-sequence-length", "64"});
    ASSERT_EQ(run.exit_code, 0) << run.json;
    const double peak = run.json["measured_peak_mib"].get<double>();
    EXPECT_LT(peak, before - 8.0) << precision;
    before = peak;
  }
}

}  // namespace
}  // namespace choir::model
