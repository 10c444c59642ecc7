// Steps that leave out feed-forward channels.
#include "model/objective/sparsity.h"

#include <cmath>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/adapter/lora_layout.h"
#include "model/compute.h"
#include "model/loaded_model.h"
#include "model/objective/losses.h"
#include "model/objective/packing.h"
#include "tests/unit/model/tiny_model.h"

namespace choir::model {
namespace {

config::AdapterOptions Adapter() {
  config::AdapterOptions options;
  options.rank = 4;
  options.alpha = 8.0;
  options.target_modules = LinearKinds(tests::TinyConfig());
  return options;
}

TEST(LadderTest, FallsInEqualStagesFromTheLargestRateToNone) {
  config::SparsityOptions options;
  options.max_rate = 0.6;
  options.stages = 4;
  const double expected[] = {0.6, 0.6, 0.6, 0.4, 0.4, 0.4,
                             0.2, 0.2, 0.2, 0.0, 0.0, 0.0};
  for (int step = 0; step < 12; ++step) {
    EXPECT_NEAR(LadderRate(options, step, 12), expected[step], 1e-12) << step;
  }
  EXPECT_NEAR(LadderRate(options, 0, 1), 0.6, 1e-12);
  EXPECT_NEAR(LadderRate(options, 99, 12), 0.0, 1e-12);
}

TEST(DrawChannelsTest, PrefersImportantChannelsAndDependsOnTheSeed) {
  std::vector<float> importance(100, 1.0f);
  std::fill(importance.begin(), importance.begin() + 20, 50.0f);
  int important = 0;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const std::vector<int64_t> drawn = DrawChannels(importance, 20, seed);
    ASSERT_EQ(drawn.size(), 20u);
    for (size_t i = 1; i < drawn.size(); ++i) {
      ASSERT_LT(drawn[i - 1], drawn[i]);
    }
    for (const int64_t channel : drawn) important += channel < 20 ? 1 : 0;
    EXPECT_EQ(drawn, DrawChannels(importance, 20, seed));
  }
  // Nearly all of 20 each time; alike chances would give 4.
  EXPECT_GT(important, 50 * 15);
  EXPECT_NE(DrawChannels(importance, 20, 1), DrawChannels(importance, 20, 2));
}

TEST(DrawChannelsTest, KeepsMultiplesOfSixteen) {
  EXPECT_EQ(KeptChannels(512, 0.5), 256);
  EXPECT_EQ(KeptChannels(512, 0.51), 256);
  EXPECT_EQ(KeptChannels(512, 0.0), 512);
  EXPECT_EQ(KeptChannels(100, 0.9), 16);
  EXPECT_EQ(KeptChannels(40, 0.1), 40);
  EXPECT_EQ(KeptChannels(8, 0.9), 8);
}

class SparsityTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    ConfigureCompute(1);
    ModelConfig config = tests::TinyConfig();
    config.intermediate_size = 64;
    const auto loaded = LoadedModel::LoadFolder(tests::WriteTinyModel(config),
                                                DeviceKind::kCpu, true);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    base_ = *loaded;
  }
  static void TearDownTestSuite() { base_ = nullptr; }
  static std::shared_ptr<const LoadedModel> base_;
};

std::shared_ptr<const LoadedModel> SparsityTest::base_;

// Channels that are left out give what a model gives whose output layers have
// zeros there, and so do the adapter's gradients.
TEST_F(SparsityTest, SkippedChannelsEqualZeroColumns) {
  const Decoder& decoder = base_->decoder();
  const codec::Layout layout =
      AdapterLayout(decoder.config(), Adapter()).value();
  base::SimRandom random(5);
  at::Tensor flat = at::empty({layout.num_elements()}, at::kFloat);
  for (int64_t i = 0; i < flat.numel(); ++i) {
    flat.data_ptr<float>()[i] = static_cast<float>(random.Normal() * 0.1);
  }
  MlpChannels channels;
  DecoderWeights zeroed = decoder.weights();
  at::Tensor dropped = at::ones({64}, at::kFloat);
  for (int64_t i = 0; i < 64; i += 3) dropped[i] = 0.0f;
  const at::Tensor kept = dropped.nonzero().squeeze(1);
  for (BlockWeights& block : zeroed.blocks) {
    channels.kept.push_back(kept);
    block.linear.back().weight = block.linear.back().weight * dropped;
  }
  const Decoder dense(decoder.config(), zeroed);

  const std::vector<Example> examples =
      tests::RandomExamples(4, 20, decoder.config().vocab_size, 3);
  std::vector<const Example*> pointers;
  for (const Example& example : examples) pointers.push_back(&example);
  const PackedBatch batch = PackExamples(pointers, 64, at::kCPU);
  double losses[2];
  at::Tensor gradients[2];
  for (const int which : {0, 1}) {
    at::Tensor grad = at::zeros({layout.num_elements()}, at::kFloat);
    at::Tensor values = flat.clone();
    for (size_t i = 0; i < layout.tensors().size(); ++i) {
      // The zeroed model's adapter must not bring the channels back.
      const codec::TensorSpec& spec = layout.tensors()[i];
      if (spec.name.find("down_proj.lora_A") == std::string::npos) continue;
      values.narrow(0, layout.offset(i), spec.num_elements())
          .view(spec.shape)
          .mul_(dropped);
    }
    LoraBank bank = BindLora(decoder.config(), layout, values, 2.0);
    GatherGradients(BindLora(decoder.config(), layout, grad, 1.0), bank);
    ForwardOptions forward;
    forward.lora = &bank;
    if (which == 0) forward.channels = &channels;
    const at::Tensor loss =
        (which == 0 ? decoder : dense).Loss(batch, forward, 0.1);
    torch::autograd::backward({loss}, {});
    losses[which] = loss.item<double>();
    gradients[which] = grad;
    for (size_t i = 0; i < layout.tensors().size(); ++i) {
      const codec::TensorSpec& spec = layout.tensors()[i];
      if (spec.name.find("down_proj.lora_A") == std::string::npos) continue;
      grad.narrow(0, layout.offset(i), spec.num_elements())
          .view(spec.shape)
          .mul_(dropped);
    }
  }
  EXPECT_NEAR(losses[0], losses[1], 1e-5);
  EXPECT_LT((gradients[0] - gradients[1]).abs().max().item<double>(), 1e-4);
}

TEST_F(SparsityTest, ActivityIsTheSumOfMagnitudes) {
  const Decoder& decoder = base_->decoder();
  const std::vector<int32_t> ids = {1, 2, 3, 4, 5};
  ChannelActivity activity;
  ForwardOptions forward;
  forward.activity = &activity;
  decoder.Hidden(PackWhole(ids, at::kCPU), forward);
  ASSERT_EQ(activity.sums.size(), decoder.weights().blocks.size());
  const at::Tensor once = activity.sums[1].clone();
  EXPECT_GT(once.min().item<double>(), 0.0);
  decoder.Hidden(PackWhole(ids, at::kCPU), forward);
  EXPECT_LT((activity.sums[1] - 2.0 * once).abs().max().item<double>(), 1e-4);
}

config::TrainingOptions Options(double rate) {
  config::TrainingOptions options;
  options.learning_rate = 1e-2;
  options.batch_size = 4;
  options.local_steps = 60;
  options.local_epochs = 0;
  options.sparsity.max_rate = rate;
  options.sparsity.measure_every = 8;
  return options;
}

TEST_F(SparsityTest, TrainingLowersTheLossAndReportsWhatItSaved) {
  const std::vector<Example> examples =
      tests::RandomExamples(20, 20, base_->decoder().config().vocab_size, 1);
  const auto trainer = Trainer::Create(base_, Adapter()).value();
  const std::vector<float> start = InitialAdapter(trainer->layout(), 5);
  double losses[2];
  TrainResult results[2];
  for (const int which : {0, 1}) {
    std::vector<float> values = start;
    const auto trained =
        trainer->Train(absl::MakeSpan(values), examples,
                       Options(which == 0 ? 0.0 : 0.75), 1, nullptr);
    ASSERT_TRUE(trained.ok()) << trained.status();
    results[which] = *trained;
    const auto after =
        trainer->Evaluate(values, examples, Options(0.0), nullptr);
    losses[which] = after->loss_sum / after->tokens;
    std::vector<float> again = start;
    ASSERT_TRUE(trainer
                    ->Train(absl::MakeSpan(again), examples,
                            Options(which == 0 ? 0.0 : 0.75), 1, nullptr)
                    .ok());
    EXPECT_EQ(values, again);
  }
  const auto fresh = trainer->Evaluate(start, examples, Options(0.0), nullptr);
  const double before = fresh->loss_sum / fresh->tokens;
  EXPECT_EQ(results[0].dense_flops, 0.0);
  EXPECT_GT(results[1].dense_flops, 0.0);
  EXPECT_LT(results[1].done_flops, results[1].dense_flops);
  EXPECT_LT(losses[1], before - 0.8 * (before - losses[0]));
}

// Multiplications and additions of a token's way through a dense Llama.
struct TokenWork {
  double blocks = 0.0, mlp = 0.0, head = 0.0;
};
TokenWork WorkOf(const ModelConfig& config) {
  TokenWork work;
  for (const LinearSpec& linear : LinearLayers(config)) {
    const double flops = 2.0 * linear.in_features * linear.out_features;
    work.blocks += flops;
    if (absl::StrContains(linear.module, ".mlp.")) work.mlp += flops;
  }
  work.head = 2.0 * config.vocab_size * config.hidden_size;
  return work;
}

// Of 20 ids each; of dpo with another answer of 18.
std::vector<Example> EqualExamples(config::Objective objective,
                                   int64_t vocabulary) {
  std::vector<Example> examples = tests::RandomExamples(8, 20, vocabulary, 1);
  for (Example& example : examples) {
    example.ids.resize(20, 1);
    example.loss_begin = example.rejected_begin = 5;
    example.label = 0;
    if (objective != config::Objective::kDpo) continue;
    example.rejected.assign(18, 2);
  }
  return examples;
}

// Four steps, of which the first is preceded by measuring, counted by hand.
TEST_F(SparsityTest, FlopsAreThoseOfThePassesThatRun) {
  const ModelConfig& config = base_->decoder().config();
  const TokenWork work = WorkOf(config);
  const struct {
    config::Objective objective;
    bool checkpointing;
    double tokens;  // of an example
    double passes;  // that leave channels out
    double dense;   // of a token's step
  } cases[] = {
      {config::Objective::kSupervised, false, 19, 2,
       2 * work.blocks + 2 * work.head},
      {config::Objective::kSupervised, true, 19, 3,
       3 * work.blocks + 2 * work.head},
      {config::Objective::kDpo, false, 19 + 17, 2,
       3 * work.blocks + 3 * work.head},
      {config::Objective::kClassification, false, 20, 2, 2 * work.blocks},
  };
  for (const auto& c : cases) {
    config::TrainingOptions options = Options(0.5);
    options.objective = c.objective;
    options.activation_checkpointing = c.checkpointing;
    options.local_steps = 4;
    options.sparsity.stages = 2;  // half of the channels, half, none, none
    config::AdapterOptions adapter = Adapter();
    if (c.objective == config::Objective::kClassification) {
      options.labels = {"a", "b"};
      adapter.num_labels = 2;
    }
    const auto trainer = Trainer::Create(base_, adapter).value();
    std::vector<float> values = InitialAdapter(trainer->layout(), 5);
    const auto trained = trainer->Train(
        absl::MakeSpan(values), EqualExamples(c.objective, config.vocab_size),
        options, 1, nullptr);
    ASSERT_TRUE(trained.ok()) << trained.status();
    const double tokens = 4 * c.tokens;  // of a step
    const double dense = 4 * tokens * c.dense;
    const double saved = 2 * tokens * c.passes * work.mlp / 2;
    EXPECT_NEAR(trained->dense_flops / dense, 1.0, 1e-12);
    EXPECT_NEAR((dense - saved + tokens * work.blocks) / trained->done_flops,
                1.0, 1e-12)
        << static_cast<int>(c.objective) << " " << c.checkpointing;
  }
}

// What measuring runs is the adapted model's pass of the objective, alone.
TEST_F(SparsityTest, HiddenStatesExciteChannelsAsTheLossDoes) {
  std::vector<Example> examples =
      tests::RandomExamples(4, 20, base_->decoder().config().vocab_size, 1);
  for (Example& example : examples) {
    example.rejected = example.ids;
    example.rejected.front() = 7;
    example.label = 1;
  }
  std::vector<const Example*> pointers;
  for (const Example& example : examples) pointers.push_back(&example);
  for (const auto objective :
       {config::Objective::kSupervised, config::Objective::kDpo,
        config::Objective::kClassification}) {
    config::TrainingOptions options = Options(0.0);
    options.objective = objective;
    const at::Tensor score =
        at::ones({2, base_->decoder().config().hidden_size}, at::kFloat);
    const LossContext context{base_->decoder(), options, 64, score};
    ChannelActivity of_loss, alone;
    ForwardOptions forward;
    forward.activity = &of_loss;
    ObjectiveLoss(context, forward, pointers, 1.0);
    forward.activity = &alone;
    HiddenStates(context, forward, pointers);
    ASSERT_FALSE(alone.sums.empty());
    for (size_t b = 0; b < alone.sums.size(); ++b) {
      EXPECT_TRUE(at::equal(alone.sums[b], of_loss.sums[b])) << b;
    }
  }
}

TEST_F(SparsityTest, TrainersRefuseWhatTheyCannotLeaveOut) {
  const std::vector<Example> examples =
      tests::RandomExamples(4, 20, base_->decoder().config().vocab_size, 1);
  const auto refusal = [&](const std::shared_ptr<const LoadedModel>& base,
                           const config::AdapterOptions& adapter,
                           const config::TrainingOptions& options) {
    const auto trainer = Trainer::Create(base, adapter).value();
    std::vector<float> values = InitialAdapter(trainer->layout(), 5);
    const absl::Status status =
        trainer->Train(absl::MakeSpan(values), examples, options, 1, nullptr)
            .status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  config::AdapterOptions dora = Adapter();
  dora.kind = config::AdapterKind::kDora;
  EXPECT_THAT(refusal(base_, dora, Options(0.5)), ::testing::HasSubstr("dora"));

  ModelConfig config = tests::TinyConfig();
  config.intermediate_size = 64;
  for (const WeightFormat format :
       {WeightFormat::kBf16, WeightFormat::kInt8, WeightFormat::kNf4}) {
    LoadOptions load;
    load.device = DeviceKind::kCpu;
    load.precision = format;
    const auto packed =
        LoadedModel::LoadFolder(tests::WriteTinyModel(config), load, true);
    ASSERT_TRUE(packed.ok()) << packed.status();
    EXPECT_THAT(refusal(*packed, Adapter(), Options(0.5)),
                ::testing::HasSubstr("packed"));
  }
  config::TrainingOptions router = Options(0.0);
  router.router.z_loss = 0.1;
  EXPECT_THAT(refusal(base_, Adapter(), router),
              ::testing::HasSubstr("training.router.z_loss is 0.1"));
}

}  // namespace
}  // namespace choir::model
