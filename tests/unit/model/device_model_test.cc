// Whole models as a GPU computes them, on the CPU: weights in bfloat16,
// adapters in float32, quantised weights as tensors, the operations of
// ops_device.h. Against the same models in float32: bfloat16 rounds to 8 bits.
#include <cmath>
#include <memory>

#include "gtest/gtest.h"
#include "model/adapter/lora_layout.h"
#include "model/loaded_adapter.h"
#include "model/loaded_model.h"
#include "model/objective/packing.h"
#include "tests/gpu/model/two_devices.h"

namespace choir::model {
namespace {

using config::AdapterKind;
using tests::Apart;
using tests::FewSteps;
using tests::GpuConfig;

constexpr double kHalf = 3e-2;

std::shared_ptr<const LoadedModel> Load(const ModelConfig& config,
                                        absl::optional<WeightFormat> format) {
  return tests::LoadOn(tests::WriteTinyModel(config), DeviceKind::kCpu, format);
}

at::Tensor Half(const at::Tensor& x) {
  return x.defined() ? x.to(at::kBFloat16) : x;
}

// As LoadedModel has it on CUDA.
std::shared_ptr<const LoadedModel> AsOnCuda(const LoadedModel& model) {
  DecoderWeights weights = model.decoder().weights();
  const bool tied = weights.head.is_same(weights.embedding);
  weights.embedding = Half(weights.embedding);
  weights.head = tied ? weights.embedding : Half(weights.head);
  for (at::Tensor* x :
       {&weights.positions, &weights.norm.weight, &weights.norm.bias}) {
    *x = Half(*x);
  }
  for (BlockWeights& block : weights.blocks) {
    for (at::Tensor* x : {&block.input_norm.weight, &block.input_norm.bias,
                          &block.post_norm.weight, &block.post_norm.bias,
                          &block.q_norm, &block.k_norm, &block.router}) {
      *x = Half(*x);
    }
    for (Linear& linear : block.linear) {
      linear.weight = Half(linear.weight);
      linear.bias = Half(linear.bias);
      if (linear.packed != nullptr) {
        linear.packed = std::make_shared<const PackedWeight>(
            linear.packed->matrix(), at::kCPU, /*as_tensors=*/true);
      }
    }
  }
  return std::make_shared<const LoadedModel>(
      nullptr, std::make_unique<const Decoder>(model.decoder().config(),
                                               std::move(weights)));
}

std::vector<int32_t> Ids(int length) {
  return tests::RandomExamples(1, length, GpuConfig().vocab_size, 5)[0].ids;
}

at::Tensor Logits(const LoadedModel& model,
                  const ForwardOptions& options = {}) {
  at::NoGradGuard no_grad;
  return model.decoder().Logits(PackWhole(Ids(50), at::kCPU), options);
}

std::vector<ModelConfig> Configs() {
  ModelConfig qwen3 = GpuConfig(Family::kQwen3);
  qwen3.qk_norm = QkNorm::kPerHead;
  ModelConfig mistral = GpuConfig(Family::kMistral);
  mistral.sliding_window = 20;
  return {GpuConfig(), qwen3, mistral, GpuConfig(Family::kGpt2),
          GpuConfig(Family::kMixtral)};
}

TEST(DeviceModelTest, Logits) {
  for (const ModelConfig& config : Configs()) {
    const auto model = Load(config, absl::nullopt);
    const at::Tensor truth = Logits(*model);
    const auto half = AsOnCuda(*model);
    const at::Tensor logits = Logits(*half);
    EXPECT_EQ(logits.scalar_type(), at::kFloat);
    // By a hair a router chooses another expert for a token.
    const double most = config.moe.num_experts > 0 ? 4 * kHalf : kHalf;
    EXPECT_LT(Apart(logits, truth), most);
    EXPECT_GT(Apart(logits, truth), 1e-4);  // it did compute in bfloat16
    for (const AttentionKind kind :
         {AttentionKind::kExact, AttentionKind::kBlockwise}) {
      ForwardOptions options;
      options.attention.kind = kind;
      options.attention.chunk = 16;
      EXPECT_LT(Apart(Logits(*half, options), truth), most);
    }
  }
}

TEST(DeviceModelTest, QuantisedBases) {
  for (const WeightFormat format :
       {WeightFormat::kBf16, WeightFormat::kInt8, WeightFormat::kNf4}) {
    const auto model = Load(GpuConfig(), format);
    EXPECT_LT(Apart(Logits(*AsOnCuda(*model)), Logits(*model)), kHalf)
        << WeightFormatName(format);
  }
}

TEST(DeviceModelTest, CachedDecoding) {
  for (const ModelConfig& config : Configs()) {
    const auto model = Load(config, absl::nullopt);
    const auto half = AsOnCuda(*model);
    const std::vector<int32_t> ids = Ids(20);
    at::NoGradGuard no_grad;
    const at::Tensor whole =
        model->decoder().Logits(PackWhole(ids, at::kCPU), {});
    KvCache cache = half->decoder().NewCache(20);
    EXPECT_EQ(cache.keys[0].scalar_type(), at::kBFloat16);
    at::Tensor last =
        half->decoder().Decode(absl::MakeConstSpan(ids).first(12), {}, cache);
    // As above.
    const double most = config.moe.num_experts > 0 ? 20 * kHalf : 2 * kHalf;
    EXPECT_LT(Apart(last, whole[11]), most);
    for (size_t i = 12; i < ids.size(); ++i) {
      last = half->decoder().Decode(absl::MakeConstSpan(ids).subspan(i, 1), {},
                                    cache);
      EXPECT_LT(Apart(last, whole[static_cast<int64_t>(i)]), most) << i;
    }
  }
}

struct Outcome {
  double loss = 0.0, again = 0.0;
  std::vector<float> values;
};

Outcome Train(const std::shared_ptr<const LoadedModel>& model,
              const config::AdapterOptions& adapter,
              const config::TrainingOptions& options,
              const std::vector<Example>& examples) {
  auto trainer = Trainer::Create(model, adapter);
  EXPECT_TRUE(trainer.ok()) << trainer.status();
  Outcome outcome;
  outcome.values = InitialAdapter((*trainer)->layout(), 5);
  if (adapter.kind == AdapterKind::kDora) {
    // Magnitudes of about the rows' norms.
    for (float& v : outcome.values) v = v == 0.0f ? 0.8f : v;
  }
  const auto result = (*trainer)->Train(absl::MakeSpan(outcome.values),
                                        examples, options, 7, nullptr);
  EXPECT_TRUE(result.ok()) << result.status();
  if (!result.ok()) return outcome;
  outcome.loss = result->mean_loss;
  const auto eval =
      (*trainer)->Evaluate(outcome.values, examples, options, nullptr);
  EXPECT_TRUE(eval.ok()) << eval.status();
  outcome.again = eval->loss_sum / static_cast<double>(eval->tokens);
  return outcome;
}

config::AdapterOptions Adapter(const ModelConfig& config, AdapterKind kind) {
  return tests::SmallAdapter(
      kind, kind == AdapterKind::kIa3
                ? std::vector<std::string>{"down_proj", "k_proj", "v_proj"}
                : LinearKinds(config));
}

void ExpectSame(const Outcome& half, const Outcome& wide) {
  EXPECT_NEAR(half.loss, wide.loss, 2e-2 * wide.loss);
  EXPECT_NEAR(half.again, wide.again, 2e-2 * wide.again);
}

TEST(DeviceModelTest, TrainingOfEachFamily) {
  const std::vector<Example> examples =
      tests::RandomExamples(12, 40, GpuConfig().vocab_size, 3);
  for (const ModelConfig& config : Configs()) {
    const auto model = Load(config, absl::nullopt);
    const auto half = AsOnCuda(*model);
    const config::AdapterOptions adapter = Adapter(config, AdapterKind::kLora);
    config::TrainingOptions options = FewSteps(5);
    if (config.moe.num_experts > 0) options.router.aux_loss = 0.01;
    const Outcome wide = Train(model, adapter, options, examples);
    const Outcome plain = Train(half, adapter, options, examples);
    ExpectSame(plain, wide);
    options.activation_checkpointing = true;
    const Outcome checkpointed = Train(half, adapter, options, examples);
    EXPECT_EQ(checkpointed.values, plain.values);
  }
}

TEST(DeviceModelTest, TrainingOfEachKindOfAdapter) {
  const auto model = Load(GpuConfig(), absl::nullopt);
  const auto half = AsOnCuda(*model);
  const std::vector<Example> examples =
      tests::RandomExamples(12, 40, GpuConfig().vocab_size, 3);
  for (const AdapterKind kind : {AdapterKind::kDora, AdapterKind::kFrozenA,
                                 AdapterKind::kIa3, AdapterKind::kLofit}) {
    const config::AdapterOptions adapter = Adapter(GpuConfig(), kind);
    ExpectSame(Train(half, adapter, FewSteps(5), examples),
               Train(model, adapter, FewSteps(5), examples));
  }
}

TEST(DeviceModelTest, TrainingWithDropoutSparsityAndAQuantisedBase) {
  const std::vector<Example> examples =
      tests::RandomExamples(12, 40, GpuConfig().vocab_size, 3);
  config::AdapterOptions adapter = Adapter(GpuConfig(), AdapterKind::kLora);
  const auto model = Load(GpuConfig(), absl::nullopt);
  config::TrainingOptions sparse = FewSteps(5);
  sparse.sparsity.max_rate = 0.5;
  sparse.sparsity.stages = 2;
  ExpectSame(Train(AsOnCuda(*model), adapter, sparse, examples),
             Train(model, adapter, sparse, examples));
  adapter.dropout = 0.2;
  for (const absl::optional<WeightFormat> format :
       {absl::optional<WeightFormat>(),
        absl::optional<WeightFormat>(WeightFormat::kNf4)}) {
    const auto base = Load(GpuConfig(), format);
    ExpectSame(Train(AsOnCuda(*base), adapter, FewSteps(5), examples),
               Train(base, adapter, FewSteps(5), examples));
  }
}

TEST(DeviceModelTest, SmallScalesAct) {
  const auto half = AsOnCuda(*Load(GpuConfig(), absl::nullopt));
  PeftAdapter adapter;
  adapter.options = Adapter(GpuConfig(), AdapterKind::kIa3);
  adapter.layout = StoredLayout(GpuConfig(), adapter.options).value();
  const auto logits = [&](float scale) {
    adapter.values.assign(adapter.layout.num_elements(), scale);
    const LoraBank bank = BindForUse(adapter, half->decoder());
    ForwardOptions forward;
    forward.lora = &bank;
    return Logits(*half, forward);
  };
  // A factor that bfloat16 cannot tell from one.
  EXPECT_GT(Apart(logits(1.003f), logits(1.0f)), 1e-4);
}

}  // namespace
}  // namespace choir::model
