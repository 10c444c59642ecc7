#include "model/training/trainer.h"

#include <cmath>
#include <fstream>
#include <limits>
#include <thread>

#include "absl/strings/match.h"
#include "base/files.h"
#include "gtest/gtest.h"
#include "model/adapter/lora_layout.h"
#include "model/compute.h"
#include "model/tokenizer/tokenizer.h"
#include "nlohmann/json.hpp"
#include "tests/unit/model/tiny_model.h"

namespace choir::model {
namespace {

using absl::StatusCode;

config::AdapterOptions Adapter(double dropout = 0.0) {
  config::AdapterOptions options;
  options.rank = 4;
  options.alpha = 8.0;
  options.dropout = dropout;
  options.target_modules = LinearKinds(tests::TinyConfig());
  return options;
}

class TrainerTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    ConfigureCompute(1);
    auto loaded = BaseModel::Load(tests::WriteTinyModel(tests::TinyConfig()),
                                  DeviceKind::kCpu);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    base_ = *loaded;
  }
  static void TearDownTestSuite() { base_ = nullptr; }

  std::unique_ptr<Trainer> NewTrainer(double dropout = 0.0) {
    auto trainer = Trainer::Create(base_, Adapter(dropout));
    EXPECT_TRUE(trainer.ok()) << trainer.status();
    return *std::move(trainer);
  }
  static std::vector<Example> Examples(int count = 20) {
    return tests::RandomExamples(count, 24, tests::TinyConfig().vocab_size, 1);
  }
  static config::TrainingOptions Options(int steps = 0) {
    config::TrainingOptions options;
    options.learning_rate = 1e-2;
    options.batch_size = 4;
    options.local_steps = steps;
    options.local_epochs = steps > 0 ? 0 : 1;
    return options;
  }

  static std::shared_ptr<const BaseModel> base_;
};

std::shared_ptr<const BaseModel> TrainerTest::base_;

TEST_F(TrainerTest, FreshAdapterEqualsTheBase) {
  const auto trainer = NewTrainer();
  const std::vector<float> zero(trainer->layout().num_elements(), 0.0f);
  const std::vector<float> fresh = InitialAdapter(trainer->layout(), 5);
  const auto examples = Examples();
  const auto base = trainer->Evaluate(zero, examples, Options(), nullptr);
  const auto adapted = trainer->Evaluate(fresh, examples, Options(), nullptr);
  ASSERT_TRUE(base.ok()) << base.status();
  EXPECT_EQ(base->loss_sum, adapted->loss_sum);
  EXPECT_EQ(base->num_examples, examples.size());
  EXPECT_NE(fresh, zero);
}

TEST_F(TrainerTest, TrainingLowersTheLoss) {
  const auto trainer = NewTrainer();
  std::vector<float> values = InitialAdapter(trainer->layout(), 5);
  const auto examples = Examples();
  const auto before = trainer->Evaluate(values, examples, Options(), nullptr);
  const auto trained =
      trainer->Train(absl::MakeSpan(values), examples, Options(60), 1, nullptr);
  ASSERT_TRUE(trained.ok()) << trained.status();
  const auto after = trainer->Evaluate(values, examples, Options(), nullptr);
  EXPECT_LT(after->loss_sum, 0.9 * before->loss_sum);
  EXPECT_EQ(trained->steps, 60);
  EXPECT_EQ(trained->examples_seen, 240u);
}

TEST_F(TrainerTest, TwoTrainersOnTwoThreadsGiveTheSameBits) {
  const auto examples = Examples();
  std::vector<std::vector<float>> results(3);
  const auto work = [&](int i, bool warm_up) {
    PrepareTrainingThread();
    const auto trainer = NewTrainer(0.2);
    results[i] = InitialAdapter(trainer->layout(), 5);
    if (warm_up) {  // earlier work must leave no trace
      std::vector<float> other = InitialAdapter(trainer->layout(), 9);
      ASSERT_TRUE(
          trainer
              ->Train(absl::MakeSpan(other), examples, Options(3), 77, nullptr)
              .ok());
    }
    ASSERT_TRUE(trainer
                    ->Train(absl::MakeSpan(results[i]), examples, Options(10),
                            3, nullptr)
                    .ok());
  };
  work(0, false);
  std::thread one([&] { work(1, true); });
  std::thread two([&] { work(2, false); });
  one.join();
  two.join();
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

TEST_F(TrainerTest, SeedDecidesOrderAndDropout) {
  const auto examples = Examples();
  const auto run = [&](double dropout, uint64_t seed) {
    const auto trainer = NewTrainer(dropout);
    std::vector<float> values = InitialAdapter(trainer->layout(), 5);
    EXPECT_TRUE(
        trainer
            ->Train(absl::MakeSpan(values), examples, Options(5), seed, nullptr)
            .ok());
    return values;
  };
  EXPECT_NE(run(0.0, 1), run(0.0, 2));
  EXPECT_NE(run(0.3, 1), run(0.0, 1));
  EXPECT_EQ(run(0.3, 1), run(0.3, 1));
}

TEST_F(TrainerTest, AccumulatedBatchesEqualOneLargeBatch) {
  const auto trainer = NewTrainer();
  const auto examples = Examples(8);
  config::TrainingOptions large = Options(2);
  large.batch_size = 8;
  config::TrainingOptions small = large;
  small.batch_size = 2;
  small.gradient_accumulation = 4;
  std::vector<float> a = InitialAdapter(trainer->layout(), 5);
  std::vector<float> b = a;
  // Gradient descent: Adam's first steps blow rounding errors up.
  large.optimizer = small.optimizer = config::OptimizerKind::kSgd;
  ASSERT_TRUE(
      trainer->Train(absl::MakeSpan(a), examples, large, 1, nullptr).ok());
  ASSERT_TRUE(
      trainer->Train(absl::MakeSpan(b), examples, small, 1, nullptr).ok());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-6) << i;
}

// 64 examples of 32 tokens are twice what goes through a CPU at once.
TEST_F(TrainerTest, LongPassesAreSplitUnlessDropoutIsDrawnForThem) {
  const auto examples =
      tests::RandomExamples(64, 37, tests::TinyConfig().vocab_size, 1);
  const auto run = [&](double dropout, int batch_size) {
    const auto trainer = NewTrainer(dropout);
    std::vector<float> values = InitialAdapter(trainer->layout(), 5);
    config::TrainingOptions options = Options(1);
    options.optimizer = config::OptimizerKind::kSgd;
    options.max_sequence_length = 33;
    options.batch_size = batch_size;
    options.gradient_accumulation = 64 / batch_size;
    EXPECT_TRUE(
        trainer->Train(absl::MakeSpan(values), examples, options, 1, nullptr)
            .ok());
    return values;
  };
  const std::vector<float> split = run(0.0, 64);
  EXPECT_EQ(split, run(0.0, 32));
  const std::vector<float> smaller = run(0.0, 16);
  EXPECT_NE(split, smaller);  // rounded differently, and no more
  for (size_t i = 0; i < split.size(); ++i) {
    EXPECT_NEAR(split[i], smaller[i], 1e-6) << i;
  }
  EXPECT_NE(run(0.3, 64), run(0.3, 32));
}

TEST_F(TrainerTest, EpochsEndWithASmallerBatchAndStepsRunOn) {
  const auto trainer = NewTrainer();
  const auto examples = Examples(10);
  std::vector<float> values = InitialAdapter(trainer->layout(), 5);
  config::TrainingOptions options = Options();
  options.local_epochs = 2;
  int calls = 0;
  const auto epochs = trainer->Train(absl::MakeSpan(values), examples, options,
                                     1, [&](int step, int steps) {
                                       EXPECT_EQ(steps, 6);
                                       EXPECT_EQ(step, ++calls);
                                       return absl::OkStatus();
                                     });
  ASSERT_TRUE(epochs.ok()) << epochs.status();
  EXPECT_EQ(epochs->steps, 6);
  EXPECT_EQ(epochs->examples_seen, 20u);
  EXPECT_EQ(calls, 6);
  const auto steps =
      trainer->Train(absl::MakeSpan(values), examples, Options(6), 1, nullptr);
  EXPECT_EQ(steps->examples_seen, 24u);
}

TEST_F(TrainerTest, ProgressStopsTheWorkAndLeavesParametersAlone) {
  const auto trainer = NewTrainer();
  std::vector<float> values = InitialAdapter(trainer->layout(), 5);
  const std::vector<float> before = values;
  const auto stopped = trainer->Train(
      absl::MakeSpan(values), Examples(), Options(9), 1, [](int step, int) {
        return step < 3 ? absl::OkStatus() : absl::CancelledError("enough");
      });
  EXPECT_EQ(stopped.status().code(), StatusCode::kCancelled);
  EXPECT_EQ(values, before);
}

TEST_F(TrainerTest, LossThatIsNotFiniteAborts) {
  const auto trainer = NewTrainer();
  std::vector<float> values = InitialAdapter(trainer->layout(), 5);
  values[3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(
      trainer->Train(absl::MakeSpan(values), Examples(), Options(2), 1, nullptr)
          .status()
          .code(),
      StatusCode::kAborted);
  EXPECT_EQ(trainer->Evaluate(values, Examples(), Options(2), nullptr)
                .status()
                .code(),
            StatusCode::kAborted);
  values = InitialAdapter(trainer->layout(), 5);
  const std::vector<float> before = values;
  config::TrainingOptions wild = Options(40);
  wild.learning_rate = 1e30;
  wild.optimizer = config::OptimizerKind::kSgd;
  wild.max_grad_norm = 0.0;
  EXPECT_EQ(trainer->Train(absl::MakeSpan(values), Examples(), wild, 1, nullptr)
                .status()
                .code(),
            StatusCode::kAborted);
  EXPECT_EQ(values, before);
}

TEST_F(TrainerTest, RefusesExamplesThatCannotBeTrainedOn) {
  const auto trainer = NewTrainer();
  std::vector<float> values = InitialAdapter(trainer->layout(), 5);
  const auto code = [&](const std::vector<Example>& examples) {
    return trainer
        ->Train(absl::MakeSpan(values), examples, Options(1), 1, nullptr)
        .status()
        .code();
  };
  EXPECT_EQ(code({}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{{1, 300}, 1}}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{{1, -1}, 1}}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{{1}, 1}}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{{1, 2, 3}, 3}}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{{1, 2, 3}, 2}}), StatusCode::kOk);
  std::vector<float> wrong(3);
  EXPECT_EQ(
      trainer->Train(absl::MakeSpan(wrong), Examples(), Options(1), 1, nullptr)
          .status()
          .code(),
      StatusCode::kInvalidArgument);
}

TEST_F(TrainerTest, OnlyTokensFromLossBeginAreCounted) {
  const auto trainer = NewTrainer();
  const std::vector<float> values = InitialAdapter(trainer->layout(), 5);
  const std::vector<Example> whole = {{{1, 2, 3, 4, 5, 6}, 1}};
  const std::vector<Example> answer = {{{1, 2, 3, 4, 5, 6}, 4}};
  EXPECT_EQ(trainer->Evaluate(values, whole, Options(), nullptr)->tokens, 5u);
  const auto part = trainer->Evaluate(values, answer, Options(), nullptr);
  EXPECT_EQ(part->tokens, 2u);
  config::TrainingOptions cut = Options();
  cut.max_sequence_length = 5;
  EXPECT_EQ(trainer->Evaluate(values, answer, cut, nullptr)->tokens, 1u);
}

// Resident memory of this process in KiB.
int64_t ResidentKib() {
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word) {
    if (word == "VmRSS:") break;
  }
  int64_t kib = 0;
  status >> kib;
  return kib;
}

TEST_F(TrainerTest, MemoryDoesNotGrowWithTheNumberOfCalls) {
  const auto trainer = NewTrainer();
  const auto examples = Examples(6);
  const auto run = [&](int calls) {
    for (int i = 0; i < calls; ++i) {
      std::vector<float> values = InitialAdapter(trainer->layout(), 5);
      ASSERT_TRUE(
          trainer
              ->Train(absl::MakeSpan(values), examples, Options(1), i, nullptr)
              .ok());
      ASSERT_TRUE(trainer->Evaluate(values, examples, Options(), nullptr).ok());
    }
  };
  run(200);
  const int64_t before = ResidentKib();
  run(1000);
  EXPECT_LT(ResidentKib(), before + before / 50);
}

TEST(BaseModelTest, UnreadableFoldersAreRefusedWithTheFileInTheMessage) {
  const auto load = [](const std::string& folder) {
    return BaseModel::Load(folder, DeviceKind::kCpu).status();
  };
  EXPECT_EQ(load("/nonexistent").code(), StatusCode::kNotFound);

  const std::string folder = tests::WriteTinyModel(tests::TinyConfig());
  const std::string weights = base::JoinPath(folder, "model.safetensors");
  const std::string whole = *base::ReadFile(weights);
  for (const size_t size : {size_t{0}, size_t{5}, size_t{100}, whole.size() / 2,
                            whole.size() - 1}) {
    ASSERT_TRUE(base::WriteFileAtomic(weights, whole.substr(0, size)).ok());
    const absl::Status status = load(folder);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << size;
    EXPECT_TRUE(absl::StrContains(status.message(), "model.safetensors"))
        << status;
  }
  ASSERT_TRUE(base::WriteFileAtomic(weights, whole).ok());
  EXPECT_TRUE(load(folder).ok());

  ModelConfig wider = tests::TinyConfig();
  wider.intermediate_size = 48;
  ASSERT_TRUE(base::WriteFileAtomic(base::JoinPath(folder, "config.json"),
                                    ModelConfigJson(wider))
                  .ok());
  EXPECT_EQ(load(folder).code(), StatusCode::kInvalidArgument);
  ASSERT_TRUE(
      base::WriteFileAtomic(base::JoinPath(folder, "config.json"), "{").ok());
  EXPECT_EQ(load(folder).code(), StatusCode::kInvalidArgument);
}

TEST(BaseModelTest, AddedTokensMayBeBeyondTheModelOthersNot) {
  ModelConfig config = tests::TinyConfig();
  const std::string folder = tests::WriteTinyModel(config);
  const std::string path = base::JoinPath(folder, "tokenizer.json");
  nlohmann::json tokenizer = nlohmann::json::parse(*base::ReadFile(path));
  tokenizer["added_tokens"].push_back(
      {{"id", config.vocab_size}, {"content", "[PAD]"}, {"special", true}});
  ASSERT_TRUE(base::WriteFileAtomic(path, tokenizer.dump()).ok());
  const auto base = BaseModel::Load(folder, DeviceKind::kCpu);
  ASSERT_TRUE(base.ok()) << base.status();
  EXPECT_EQ((*base)->tokenizer().vocab_size(), config.vocab_size + 1);

  config.vocab_size = 270;  // of 280
  const auto small =
      BaseModel::Load(tests::WriteTinyModel(config), DeviceKind::kCpu);
  EXPECT_EQ(small.status().code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(small.status().message(), "has 280 tokens"))
      << small.status();
}

TEST(BaseModelTest, UnknownTargetModulesAreRefused) {
  const auto base = BaseModel::Load(tests::WriteTinyModel(tests::TinyConfig()),
                                    DeviceKind::kCpu);
  ASSERT_TRUE(base.ok()) << base.status();
  config::AdapterOptions options = Adapter();
  options.target_modules = {"c_attn"};
  EXPECT_EQ(Trainer::Create(*base, options).status().code(),
            StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace choir::model
