// Mixture of experts: losses, balancing, a part of the experts, upcycling.
#include <cmath>
#include <numeric>

#include "base/sim_random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/adapter/lora_layout.h"
#include "model/checkpoint/families.h"
#include "model/checkpoint/upcycle.h"
#include "model/loaded_model.h"
#include "model/objective/packing.h"
#include "model/training/router_training.h"
#include "model/training/trainer.h"
#include "tests/property/model_families/plain_model.h"
#include "tests/support/golden.h"

namespace choir::model {
namespace {

using ::testing::HasSubstr;

std::vector<int32_t> RandomIds(int length, uint64_t seed) {
  base::SimRandom random(seed);
  std::vector<int32_t> ids;
  for (int i = 0; i < length; ++i) {
    ids.push_back(static_cast<int32_t>(random.Below(31)));
  }
  return ids;
}

double Difference(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

std::vector<ModelConfig> MoeConfigs() {
  std::vector<ModelConfig> configs;
  for (const ModelConfig& config : tests::FamilyConfigs()) {
    if (config.moe.num_experts > 0) configs.push_back(config);
  }
  return configs;
}

class MoeTest : public ::testing::TestWithParam<ModelConfig> {
 protected:
  std::shared_ptr<const LoadedModel> Load(const std::string& folder,
                                          std::vector<int64_t> experts = {}) {
    LoadOptions options;
    options.device = DeviceKind::kCpu;
    options.experts = std::move(experts);
    auto model = LoadedModel::LoadFolder(folder, options, false);
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? *model : nullptr;
  }
  int64_t blocks() const {
    return GetParam().num_layers - (GetParam().dense_layers.empty() ? 0 : 1);
  }
  const tests::PlainTensors tensors_ =
      tests::RandomTensors(GetParam(), 6, 0.15);
};

TEST_P(MoeTest, LoadBalancingAndZLossFollowTheirFormulas) {
  const auto model = Load(tests::WritePlainModel(GetParam(), tensors_));
  ASSERT_NE(model, nullptr);
  const std::vector<int32_t> ids = RandomIds(30, 1);
  std::vector<at::Tensor> plain;
  tests::PlainLogits(GetParam(), tensors_, ids, &plain);
  RouterLog log;
  log.keep_logits = true;
  ForwardOptions options;
  options.router_log = &log;
  model->decoder().Hidden(PackWhole(ids, at::kCPU), options);
  ASSERT_EQ(log.layers.size(), plain.size());
  ASSERT_EQ(static_cast<int64_t>(plain.size()), blocks());
  // By the book: all layers together, shares per choice.
  const int64_t experts = GetParam().moe.num_experts;
  const int64_t k = GetParam().moe.experts_per_token;
  std::vector<double> share(experts, 0.0), mean(experts, 0.0);
  double z = 0.0;
  double tokens = 0.0;
  for (size_t layer = 0; layer < plain.size(); ++layer) {
    EXPECT_LT(Difference(log.layers[layer].logits, plain[layer]), 1e-4);
    const int64_t routed =
        std::accumulate(log.layers[layer].tokens.begin(),
                        log.layers[layer].tokens.end(), int64_t{0});
    EXPECT_EQ(routed, 30 * k);
    for (int64_t t = 0; t < plain[layer].size(0); ++t) {
      const at::Tensor p = at::softmax(plain[layer][t], -1);
      const at::Tensor chosen = std::get<1>(p.topk(k));
      for (int64_t j = 0; j < k; ++j) {
        share[chosen[j].item<int64_t>()] += 1.0;
      }
      for (int64_t e = 0; e < experts; ++e) mean[e] += p[e].item<double>();
      z += std::pow(at::logsumexp(plain[layer][t], {0}).item<double>(), 2);
      tokens += 1.0;
    }
  }
  double expected = 0.0;
  for (int64_t e = 0; e < experts; ++e) {
    expected += share[e] / tokens * (mean[e] / tokens);
  }
  expected *= static_cast<double>(experts);
  EXPECT_NEAR(LoadBalancingLoss(log.layers, k).item<double>(), expected, 1e-5);
  EXPECT_NEAR(RouterZLoss(log.layers).item<double>(), z / tokens, 1e-5);
}

TEST_P(MoeTest, APartOfTheExpertsRoutesAmongThemAlone) {
  const std::string folder = tests::WritePlainModel(GetParam(), tensors_);
  for (const std::vector<int64_t>& held :
       {std::vector<int64_t>{2, 0, 3}, std::vector<int64_t>{1}}) {
    const auto model = Load(folder, held);
    ASSERT_NE(model, nullptr);
    ModelConfig config = GetParam();
    ASSERT_TRUE(HoldExperts(held, config).ok());
    const std::vector<int32_t> ids = RandomIds(25, 2);
    for (const Kernels kernels : {Kernels::kFused, Kernels::kReference}) {
      ForwardOptions options;
      options.kernels = kernels;
      EXPECT_LT(
          Difference(model->decoder().Logits(PackWhole(ids, at::kCPU), options),
                     tests::PlainLogits(config, tensors_, ids)),
          5e-5);
    }
    EXPECT_LT(config.num_parameters(), GetParam().num_parameters());
  }
  LoadOptions options;
  options.experts = {0, 9};
  EXPECT_THAT(
      std::string(
          LoadedModel::LoadFolder(folder, options, false).status().message()),
      HasSubstr("expert 9 does not exist"));
}

class MoeTrainingTest : public MoeTest {
 protected:
  // Trains an adapter on everything for `steps` steps.
  TrainResult Train(const std::shared_ptr<const LoadedModel>& model,
                    const config::RouterOptions& router, int steps,
                    std::vector<float>* values_out = nullptr) {
    config::AdapterOptions adapter;
    adapter.rank = 4;
    adapter.alpha = 8;
    adapter.target_modules = LinearKinds(GetParam());
    auto trainer = Trainer::Create(model, adapter);
    EXPECT_TRUE(trainer.ok()) << trainer.status();
    config::TrainingOptions options;
    options.learning_rate = 5e-3;
    options.batch_size = 4;
    options.local_steps = steps;
    options.local_epochs = 0;
    options.router = router;
    std::vector<Example> examples;
    for (int i = 0; i < 6; ++i) examples.push_back({RandomIds(24 + i, i), 1});
    std::vector<float> values = InitialAdapter((*trainer)->layout(), 1);
    const auto result = (*trainer)->Train(absl::MakeSpan(values), examples,
                                          options, 7, nullptr);
    EXPECT_TRUE(result.ok()) << result.status();
    if (values_out != nullptr) *values_out = values;
    return result.ok() ? *result : TrainResult();
  }

  double Balance(const std::shared_ptr<const LoadedModel>& model,
                 std::vector<float> values) {
    config::AdapterOptions adapter;
    adapter.rank = 4;
    adapter.target_modules = LinearKinds(GetParam());
    const auto layout = AdapterLayout(GetParam(), adapter).value();
    const LoraBank bank = BindLora(
        GetParam(), layout,
        at::from_blob(values.data(), {layout.num_elements()}, at::kFloat), 2.0);
    RouterLog log;
    log.keep_logits = true;
    ForwardOptions options;
    options.lora = &bank;
    options.router_log = &log;
    LoadBalancingMeter meter(GetParam().moe.experts_per_token);
    for (int i = 0; i < 6; ++i) {
      model->decoder().Hidden(PackWhole(RandomIds(24 + i, i), at::kCPU),
                              options);
      meter.Add(log.layers);
    }
    return meter.loss();
  }
};

TEST_P(MoeTrainingTest, CountsTheTokensOfEachExpert) {
  const std::string folder = tests::WritePlainModel(GetParam(), tensors_);
  config::RouterOptions router;
  router.aux_loss = 0.01;  // then the last block routes every token
  const TrainResult result = Train(Load(folder), router, 3);
  ASSERT_EQ(static_cast<int64_t>(result.expert_tokens.size()), blocks());
  uint64_t first = 0;
  for (const auto& block : result.expert_tokens) {
    ASSERT_EQ(static_cast<int64_t>(block.size()), GetParam().moe.num_experts);
    const uint64_t sum =
        std::accumulate(block.begin(), block.end(), uint64_t{0});
    if (first == 0) first = sum;
    EXPECT_EQ(sum, first);
  }
  EXPECT_EQ(first, (result.tokens + result.examples_seen) *
                       static_cast<uint64_t>(GetParam().moe.experts_per_token));
  const TrainResult part = Train(Load(folder, {0, 2, 3}), {}, 2);
  for (const auto& block : part.expert_tokens) {
    ASSERT_EQ(static_cast<int64_t>(block.size()), GetParam().moe.num_experts);
    EXPECT_EQ(block[1], 0u);
  }
}

TEST_P(MoeTrainingTest, TheLoadBalancingLossBalances) {
  const auto model = Load(tests::WritePlainModel(GetParam(), tensors_));
  config::RouterOptions without, with;
  without.aux_loss = 0.0;
  with.aux_loss = 2.0;
  with.z_loss = 1e-3;
  std::vector<float> plain, balanced;
  Train(model, without, 25, &plain);
  Train(model, with, 25, &balanced);
  EXPECT_LT(Balance(model, balanced), Balance(model, plain) - 0.005);
}

TEST_P(MoeTrainingTest, TheConfigMayAskForTheLoss) {
  ModelConfig asks = GetParam();
  asks.moe.aux_loss = true;
  asks.moe.aux_loss_coefficient = 0.5;
  const auto model = Load(tests::WritePlainModel(asks, tensors_));
  const auto plain = Load(tests::WritePlainModel(GetParam(), tensors_));
  config::RouterOptions half;
  half.aux_loss = 0.5;
  std::vector<float> by_config, by_options, neither;
  Train(model, {}, 3, &by_config);
  Train(plain, half, 3, &by_options);
  Train(plain, {}, 3, &neither);
  EXPECT_EQ(by_config, by_options);
  EXPECT_NE(by_config, neither);
}

TEST_P(MoeTrainingTest, BiasesBalanceWithoutALoss) {
  // A router that loves expert 0.
  tests::PlainTensors tensors = tensors_;
  for (int64_t i = 0; i < GetParam().num_layers; ++i) {
    const BlockTensorNames names = BlockNames(GetParam(), i);
    if (names.router.empty()) continue;
    at::Tensor router = tensors[names.router].clone();
    router[0] = router[0] * 0.0 + at::sign(router[0]) * 1e-3;
    tensors[names.router] = router * 0.02;
  }
  const auto model = Load(tests::WritePlainModel(GetParam(), tensors));
  const auto worst = [&](const TrainResult& result) {
    uint64_t most = 0;
    for (const auto& block : result.expert_tokens) {
      for (const uint64_t n : block) most = std::max(most, n);
    }
    return static_cast<double>(most) / static_cast<double>(result.tokens);
  };
  config::RouterOptions biased;
  biased.bias_rate = 2e-3;
  const double with = worst(Train(model, biased, 40));
  const double without = worst(Train(model, {}, 40));
  EXPECT_LT(with, without);
}

INSTANTIATE_TEST_SUITE_P(All, MoeTest, ::testing::ValuesIn(MoeConfigs()),
                         [](const ::testing::TestParamInfo<ModelConfig>& info) {
                           return std::string(FamilyName(info.param.family));
                         });
INSTANTIATE_TEST_SUITE_P(All, MoeTrainingTest,
                         ::testing::ValuesIn(MoeConfigs()),
                         [](const ::testing::TestParamInfo<ModelConfig>& info) {
                           return std::string(FamilyName(info.param.family));
                         });

TEST(RouterBiasTest, MovesTowardsTheMean) {
  RouterBias bias;
  const std::vector<std::vector<int64_t>> tokens = {{10, 2, 6}, {4, 4, 4}};
  BalanceRouterBias(tokens, 0.1, bias);
  BalanceRouterBias(tokens, 0.1, bias);
  ASSERT_EQ(bias.size(), 2u);
  EXPECT_NEAR(bias[0][0].item<double>(), -0.2, 1e-6);
  EXPECT_NEAR(bias[0][1].item<double>(), 0.2, 1e-6);
  EXPECT_NEAR(bias[0][2].item<double>(), 0.0, 1e-6);
  EXPECT_EQ(bias[1].abs().sum().item<double>(), 0.0);
}

TEST(UpcycleTest, ExpertsBeginWithEqualLogits) {
  for (const ModelConfig& dense : tests::FamilyConfigs()) {
    if (dense.moe.num_experts > 0) continue;
    ModelConfig config = dense;
    config.qkv_bias = config.output_bias = config.mlp_bias = false;
    config.sliding_layers.clear();
    const auto tensors = tests::RandomTensors(config, 8, 0.15);
    const std::string from = tests::WritePlainModel(config, tensors);
    const std::string to = tests::NewTempDir() + "/moe";
    UpcycleOptions options;
    options.experts = 4;
    options.experts_per_token = 2;
    const absl::Status status = UpcycleFolder(from, to, options);
    if (config.family == Family::kGpt2 || config.family == Family::kQwen2) {
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
      continue;
    }
    ASSERT_TRUE(status.ok()) << status;
    const auto model = LoadedModel::LoadFolder(to, DeviceKind::kCpu, false);
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_EQ((*model)->decoder().config().moe.num_experts, 4);
    const std::vector<int32_t> ids = RandomIds(20, 3);
    RouterLog log;
    ForwardOptions forward;
    forward.router_log = &log;
    EXPECT_LT(Difference(
                  (*model)->decoder().Logits(PackWhole(ids, at::kCPU), forward),
                  tests::PlainLogits(config, tensors, ids)),
              5e-5);
    // Tokens do not all go the same way.
    ASSERT_FALSE(log.layers.empty());
    for (const auto& layer : log.layers) {
      EXPECT_LT(*std::max_element(layer.tokens.begin(), layer.tokens.end()),
                20);
    }
    EXPECT_EQ(UpcycleFolder(from, to, options).code(),
              absl::StatusCode::kAlreadyExists);
    options.experts_per_token = 5;
    EXPECT_EQ(UpcycleFolder(from, to + "2", options).code(),
              absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace choir::model
