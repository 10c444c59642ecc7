// Every folder of golden/arch: logits, losses, an adapter's gradients and a
// training run of Hugging Face transformers and PEFT, reproduced.
#include <dirent.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "gtest/gtest.h"
#include "model/adapter/peft_folder.h"
#include "model/loaded_model.h"
#include "model/objective/packing.h"
#include "model/training/trainer.h"
#include "nlohmann/json.hpp"
#include "tests/support/golden.h"

namespace choir::model {
namespace {

void ExpectNear(const at::Tensor& row, const nlohmann::json& expected,
                double tolerance) {
  const at::Tensor flat = row.reshape({-1}).contiguous();
  ASSERT_EQ(static_cast<size_t>(flat.numel()), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(flat.data_ptr<float>()[i], expected[i].get<double>(), tolerance)
        << "logit " << i;
  }
}

class ArchGoldenTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    folder_ = base::JoinPath(tests::GoldenDir(), "arch/") + GetParam();
    auto model = LoadedModel::LoadFolder(folder_, DeviceKind::kCpu, false);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *model;
    const auto text = base::ReadFile(folder_ + "/expected.json");
    ASSERT_TRUE(text.ok()) << text.status();
    expected_ = nlohmann::json::parse(*text);
    for (const auto& row : expected_["ids"]) {
      examples_.push_back({row.get<std::vector<int32_t>>(), 1});
    }
    for (const Example& example : examples_) pointers_.push_back(&example);
    has_adapter_ = expected_.contains("lora") &&
                   base::FileExists(folder_ + "/adapter/adapter_config.json");
    if (!has_adapter_) return;
    auto adapter = ReadPeftFolder(folder_ + "/adapter", decoder().config());
    ASSERT_TRUE(adapter.ok()) << adapter.status();
    adapter_ = *std::move(adapter);
  }

  const Decoder& decoder() const { return model_->decoder(); }
  PackedBatch Batch(bool keep_last) const {
    return PackExamples(pointers_, 1 << 20, at::kCPU, keep_last);
  }
  LoraBank Bank(const at::Tensor& flat) {
    return BindLora(decoder().config(), adapter_.layout, flat,
                    adapter_.options.scale());
  }
  at::Tensor Flat() {
    return at::from_blob(adapter_.values.data(),
                         {static_cast<int64_t>(adapter_.values.size())},
                         at::kFloat);
  }
  void ExpectLogits(const nlohmann::json& expected, const LoraBank* lora) {
    for (const Kernels kernels : {Kernels::kFused, Kernels::kReference}) {
      ForwardOptions options;
      options.lora = lora;
      options.kernels = kernels;
      for (size_t i = 0; i < examples_.size(); ++i) {
        const at::Tensor logits =
            decoder().Logits(PackWhole(examples_[i].ids, at::kCPU), options);
        ExpectNear(logits[-1], expected["logits_last"][i], 2e-4);
        if (i == 0 && expected.contains("logits_first_row_pos7")) {
          ExpectNear(logits[7], expected["logits_first_row_pos7"], 2e-4);
        }
      }
    }
  }

  std::string folder_;
  std::shared_ptr<const LoadedModel> model_;
  nlohmann::json expected_;
  std::vector<Example> examples_;
  std::vector<const Example*> pointers_;
  bool has_adapter_ = false;
  PeftAdapter adapter_;
};

TEST_P(ArchGoldenTest, LogitsAndLoss) {
  ExpectLogits(expected_, nullptr);
  const PackedBatch batch = Batch(false);
  EXPECT_NEAR(decoder().Loss(batch, {}, 1.0 / batch.predictions).item<double>(),
              expected_["mean_nll"].get<double>(), 1e-4);
}

TEST_P(ArchGoldenTest, LoadBalancingLoss) {
  if (!expected_.contains("load_balancing_loss")) {
    EXPECT_EQ(decoder().config().moe.num_experts, 0);
    return;
  }
  const int64_t k = decoder().config().moe.experts_per_token;
  RouterLog log;
  log.keep_logits = true;
  ForwardOptions options;
  options.router_log = &log;
  decoder().Hidden(Batch(true), options);
  const double expected = expected_["load_balancing_loss"];
  EXPECT_NEAR(LoadBalancingLoss(log.layers, k).item<double>(), expected, 1e-5);
  LoadBalancingMeter meter(k);
  for (const Example& example : examples_) {
    decoder().Hidden(PackWhole(example.ids, at::kCPU), options);
    meter.Add(log.layers);
  }
  EXPECT_NEAR(meter.loss(), expected, 1e-5);
}

TEST_P(ArchGoldenTest, AdapterGivesItsLogitsAndGradients) {
  if (!has_adapter_) GTEST_SKIP() << GetParam() << " has no adapter";
  LoraBank bank = Bank(Flat());
  ExpectLogits(expected_["lora"], &bank);
  for (const Kernels kernels : {Kernels::kFused, Kernels::kReference}) {
    at::Tensor gradient = at::zeros_like(Flat());
    GatherGradients(Bank(gradient), bank);
    ForwardOptions options;
    options.lora = &bank;
    options.kernels = kernels;
    const PackedBatch batch = Batch(false);
    const at::Tensor loss =
        decoder().Loss(batch, options, 1.0 / batch.predictions);
    EXPECT_NEAR(loss.item<double>(),
                expected_["lora"]["mean_nll"].get<double>(), 1e-4);
    torch::autograd::backward({loss}, {});
    size_t compared = 0;
    const auto& norms = expected_["lora"]["grad_l2"];
    for (size_t i = 0; i < adapter_.layout.tensors().size(); ++i) {
      const codec::TensorSpec& spec = adapter_.layout.tensors()[i];
      const auto it = norms.find(spec.name);
      if (it == norms.end()) continue;
      const double norm =
          gradient.narrow(0, adapter_.layout.offset(i), spec.num_elements())
              .norm()
              .item<double>();
      EXPECT_NEAR(norm, it->get<double>(), 1e-3 * it->get<double>())
          << spec.name;
      ++compared;
    }
    EXPECT_EQ(compared, norms.size());
  }
}

TEST_P(ArchGoldenTest, AdamWFollowsTheLossCurve) {
  if (!has_adapter_) GTEST_SKIP() << GetParam() << " has no adapter";
  auto trainer = Trainer::Create(model_, adapter_.options);
  ASSERT_TRUE(trainer.ok()) << trainer.status();
  config::TrainingOptions options;
  options.learning_rate = 1e-2;
  options.weight_decay = 0.01;
  options.batch_size = static_cast<int>(examples_.size());
  options.max_grad_norm = 0.0;
  options.local_epochs = 0;
  const auto& curve = expected_["lora"]["adamw_lr1e-2_wd0.01_loss_curve"];
  ASSERT_FALSE(curve.empty());
  for (size_t steps = 0; steps < curve.size(); ++steps) {
    std::vector<float> values = adapter_.values;
    options.local_steps = static_cast<int>(steps);
    if (steps > 0) {
      ASSERT_TRUE(
          (*trainer)
              ->Train(absl::MakeSpan(values), examples_, options, 1, nullptr)
              .ok());
    }
    const auto result =
        (*trainer)->Evaluate(values, examples_, options, nullptr);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_NEAR(result->loss_sum / static_cast<double>(result->tokens),
                curve[steps].get<double>(), 1e-3)
        << "after " << steps << " steps";
  }
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(ArchGoldenTest);
INSTANTIATE_TEST_SUITE_P(
    Golden, ArchGoldenTest, ::testing::ValuesIn(tests::GoldenFolders("arch")),
    [](const ::testing::TestParamInfo<std::string>& info) {
      std::string name = info.param;
      std::replace_if(
          name.begin(), name.end(),
          [](char c) { return !isalnum(static_cast<unsigned char>(c)); }, '_');
      return name;
    });

}  // namespace
}  // namespace choir::model
