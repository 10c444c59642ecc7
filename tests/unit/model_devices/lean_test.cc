// Making activations again changes memory, never results.
#include <algorithm>

#include "gtest/gtest.h"
#include "model/adapter/lora_layout.h"
#include "model/loaded_model.h"
#include "model/objective/packing.h"
#include "model/transformer/decoder.h"
#include "model/transformer/remake.h"
#include "tests/unit/model/tiny_model.h"

namespace choir::model {
namespace {

// The adapter's gradient.
at::Tensor Gradient(const Decoder& decoder, bool lean, bool checkpointing,
                    double dropout) {
  config::AdapterOptions options;
  options.rank = 3;
  options.target_modules = LinearKinds(decoder.config());
  const codec::Layout layout = AdapterLayout(decoder.config(), options).value();
  const at::Tensor flat = at::empty({layout.num_elements()}, at::kFloat);
  base::SimRandom random(5);
  for (int64_t i = 0; i < flat.numel(); ++i) {
    flat.data_ptr<float>()[i] = static_cast<float>(random.Normal() * 0.1);
  }
  const at::Tensor gradient = at::zeros_like(flat);
  LoraBank bank = BindLora(decoder.config(), layout, flat, 2.0);
  GatherGradients(BindLora(decoder.config(), layout, gradient, 1.0), bank);
  const std::vector<Example> examples =
      tests::RandomExamples(3, 40, decoder.config().vocab_size, 6);
  std::vector<const Example*> pointers;
  for (const Example& example : examples) pointers.push_back(&example);
  ForwardOptions forward;
  forward.lora = &bank;
  forward.lean = lean;
  forward.checkpointing = checkpointing;
  forward.dropout = dropout;
  forward.dropout_seed = 3;
  torch::autograd::backward(
      {decoder.Loss(PackExamples(pointers, 64, at::kCPU), forward, 1.0)}, {});
  return gradient;
}

TEST(LeanTest, GradientsAreTheSameBitForBit) {
  for (const QkNorm qk_norm : {QkNorm::kNone, QkNorm::kPerHead}) {
    ModelConfig config = tests::TinyConfig();
    config.qk_norm = qk_norm;
    if (qk_norm != QkNorm::kNone) config.family = Family::kQwen3;
    const auto model = LoadedModel::LoadFolder(tests::WriteTinyModel(config),
                                               DeviceKind::kCpu, false);
    ASSERT_TRUE(model.ok()) << model.status();
    for (const double dropout : {0.0, 0.2}) {
      const at::Tensor kept =
          Gradient((*model)->decoder(), false, false, dropout);
      EXPECT_GT(kept.abs().sum().item<double>(), 0.0);
      EXPECT_TRUE(
          at::equal(Gradient((*model)->decoder(), true, false, dropout), kept));
      EXPECT_TRUE(
          at::equal(Gradient((*model)->decoder(), true, true, dropout), kept));
    }
  }
}

TEST(LeanTest, MemoryIsGivenBackUntilTheGradientNeedsIt) {
  const at::Tensor x = at::ones({4}, at::kFloat).set_requires_grad(true);
  const at::Tensor made = x.detach() * 3.0;
  const at::Tensor w = at::ones({4}, at::kFloat).set_requires_grad(true);
  const at::Tensor y = made * w;  // keeps `made` for the gradient of w
  int remade = 0;
  const at::Tensor out = ForgetUntilBackward(
      made,
      [&remade] {
        ++remade;
        return at::full({4}, 3.0f);
      },
      y);
  EXPECT_EQ(made.storage().data(), nullptr);
  EXPECT_EQ(out.sum().item<float>(), 12.0f);
  torch::autograd::backward({out.sum()}, {});
  EXPECT_EQ(remade, 1);
  EXPECT_EQ(w.grad().sum().item<float>(), 12.0f);
}

}  // namespace
}  // namespace choir::model
