// Models whose frozen weights are quantised: in a folder, or while loading.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/files.h"
#include "gtest/gtest.h"
#include "model/adapter/lora_layout.h"
#include "model/checkpoint/quantize_checkpoint.h"
#include "model/generate.h"
#include "model/loaded_model.h"
#include "model/objective/packing.h"
#include "model/training/trainer.h"
#include "tests/unit/model/tiny_model.h"

namespace choir::model {
namespace {

constexpr WeightFormat kFormats[] = {WeightFormat::kBf16, WeightFormat::kInt8,
                                     WeightFormat::kNf4};

ModelConfig Config(Family family) {
  ModelConfig config = tests::TinyConfig();
  config.family = family;
  if (family == Family::kMixtral) {
    config.moe.num_experts = 3;
    config.moe.experts_per_token = 2;
    config.moe.intermediate_size = config.intermediate_size;
    config.tie_word_embeddings = false;
  }
  if (family == Family::kGpt2) {
    config.norm = NormKind::kLayer;
    config.positions = Positions::kLearned;
    config.fused_qkv = true;
    config.qkv_bias = config.output_bias = config.mlp_bias = true;
    config.gated_mlp = false;
    config.activation = Activation::kGeluTanh;
    config.num_kv_heads = config.num_heads;
  }
  return config;
}

absl::StatusOr<std::shared_ptr<const LoadedModel>> Load(
    const std::string& folder, absl::optional<WeightFormat> precision) {
  LoadOptions options;
  options.device = DeviceKind::kCpu;
  options.precision = precision;
  return LoadedModel::LoadFolder(folder, options, true);
}

// The same model with every packed weight read back to a dense one.
std::unique_ptr<Decoder> Unpacked(const Decoder& packed) {
  DecoderWeights weights = packed.weights();
  for (BlockWeights& block : weights.blocks) {
    for (Linear& linear : block.linear) {
      linear.weight = linear.Dense();
      linear.packed.reset();
    }
  }
  weights.embedding = weights.embedding.to(at::kFloat);
  weights.head = weights.head.to(at::kFloat);
  return std::make_unique<Decoder>(packed.config(), std::move(weights));
}

struct Adapted {
  at::Tensor flat, gradient;
  LoraBank bank;
};

Adapted RandomAdapter(const ModelConfig& config, uint64_t seed) {
  config::AdapterOptions options;
  options.rank = 3;
  options.target_modules = LinearKinds(config);
  const codec::Layout layout = AdapterLayout(config, options).value();
  Adapted adapted;
  adapted.flat = at::empty({layout.num_elements()}, at::kFloat);
  base::SimRandom random(seed);
  for (int64_t i = 0; i < layout.num_elements(); ++i) {
    adapted.flat.data_ptr<float>()[i] =
        static_cast<float>(random.Normal() * 0.1);
  }
  adapted.gradient = at::zeros_like(adapted.flat);
  adapted.bank = BindLora(config, layout, adapted.flat, 2.0);
  GatherGradients(BindLora(config, layout, adapted.gradient, 1.0),
                  adapted.bank);
  return adapted;
}

double RelativeDifference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).norm().item<double>() / (b.norm().item<double>() + 1e-30);
}

// Loss and the adapter's gradient.
std::pair<double, at::Tensor> Gradient(const Decoder& decoder, Kernels kernels,
                                       double dropout, int length) {
  Adapted adapted = RandomAdapter(decoder.config(), 4);
  const std::vector<Example> examples =
      tests::RandomExamples(3, length, decoder.config().vocab_size, 6);
  std::vector<const Example*> pointers;
  for (const Example& example : examples) pointers.push_back(&example);
  const PackedBatch batch = PackExamples(pointers, 64, at::kCPU);
  ForwardOptions forward;
  forward.lora = &adapted.bank;
  forward.kernels = kernels;
  forward.dropout = dropout;
  forward.dropout_seed = 8;
  const at::Tensor loss = decoder.Loss(batch, forward, 1.0);
  torch::autograd::backward({loss}, {});
  return {loss.item<double>(), adapted.gradient};
}

TEST(PackedModelTest, ComputesAsTheDenseModelThatItStandsFor) {
  for (const Family family :
       {Family::kLlama, Family::kMixtral, Family::kGpt2}) {
    const std::string folder = tests::WriteTinyModel(Config(family));
    for (const WeightFormat format : kFormats) {
      const auto model = Load(folder, format);
      ASSERT_TRUE(model.ok()) << model.status();
      const Decoder& packed = (*model)->decoder();
      ASSERT_NE(packed.weights().blocks[0].linear[0].packed, nullptr);
      const std::unique_ptr<Decoder> dense = Unpacked(packed);
      for (const Kernels kernels : {Kernels::kFused, Kernels::kReference}) {
        for (const double dropout : {0.0, 0.25}) {
          // Few rows keep the adapter apart, many merge it into the weight.
          for (const int length : {8, 40}) {
            const auto got = Gradient(packed, kernels, dropout, length);
            const auto wanted = Gradient(*dense, kernels, dropout, length);
            EXPECT_NEAR(got.first, wanted.first, 1e-4 * wanted.first);
            EXPECT_LT(RelativeDifference(got.second, wanted.second), 1e-4)
                << WeightFormatName(format) << " family " << FamilyName(family)
                << " dropout " << dropout;
          }
        }
      }
    }
  }
}

TEST(PackedModelTest, AQuantisedFolderIsTheModelQuantisedWhileLoading) {
  for (const Family family :
       {Family::kLlama, Family::kMixtral, Family::kGpt2}) {
    const std::string folder = tests::WriteTinyModel(Config(family));
    for (const WeightFormat format :
         {WeightFormat::kInt8, WeightFormat::kNf4}) {
      const std::string out = base::JoinPath(tests::NewTempDir(), "quantised");
      const auto report = QuantizeCheckpoint(folder, format, out);
      ASSERT_TRUE(report.ok()) << report.status();
      EXPECT_LT(report->bytes_after, report->bytes_before);
      EXPECT_GT(report->relative_error, 0.0);
      EXPECT_LT(report->relative_error,
                format == WeightFormat::kInt8 ? 0.02 : 0.12);
      const auto loaded = Load(out, absl::nullopt);
      ASSERT_TRUE(loaded.ok()) << loaded.status();
      const auto made = Load(folder, format);
      ASSERT_TRUE(made.ok()) << made.status();
      const std::vector<int32_t> ids = {5, 9, 17, 33, 2};
      const PackedBatch batch = PackWhole(ids, at::kCPU);
      at::NoGradGuard no_grad;
      EXPECT_TRUE(at::equal((*loaded)->decoder().Logits(batch, {}),
                            (*made)->decoder().Logits(batch, {})));
    }
  }
}

TEST(PackedModelTest, GeneratesAndTrains) {
  const std::string folder = tests::WriteTinyModel(Config(Family::kLlama));
  for (const WeightFormat format : kFormats) {
    const auto model = Load(folder, format);
    ASSERT_TRUE(model.ok()) << model.status();
    GenerateOptions generate;
    generate.max_tokens = 8;
    const auto ids =
        Generate((*model)->decoder(), nullptr, {1, 2, 3}, generate);
    ASSERT_TRUE(ids.ok()) << ids.status();
    // The same tokens as one forward pass over the whole says.
    at::NoGradGuard no_grad;
    const at::Tensor logits = (*model)->decoder().Logits(
        PackWhole(absl::MakeConstSpan(*ids).first(ids->size() - 1), at::kCPU),
        {});
    EXPECT_EQ(logits[logits.size(0) - 1].argmax().item<int64_t>(), ids->back());
    at::AutoGradMode grad(true);
    config::AdapterOptions adapter;
    adapter.target_modules = LinearKinds((*model)->decoder().config());
    auto trainer = Trainer::Create(*model, adapter);
    ASSERT_TRUE(trainer.ok()) << trainer.status();
    std::vector<float> values = InitialAdapter((*trainer)->layout(), 1);
    config::TrainingOptions training;
    training.local_steps = 20;
    training.local_epochs = 0;
    training.learning_rate = 1e-2;
    const auto examples = tests::RandomExamples(8, 30, 300, 2);
    const auto before =
        (*trainer)->Evaluate(values, examples, training, nullptr);
    ASSERT_TRUE(
        (*trainer)
            ->Train(absl::MakeSpan(values), examples, training, 1, nullptr)
            .ok());
    const auto after =
        (*trainer)->Evaluate(values, examples, training, nullptr);
    EXPECT_LT(after->loss_sum, 0.9 * before->loss_sum);
  }
}

TEST(PackedWeightTest, TensorsOfOtherDevicesReadBackTheSame) {
  base::SimRandom random(3);
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{33, 50},
                                std::pair<int64_t, int64_t>{64, 128}}) {
    std::vector<float> values(out * in);
    for (float& v : values) v = static_cast<float>(random.Normal());
    values[7] = 40.0f;  // an outlier
    for (const WeightFormat format : kFormats) {
      const auto matrix = QuantizedMatrix::Quantize(
          format, out, in,
          [&, in = in](int64_t begin, int64_t count, float* to) {
            std::copy_n(values.data() + begin * in, count * in, to);
          });
      ASSERT_TRUE(matrix.ok()) << matrix.status();
      const PackedWeight host(*matrix, at::kCPU);
      const PackedWeight tensors(*matrix, at::kCPU, /*as_tensors=*/true);
      EXPECT_TRUE(at::equal(host.Dense(at::kFloat), tensors.Dense(at::kFloat)))
          << WeightFormatName(format);
    }
  }
}

TEST(PackedModelTest, RefusesWhatDoesNotFit) {
  const std::string folder = tests::WriteTinyModel(Config(Family::kLlama));
  const std::string out = base::JoinPath(tests::NewTempDir(), "quantised");
  ASSERT_TRUE(QuantizeCheckpoint(folder, WeightFormat::kInt8, out).ok());
  EXPECT_EQ(Load(out, WeightFormat::kNf4).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Load(out, WeightFormat::kInt8).ok());
  EXPECT_EQ(
      QuantizeCheckpoint(folder, WeightFormat::kInt8, out).status().code(),
      absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(QuantizeCheckpoint(out, WeightFormat::kNf4,
                               base::JoinPath(tests::NewTempDir(), "x"))
                .status()
                .code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(QuantizeCheckpoint(folder, WeightFormat::kBf16,
                               base::JoinPath(tests::NewTempDir(), "x"))
                .status()
                .code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace choir::model
