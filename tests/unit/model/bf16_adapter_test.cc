// Adapters whose values are bfloat16 in training.
#include <cmath>
#include <numeric>

#include "gtest/gtest.h"
#include "model/adapter/lora_layout.h"
#include "model/adapter/targets.h"
#include "model/compute.h"
#include "model/quantize/float_formats.h"
#include "model/training/trainer.h"
#include "tests/unit/model/tiny_model.h"

namespace choir::model {
namespace {

using config::AdapterKind;
using config::AdapterPrecision;

std::vector<float> Rounded(std::vector<float> values) {
  for (float& value : values) value = RoundToBf16(value);
  return values;
}

class Bf16AdapterTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    ConfigureCompute(1);
    folder_ = tests::WriteTinyModel(tests::TinyConfig());
    auto loaded = BaseModel::Load(folder_, DeviceKind::kCpu);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    base_ = *loaded;
  }
  static void TearDownTestSuite() { base_ = nullptr; }

  static config::AdapterOptions Adapter(
      AdapterKind kind = AdapterKind::kLora,
      AdapterPrecision precision = AdapterPrecision::kBf16) {
    config::AdapterOptions options;
    options.kind = kind;
    options.rank = 4;
    options.alpha = 8.0;
    options.frozen_seed = 3;
    options.lofit_heads = 2;
    options.precision = precision;
    return WithTargets(tests::TinyConfig(), options);
  }
  static std::unique_ptr<Trainer> NewTrainer(
      const config::AdapterOptions& options) {
    auto trainer = Trainer::Create(base_, options);
    EXPECT_TRUE(trainer.ok()) << trainer.status();
    return *std::move(trainer);
  }
  static std::vector<float> Start(const Trainer& trainer,
                                  const config::AdapterOptions& options) {
    return InitialAdapterOf(folder_, tests::TinyConfig(), options,
                            trainer.layout(), 5)
        .value();
  }
  static std::vector<Example> Examples() {
    return tests::RandomExamples(12, 24, tests::TinyConfig().vocab_size, 1);
  }
  static config::TrainingOptions Steps(int steps, double learning_rate) {
    config::TrainingOptions options;
    options.learning_rate = learning_rate;
    options.batch_size = 4;
    options.local_steps = steps;
    options.local_epochs = 0;
    return options;
  }
  static void Train(Trainer& trainer, std::vector<float>& values,
                    const config::TrainingOptions& options) {
    const auto trained =
        trainer.Train(absl::MakeSpan(values), Examples(), options, 1, nullptr);
    ASSERT_TRUE(trained.ok()) << trained.status();
  }
  static double LossOf(Trainer& trainer, const std::vector<float>& values) {
    return trainer.Evaluate(values, Examples(), Steps(1, 1e-3), nullptr)
        ->loss_sum;
  }

  static std::string folder_;
  static std::shared_ptr<const BaseModel> base_;
};

std::string Bf16AdapterTest::folder_;
std::shared_ptr<const BaseModel> Bf16AdapterTest::base_;

TEST_F(Bf16AdapterTest, ResultsOfEachKindAreBfloat16AndLowerTheLoss) {
  for (const AdapterKind kind :
       {AdapterKind::kLora, AdapterKind::kDora, AdapterKind::kFrozenA,
        AdapterKind::kIa3, AdapterKind::kLofit}) {
    const config::AdapterOptions options = Adapter(kind);
    const auto trainer = NewTrainer(options);
    std::vector<float> values = Start(*trainer, options);
    const double before = LossOf(*trainer, values);
    Train(*trainer, values, Steps(30, 1e-2));
    // LoFiT only chooses heads at first.
    if (kind == AdapterKind::kLofit) Train(*trainer, values, Steps(30, 1e-2));
    EXPECT_EQ(values, Rounded(values)) << config::AdapterKindName(kind);
    EXPECT_LT(LossOf(*trainer, values), before)
        << config::AdapterKindName(kind);
  }
}

TEST_F(Bf16AdapterTest, WithoutSteppingTheStartIsRounded) {
  const auto trainer = NewTrainer(Adapter());
  const std::vector<float> start = Start(*trainer, Adapter());
  std::vector<float> values = start;
  Train(*trainer, values, Steps(2, 0.0));
  EXPECT_EQ(values, Rounded(start));
  EXPECT_NE(values, start);
  // Training sees what was rounded, from the first step on.
  std::vector<float> from_given = start, from_rounded = Rounded(start);
  Train(*trainer, from_given, Steps(3, 1e-2));
  Train(*trainer, from_rounded, Steps(3, 1e-2));
  EXPECT_EQ(from_given, from_rounded);
}

// Steps of 1e-5 are far below the distance of bfloat16 values of 0.1, and would
// all be lost if each were rounded.
TEST_F(Bf16AdapterTest, SmallStepsAddUpInFloat32) {
  const auto trainer = NewTrainer(Adapter());
  const std::vector<float> start = Start(*trainer, Adapter());
  std::vector<float> values = start;
  Train(*trainer, values, Steps(80, 1e-5));
  int moved = 0, large = 0;
  for (size_t i = 0; i < start.size(); ++i) {
    if (std::fabs(start[i]) < 0.07f || std::fabs(start[i]) > 0.12f) continue;
    ++large;
    if (values[i] != RoundToBf16(start[i])) ++moved;
  }
  ASSERT_GT(large, 50);
  EXPECT_GT(moved, large / 4);
}

TEST_F(Bf16AdapterTest, WhatIsMeasuredIsRounded) {
  const auto rounds = NewTrainer(Adapter());
  const auto keeps =
      NewTrainer(Adapter(AdapterKind::kLora, AdapterPrecision::kFp32));
  base::SimRandom random(4);
  std::vector<float> values(rounds->layout().num_elements());
  for (float& v : values) v = static_cast<float>(random.Normal() * 0.2);
  EXPECT_EQ(LossOf(*rounds, values), LossOf(*keeps, Rounded(values)));
  EXPECT_NE(LossOf(*rounds, values), LossOf(*keeps, values));
}

TEST_F(Bf16AdapterTest, ABankTrainsOneAfterAnotherWithTheSameBits) {
  const auto trainer = NewTrainer(Adapter());
  const std::vector<Example> examples = Examples();
  std::vector<std::vector<float>> alone, together;
  for (int i = 0; i < 3; ++i) {
    alone.push_back(InitialAdapter(trainer->layout(), i));
  }
  together = alone;
  std::vector<BankMember> members;
  for (size_t i = 0; i < alone.size(); ++i) {
    ASSERT_TRUE(trainer
                    ->Train(absl::MakeSpan(alone[i]), examples, Steps(4, 1e-2),
                            i, nullptr)
                    .ok());
    members.push_back({absl::MakeSpan(together[i]), examples, i});
  }
  ASSERT_TRUE(trainer->TrainBank(members, Steps(4, 1e-2), nullptr).ok());
  EXPECT_EQ(alone, together);
}

}  // namespace
}  // namespace choir::model
