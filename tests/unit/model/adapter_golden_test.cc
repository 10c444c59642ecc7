// Adapters against what tools/golden_adapters/make.py computed in PyTorch.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "base/files.h"
#include "model/adapter/peft_folder.h"
#include "model/checkpoint/safetensors.h"
#include "model/loaded_adapter.h"
#include "model/loaded_model.h"
#include "model/objective/packing.h"
#include "model/training/trainer.h"
#include "nlohmann/json.hpp"
#include "tests/support/golden.h"

namespace choir::model {
namespace {

using nlohmann::json;

class AdapterGoldenTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const std::string data = base::JoinPath(tests::SourceDir(), "tests/data");
    folder_ = base::JoinPath(data, "golden_adapters/" + GetParam());
    expected_ = json::parse(
        base::ReadFile(base::JoinPath(folder_, "expected.json")).value());
    base_ = LoadedModel::LoadFolder(base::JoinPath(data, "micro-llama"),
                                    DeviceKind::kCpu, false)
                .value();
    for (const json& ids : expected_["ids"]) {
      examples_.push_back({ids.get<std::vector<int32_t>>(), 1});
    }
  }

  std::string folder_;
  json expected_;
  std::shared_ptr<const LoadedModel> base_;
  std::vector<Example> examples_;
};

TEST_P(AdapterGoldenTest, LossAndLogitsAreThoseOfTheDefinition) {
  const Decoder& decoder = base_->decoder();
  const auto bank = LoadAdapter(folder_, decoder);
  ASSERT_TRUE(bank.ok()) << bank.status();
  at::NoGradGuard no_grad;
  for (const Kernels kernels : {Kernels::kFused, Kernels::kReference}) {
    ForwardOptions forward;
    forward.lora = &*bank;
    forward.kernels = kernels;
    double loss = 0.0;
    int64_t tokens = 0;
    for (size_t i = 0; i < examples_.size(); ++i) {
      const at::Tensor logits =
          decoder.Logits(PackWhole(examples_[i].ids, at::kCPU), forward)
              .contiguous();
      const float* last =
          logits.data_ptr<float>() + (logits.size(0) - 1) * logits.size(1);
      const json& wanted = expected_["logits_last"][i];
      for (size_t k = 0; k < wanted.size(); ++k) {
        EXPECT_NEAR(last[12 * k], wanted[k].get<double>(), 2e-4) << k;
      }
      const Example* const one[] = {&examples_[i]};
      const PackedBatch batch = PackExamples(one, 64, at::kCPU);
      loss += decoder.Loss(batch, forward, 1.0).item<double>();
      tokens += batch.predictions;
    }
    EXPECT_NEAR(loss / tokens, expected_["mean_loss"].get<double>(), 2e-5);
  }
}

// A step of plain gradient descent with rate 1 leaves the gradient.
TEST_P(AdapterGoldenTest, GradientsAreThoseOfTheDefinition) {
  const auto adapter = ReadPeftFolder(folder_, base_->decoder().config());
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  const auto trainer = Trainer::Create(base_, adapter->options);
  if (!adapter->options.uniform()) {
    EXPECT_EQ(trainer.status().code(), absl::StatusCode::kInvalidArgument);
    return;
  }
  ASSERT_TRUE(trainer.ok()) << trainer.status();
  config::TrainingOptions training;
  training.objective = config::Objective::kCausalLm;
  training.optimizer = config::OptimizerKind::kSgd;
  training.learning_rate = 1.0;
  training.max_grad_norm = 0.0;
  training.local_steps = 1;
  training.local_epochs = 0;
  training.batch_size = static_cast<int>(examples_.size());
  training.max_sequence_length = 64;
  ASSERT_EQ((*trainer)->layout().digest(), adapter->layout.digest());
  std::vector<float> values = adapter->values;
  const auto trained = (*trainer)->Train(absl::MakeSpan(values), examples_,
                                         training, 1, nullptr);
  ASSERT_TRUE(trained.ok()) << trained.status();
  EXPECT_NEAR(trained->mean_loss, expected_["mean_loss"].get<double>(), 2e-5);
  const std::string bytes =
      base::ReadFile(base::JoinPath(folder_, "gradient.safetensors")).value();
  const auto gradient = DecodeAdapterFile(bytes, adapter->layout);
  ASSERT_TRUE(gradient.ok()) << gradient.status();
  double largest = 0.0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double ours = static_cast<double>(adapter->values[i]) -
                        static_cast<double>(values[i]);
    ASSERT_NEAR(ours, (*gradient)[i], 1e-5 + 1e-3 * std::fabs((*gradient)[i]))
        << i;
    largest = std::max(largest, std::fabs(ours));
  }
  EXPECT_GT(largest, 1e-2);
}

INSTANTIATE_TEST_SUITE_P(All, AdapterGoldenTest,
                         testing::Values("lora", "rslora_patterns", "dora",
                                         "dora_rslora", "ia3"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace choir::model
