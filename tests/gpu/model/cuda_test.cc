// Forward passes, gradients and generation on a GPU against the CPU.
//
// In float32 both compute the same sums in another order: results are apart by
// rounding alone, some 1e-6 relative, and the bounds are a hundred times that
// (attention's kernel makes its float32 products of three TF32 ones). In
// bfloat16 every activation is rounded to 8 bits, 4e-3 relative, and a few
// layers of independent roundings stay below 3e-2.
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "model/adapter/lora_layout.h"
#include "model/generate.h"
#include "model/objective/packing.h"
#include "tests/gpu/model/two_devices.h"

namespace choir::model {
namespace {

using tests::Apart;
using tests::GpuConfig;
using tests::TwoDevices;

constexpr double kWide = 1e-4;
constexpr double kHalf = 3e-2;

// By a hair a router chooses another expert for a token, whose output is then
// another one.
double Loose(const ModelConfig& config) {
  return config.moe.num_experts > 0 ? 4.0 : 1.0;
}

std::vector<const Example*> Pointers(const std::vector<Example>& examples) {
  std::vector<const Example*> pointers;
  for (const Example& example : examples) pointers.push_back(&example);
  return pointers;
}

std::vector<int32_t> SomeIds(const ModelConfig& config, int length) {
  return tests::RandomExamples(1, length, config.vocab_size, 5)[0].ids;
}

at::Tensor Logits(const LoadedModel& model, const std::vector<int32_t>& ids,
                  const ForwardOptions& options = {}) {
  at::NoGradGuard no_grad;
  return model.decoder().Logits(PackWhole(ids, model.decoder().device()),
                                options);
}

class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override { CHOIR_SKIP_WITHOUT_GPU(); }
};

TEST_F(GpuTest, LogitsOfEachFamily) {
  ModelConfig qwen3 = GpuConfig(Family::kQwen3);
  qwen3.qk_norm = QkNorm::kPerHead;
  for (const ModelConfig& config :
       {GpuConfig(), qwen3, GpuConfig(Family::kGpt2),
        GpuConfig(Family::kMixtral)}) {
    const std::vector<int32_t> ids = SomeIds(config, 50);
    const TwoDevices wide(config);
    const at::Tensor truth = Logits(*wide.cpu, ids);
    EXPECT_LT(Apart(Logits(*wide.gpu, ids), truth), kWide);
    ForwardOptions reference;
    reference.kernels = Kernels::kReference;
    EXPECT_LT(Apart(Logits(*wide.gpu, ids, reference), truth), kWide);
    const TwoDevices half(config, absl::nullopt);
    EXPECT_LT(Apart(Logits(*half.gpu, ids), truth), Loose(config) * kHalf);
  }
}

TEST_F(GpuTest, LogitsOfQuantisedBases) {
  for (const WeightFormat format :
       {WeightFormat::kBf16, WeightFormat::kInt8, WeightFormat::kNf4}) {
    const TwoDevices two(GpuConfig(), format);
    const std::vector<int32_t> ids = SomeIds(GpuConfig(), 50);
    EXPECT_LT(Apart(Logits(*two.gpu, ids), Logits(*two.cpu, ids)), kHalf)
        << WeightFormatName(format);
  }
}

TEST_F(GpuTest, EveryKindOfAttention) {
  const ModelConfig config = GpuConfig();
  const TwoDevices two(config);
  const std::vector<int32_t> ids = SomeIds(config, 100);
  for (const AttentionKind kind :
       {AttentionKind::kExact, AttentionKind::kBlockwise,
        AttentionKind::kBlockSparse}) {
    ForwardOptions options;
    options.attention.kind = kind;
    options.attention.chunk = 32;
    options.attention.pattern = {16, 2, 1, 3};
    EXPECT_LT(
        Apart(Logits(*two.gpu, ids, options), Logits(*two.cpu, ids, options)),
        kWide)
        << static_cast<int>(kind);
  }
  ModelConfig windowed = config;
  windowed.family = Family::kMistral;
  windowed.sliding_window = 20;
  const TwoDevices mistral(windowed);
  EXPECT_LT(Apart(Logits(*mistral.gpu, ids), Logits(*mistral.cpu, ids)), kWide);
}

struct Way {
  Kernels kernels = Kernels::kFused;
  double dropout = 0.0;
  bool checkpointing = false;
  bool ragged = true;
};

// Loss and the gradient of a random LoRA adapter.
std::pair<double, at::Tensor> Gradient(const LoadedModel& model,
                                       const Way& way) {
  const Decoder& decoder = model.decoder();
  const ModelConfig& config = decoder.config();
  config::AdapterOptions adapter;
  adapter.rank = 4;
  adapter.target_modules = LinearKinds(config);
  const codec::Layout layout = AdapterLayout(config, adapter).value();
  at::Tensor values = at::empty({layout.num_elements()}, at::kFloat);
  base::SimRandom random(4);
  for (int64_t i = 0; i < values.numel(); ++i) {
    values.data_ptr<float>()[i] = static_cast<float>(random.Normal() * 0.1);
  }
  const at::Tensor flat = values.to(decoder.device());
  const at::Tensor gradient = at::zeros_like(flat);
  LoraBank bank = BindLora(config, layout, flat, 2.0);
  GatherGradients(BindLora(config, layout, gradient, 1.0), bank);
  std::vector<Example> examples =
      tests::RandomExamples(4, 60, config.vocab_size, 6);
  if (!way.ragged) {
    for (Example& example : examples) {
      example.ids.resize(50);
      example.loss_begin = 1;
    }
  }
  ForwardOptions forward;
  forward.lora = &bank;
  forward.kernels = way.kernels;
  forward.dropout = way.dropout;
  forward.dropout_seed = 8;
  forward.checkpointing = way.checkpointing;
  const at::Tensor loss = decoder.Loss(
      PackExamples(Pointers(examples), 128, decoder.device()), forward, 0.01);
  torch::autograd::backward({loss}, {});
  return {loss.item<double>(), gradient};
}

TEST_F(GpuTest, GradientsOfLora) {
  const Way ways[] = {{},
                      {Kernels::kReference},
                      {Kernels::kFused, 0.2},
                      {Kernels::kFused, 0.0, true},
                      {Kernels::kFused, 0.0, false, false}};
  for (const Family family :
       {Family::kLlama, Family::kGpt2, Family::kMixtral}) {
    const TwoDevices wide(GpuConfig(family));
    const TwoDevices half(GpuConfig(family), absl::nullopt);
    for (const Way& way : ways) {
      const auto [loss, truth] = Gradient(*wide.cpu, way);
      const auto [wide_loss, wide_gradient] = Gradient(*wide.gpu, way);
      EXPECT_NEAR(wide_loss, loss, kWide * loss);
      EXPECT_LT(Apart(wide_gradient, truth), 10 * kWide);
      const auto [half_loss, half_gradient] = Gradient(*half.gpu, way);
      EXPECT_NEAR(half_loss, loss, kHalf * loss);
      EXPECT_LT(Apart(half_gradient, truth),
                3 * Loose(GpuConfig(family)) * kHalf);
    }
  }
}

TEST_F(GpuTest, GradientsOverAQuantisedBase) {
  for (const WeightFormat format : {WeightFormat::kInt8, WeightFormat::kNf4}) {
    const TwoDevices two(GpuConfig(), format);
    EXPECT_LT(
        Apart(Gradient(*two.gpu, {}).second, Gradient(*two.cpu, {}).second),
        3 * kHalf)
        << WeightFormatName(format);
  }
}

TEST_F(GpuTest, CachedDecodingEqualsOnePass) {
  for (const Family family :
       {Family::kLlama, Family::kGpt2, Family::kMixtral}) {
    const TwoDevices two(GpuConfig(family));
    const Decoder& decoder = two.gpu->decoder();
    const std::vector<int32_t> ids = SomeIds(decoder.config(), 30);
    const at::Tensor whole = Logits(*two.gpu, ids).cpu();
    KvCache cache = decoder.NewCache(30);
    at::Tensor last =
        decoder.Decode(absl::MakeConstSpan(ids).first(12), {}, cache);
    EXPECT_LT(Apart(last, whole[11]), kWide);
    for (size_t i = 12; i < ids.size(); ++i) {
      last = decoder.Decode(absl::MakeConstSpan(ids).subspan(i, 1), {}, cache);
      EXPECT_LT(Apart(last, whole[static_cast<int64_t>(i)]), kWide) << i;
    }
  }
}

TEST_F(GpuTest, GeneratesTheSameText) {
  const TwoDevices two(GpuConfig());
  const std::vector<int32_t> prompt = SomeIds(GpuConfig(), 10);
  GenerateOptions options;
  options.max_tokens = 40;
  const auto expected = Generate(two.cpu->decoder(), nullptr, prompt, options);
  const auto got = Generate(two.gpu->decoder(), nullptr, prompt, options);
  ASSERT_TRUE(expected.ok()) << expected.status();
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(*got, *expected);
}

}  // namespace
}  // namespace choir::model
