// Activation checkpointing changes memory, never results.
#include "model/transformer/checkpointing.h"

#include <cstring>

#include "gtest/gtest.h"
#include "model/adapter/lora_layout.h"
#include "model/loaded_model.h"
#include "model/objective/packing.h"
#include "model/training/trainer.h"
#include "tests/unit/model/tiny_model.h"

namespace choir::model {
namespace {

config::AdapterOptions Adapter(const ModelConfig& config) {
  config::AdapterOptions adapter;
  adapter.rank = 4;
  adapter.alpha = 8.0;
  adapter.target_modules = LinearKinds(config);
  return adapter;
}

std::shared_ptr<const BaseModel> Model(const ModelConfig& config) {
  auto model = BaseModel::Load(tests::WriteTinyModel(config), DeviceKind::kCpu);
  EXPECT_TRUE(model.ok()) << model.status();
  return *model;
}

// Parameters after a few steps of training.
std::vector<float> Trained(const std::shared_ptr<const BaseModel>& model,
                           config::AdapterOptions adapter, bool checkpointing,
                           config::TrainingOptions options = {}) {
  auto trainer = Trainer::Create(model, adapter);
  EXPECT_TRUE(trainer.ok()) << trainer.status();
  std::vector<float> values = InitialAdapter((*trainer)->layout(), 3);
  options.batch_size = 4;
  options.local_steps = 3;
  options.local_epochs = 0;
  options.activation_checkpointing = checkpointing;
  const auto result = (*trainer)->Train(absl::MakeSpan(values),
                                        tests::RandomExamples(8, 40, 300, 5),
                                        options, 9, nullptr);
  EXPECT_TRUE(result.ok()) << result.status();
  return values;
}

TEST(CheckpointingTest, TrainsTheSameAdapterBitForBit) {
  const auto model = Model(tests::TinyConfig());
  for (const double dropout : {0.0, 0.3}) {
    config::AdapterOptions adapter = Adapter(tests::TinyConfig());
    adapter.dropout = dropout;
    const std::vector<float> kept = Trained(model, adapter, false);
    const std::vector<float> again = Trained(model, adapter, true);
    ASSERT_EQ(kept.size(), again.size());
    EXPECT_EQ(std::memcmp(kept.data(), again.data(), 4 * kept.size()), 0)
        << "dropout " << dropout;
    EXPECT_NE(
        kept,
        InitialAdapter(AdapterLayout(tests::TinyConfig(), adapter).value(), 3));
  }
}

TEST(CheckpointingTest, ExpertsAndTheirLossesTrainTheSame) {
  ModelConfig config = tests::TinyConfig();
  config.family = Family::kMixtral;
  config.moe.num_experts = 4;
  config.moe.experts_per_token = 2;
  config.moe.intermediate_size = config.intermediate_size;
  config.tie_word_embeddings = false;
  const auto model = Model(config);
  config::TrainingOptions options;
  options.router.aux_loss = 0.1;
  options.router.z_loss = 0.01;
  const std::vector<float> kept =
      Trained(model, Adapter(config), false, options);
  const std::vector<float> again =
      Trained(model, Adapter(config), true, options);
  EXPECT_EQ(std::memcmp(kept.data(), again.data(), 4 * kept.size()), 0);
  // The losses of the router count: without them something else is learnt.
  options.router.aux_loss = 0.0;
  options.router.z_loss = 0.0;
  EXPECT_NE(Trained(model, Adapter(config), true, options), again);
}

TEST(CheckpointingTest, KeepsOnlyItsInputs) {
  // A segment that makes much from little: what autograd keeps is counted by
  // the tensors that are still alive.
  std::vector<at::Tensor> made;
  const at::Tensor w = at::ones({4, 4}, at::kFloat).set_requires_grad(true);
  int runs = 0;
  const Segment segment = [&](const std::vector<at::Tensor>& in) {
    ++runs;
    const at::Tensor a = at::matmul(in[0], w);
    const at::Tensor b = at::tanh(a);
    made = {a, b};
    return std::vector<at::Tensor>{at::matmul(b, w)};
  };
  const at::Tensor x = at::ones({3, 4}, at::kFloat).set_requires_grad(true);
  const at::Tensor y = Checkpointed(segment, {x})[0];
  EXPECT_TRUE(y.requires_grad());
  ASSERT_EQ(made.size(), 2u);
  EXPECT_EQ(made[1].use_count(), 1u);  // only `made` holds it
  EXPECT_EQ(runs, 1);
  torch::autograd::backward({y.sum()}, {});
  EXPECT_EQ(runs, 2);
  const at::Tensor x2 = at::ones({3, 4}, at::kFloat).set_requires_grad(true);
  const at::Tensor w_grad = w.grad().clone();
  w.mutable_grad() = at::Tensor();
  torch::autograd::backward({segment({x2})[0].sum()}, {});
  EXPECT_TRUE(at::equal(x.grad(), x2.grad()));
  EXPECT_TRUE(at::equal(w_grad, w.grad()));
}

TEST(CheckpointingTest, WithoutGradientsItIsTheSegment) {
  at::NoGradGuard no_grad;
  const at::Tensor y = Checkpointed(
      [](const std::vector<at::Tensor>& in) {
        return std::vector<at::Tensor>{in[0] * 2.0};
      },
      {at::ones({2}, at::kFloat)})[0];
  EXPECT_FALSE(y.requires_grad());
  EXPECT_EQ(y.sum().item<float>(), 4.0f);
}

}  // namespace
}  // namespace choir::model
