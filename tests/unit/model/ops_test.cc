// The fused kernels against the same formulas in LibTorch's operations with
// LibTorch's gradients.
#include "model/transformer/ops.h"

#include <cmath>
#include <functional>

#include "gtest/gtest.h"
#include "model/generate.h"
#include "model/loaded_model.h"
#include "model/objective/packing.h"
#include "tests/unit/model/normal_tensor.h"
#include "tests/unit/model/tiny_model.h"

namespace choir::model {
namespace {

class OpsTest : public ::testing::Test {
 protected:
  at::Tensor Random(at::IntArrayRef sizes, double scale = 1.0) {
    return tests::NormalTensor(random_, sizes, scale);
  }
  base::SimRandom random_{11};
};

double Difference(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

using Body = std::function<std::vector<at::Tensor>(
    Kernels, const std::vector<at::Tensor>&)>;

// Runs `body` both ways on copies of `inputs` and compares outputs and the
// gradients of a random combination of them.
void ExpectEqual(const Body& body, const std::vector<at::Tensor>& inputs,
                 double tolerance) {
  std::vector<std::vector<at::Tensor>> outputs, gradients;
  for (const Kernels kernels : {Kernels::kFused, Kernels::kReference}) {
    std::vector<at::Tensor> leaves;
    for (const at::Tensor& input : inputs) {
      leaves.push_back(input.detach().clone().set_requires_grad(true));
    }
    outputs.push_back(body(kernels, leaves));
    at::Tensor total = at::zeros({}, at::kDouble);
    for (const at::Tensor& output : outputs.back()) {
      const at::Tensor weights = at::arange(output.numel(), at::kFloat)
                                     .mul(0.37)
                                     .sin()
                                     .view(output.sizes());
      total = total + (output * weights).sum().to(at::kDouble);
    }
    torch::autograd::backward({total}, {});
    gradients.emplace_back();
    for (const at::Tensor& leaf : leaves) {
      gradients.back().push_back(leaf.grad());
    }
  }
  for (size_t i = 0; i < outputs[0].size(); ++i) {
    EXPECT_LT(Difference(outputs[0][i], outputs[1][i]), tolerance)
        << "output " << i;
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    ASSERT_TRUE(gradients[0][i].defined()) << "input " << i;
    ASSERT_TRUE(gradients[1][i].defined()) << "input " << i;
    EXPECT_LT(Difference(gradients[0][i], gradients[1][i]), tolerance)
        << "gradient of input " << i;
  }
}

TEST_F(OpsTest, LinearGroupEqualsReferenceMergedAndThin) {
  for (const int64_t rows : {5, 40}) {
    const std::vector<at::Tensor> inputs = {
        Random({rows, 12}), Random({7, 12}), Random({7}),     Random({3, 12}),
        Random({7, 3}),     Random({9, 12}), Random({2, 12}), Random({9, 2})};
    ExpectEqual(
        [](Kernels kernels, const std::vector<at::Tensor>& x) {
          return LinearGroup(
              kernels, x[0],
              {{x[1], x[2], x[3], x[4]}, {x[5], at::Tensor(), x[6], x[7]}},
              {0.7, 0.0, 0});
        },
        inputs, 2e-4);
  }
}

TEST_F(OpsTest, LinearGroupDropsTheSameInputsAsReference) {
  const std::vector<at::Tensor> inputs = {Random({40, 12}), Random({7, 12}),
                                          Random({3, 12}), Random({7, 3})};
  ExpectEqual(
      [](Kernels kernels, const std::vector<at::Tensor>& x) {
        return LinearGroup(kernels, x[0], {{x[1], at::Tensor(), x[2], x[3]}},
                           {2.0, 0.4, 99});
      },
      inputs, 2e-4);
}

TEST_F(OpsTest, FrozenWeightsGetNoGradient) {
  const at::Tensor w = Random({7, 12});
  const at::Tensor a = Random({3, 12}).set_requires_grad(true);
  const at::Tensor b = Random({7, 3}).set_requires_grad(true);
  const at::Tensor y = LinearGroup(Kernels::kFused, Random({40, 12}),
                                   {{w, at::Tensor(), a, b}}, {1.0, 0.0, 0})[0];
  torch::autograd::backward({y.sum()}, {});
  EXPECT_FALSE(w.grad().defined());
  EXPECT_TRUE(a.grad().defined());
}

TEST_F(OpsTest, AddRmsNormEqualsReference) {
  ExpectEqual(
      [](Kernels kernels, const std::vector<at::Tensor>& x) {
        const auto [sum, out] = AddRmsNorm(kernels, x[0], x[1], x[2], 1e-5);
        return std::vector<at::Tensor>{sum, out};
      },
      {Random({9, 20}), Random({9, 20}), Random({20})}, 1e-4);
  ExpectEqual(
      [](Kernels kernels, const std::vector<at::Tensor>& x) {
        return std::vector<at::Tensor>{
            AddRmsNorm(kernels, x[0], at::Tensor(), x[1], 1e-5).second};
      },
      {Random({9, 20}), Random({20})}, 1e-4);
}

TEST_F(OpsTest, SwiGluEqualsReferenceFarFromZeroToo) {
  ExpectEqual(
      [](Kernels kernels, const std::vector<at::Tensor>& x) {
        return std::vector<at::Tensor>{SwiGlu(kernels, x[0], x[1])};
      },
      {Random({9, 31}, 30.0), Random({9, 31})}, 1e-4);
}

TEST_F(OpsTest, AttentionEqualsReferenceOverBlocksAndSequences) {
  const AttentionSizes sizes{4, 2, 6};
  const SequenceStarts starts = {0, 3, 4, 150, 214};
  const at::Tensor angles = Random({150, 3}, 3.0);
  const at::Tensor cosine = angles.cos();
  const at::Tensor sine = angles.sin();
  ExpectEqual(
      [&](Kernels kernels, const std::vector<at::Tensor>& x) {
        return std::vector<at::Tensor>{RotaryAttention(
            kernels, x[0], x[1], x[2], cosine, sine, starts, sizes)};
      },
      {Random({214, 24}), Random({214, 12}), Random({214, 12})}, 1e-4);
}

TEST_F(OpsTest, CrossEntropyEqualsReferenceOverSlices) {
  const int64_t rows = 50;
  const int64_t vocabulary = 1 << 18;  // slices of 16 rows
  at::Tensor targets = at::empty({rows}, at::kInt);
  for (int64_t i = 0; i < rows; ++i) {
    targets.data_ptr<int32_t>()[i] =
        static_cast<int32_t>(random_.Below(vocabulary));
  }
  ExpectEqual(
      [&](Kernels kernels, const std::vector<at::Tensor>& x) {
        return std::vector<at::Tensor>{
            LinearCrossEntropy(kernels, x[0], x[1], targets, 0.02)};
      },
      {Random({rows, 8}), Random({vocabulary, 8})}, 1e-4);
}

TEST_F(OpsTest, WholeModelEqualsReferenceWithBiasesAndLora) {
  ModelConfig config = tests::TinyConfig();
  config.qkv_bias = config.output_bias = true;
  const auto loaded = LoadedModel::LoadFolder(tests::WriteTinyModel(config),
                                              DeviceKind::kCpu, true);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const Decoder& decoder = (*loaded)->decoder();
  const std::vector<Example> examples =
      tests::RandomExamples(6, 40, config.vocab_size, 3);
  std::vector<const Example*> pointers;
  for (const Example& example : examples) pointers.push_back(&example);
  const PackedBatch batch = PackExamples(pointers, 64, at::kCPU);
  ForwardOptions reference;
  reference.kernels = Kernels::kReference;
  const double fused = decoder.Loss(batch, {}, 0.01).item<double>();
  EXPECT_NEAR(fused, decoder.Loss(batch, reference, 0.01).item<double>(), 1e-6);
  EXPECT_GT(fused, 0.0);
}

TEST_F(OpsTest, AMaskLeavesOutWhatIsNotLearnt) {
  Example masked;
  masked.ids = {5, 6, 7, 8, 9};
  masked.loss_mask = {1, 1, 0, 0, 1};
  const Example* const one[] = {&masked};
  EXPECT_EQ(PredictedTokens(masked, 64), 2);
  EXPECT_EQ(PredictedTokens(masked, 4), 1);
  const PackedBatch batch = PackExamples(one, 64, at::kCPU);
  EXPECT_EQ(batch.predictions, 2);
  EXPECT_TRUE(at::equal(batch.ids, at::tensor({5, 6, 7, 8}, at::kLong)));
  EXPECT_TRUE(at::equal(batch.rows, at::tensor({0, 3}, at::kLong)));
  EXPECT_TRUE(at::equal(batch.targets, at::tensor({6, 9}, at::kInt)));
}

TEST_F(OpsTest, CachedDecodingEqualsOneForwardPass) {
  const ModelConfig config = tests::TinyConfig();
  const auto loaded = LoadedModel::LoadFolder(tests::WriteTinyModel(config),
                                              DeviceKind::kCpu, true);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const Decoder& decoder = (*loaded)->decoder();
  const std::vector<int32_t> ids =
      tests::RandomExamples(1, 30, config.vocab_size, 5)[0].ids;
  const at::Tensor whole = decoder.Logits(PackWhole(ids, at::kCPU), {});
  for (const Kernels kernels : {Kernels::kFused, Kernels::kReference}) {
    KvCache cache = decoder.NewCache(30);
    ForwardOptions options;
    options.kernels = kernels;
    at::Tensor last =
        decoder.Decode(absl::MakeConstSpan(ids).first(12), options, cache);
    EXPECT_LT(Difference(last, whole[11]), 1e-5);
    last =
        decoder.Decode(absl::MakeConstSpan(ids).subspan(12, 5), options, cache);
    EXPECT_LT(Difference(last, whole[16]), 1e-5);
    for (size_t i = 17; i < ids.size(); ++i) {
      last = decoder.Decode(absl::MakeConstSpan(ids).subspan(i, 1), options,
                            cache);
      EXPECT_LT(Difference(last, whole[static_cast<int64_t>(i)]), 1e-5) << i;
    }
  }
}

TEST_F(OpsTest, GenerationIsReproducibleAndRefusesBadSettings) {
  const ModelConfig config = tests::TinyConfig();
  const auto loaded = LoadedModel::LoadFolder(tests::WriteTinyModel(config),
                                              DeviceKind::kCpu, true);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const Decoder& decoder = (*loaded)->decoder();
  const std::vector<int32_t> prompt = {0, 5, 9};
  GenerateOptions options;
  options.temperature = 1.0;
  options.top_p = 0.9;
  options.max_tokens = 500;  // ends at max_positions
  const auto first = Generate(decoder, nullptr, prompt, options);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->size(), static_cast<size_t>(config.max_positions) + 1);
  EXPECT_EQ(*first, *Generate(decoder, nullptr, prompt, options));
  options.seed = 2;
  EXPECT_NE(*first, *Generate(decoder, nullptr, prompt, options));
  options.stop_ids = {first->at(3)};
  options.seed = 1;
  EXPECT_EQ(Generate(decoder, nullptr, prompt, options)->size(), 4u);

  const auto code = [&](const GenerateOptions& bad) {
    return Generate(decoder, nullptr, prompt, bad).status().code();
  };
  GenerateOptions bad;
  bad.temperature = -1.0;
  EXPECT_EQ(code(bad), absl::StatusCode::kInvalidArgument);
  bad.temperature = std::nan("");
  EXPECT_EQ(code(bad), absl::StatusCode::kInvalidArgument);
  bad = GenerateOptions();
  bad.top_p = 0.0;
  EXPECT_EQ(code(bad), absl::StatusCode::kInvalidArgument);
  bad = GenerateOptions();
  bad.max_tokens = -1;
  EXPECT_EQ(code(bad), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Generate(decoder, nullptr, {}, GenerateOptions()).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(
      Generate(decoder, nullptr, {300}, GenerateOptions()).status().code(),
      absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace choir::model
