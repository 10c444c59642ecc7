// Every kind of adapter in training, and merged into its base.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/match.h"
#include "model/adapter/lofit.h"
#include "model/adapter/lora_layout.h"
#include "model/adapter/peft_folder.h"
#include "model/export/merge.h"
#include "model/loaded_adapter.h"
#include "model/loaded_model.h"
#include "model/objective/packing.h"
#include "tests/unit/model/tiny_model.h"

namespace choir::model {
namespace {

using config::AdapterKind;

ModelConfig ConfigOf(Family family) {
  ModelConfig config = tests::TinyConfig();
  if (family == Family::kLlama) return config;
  const char* text = family == Family::kGpt2
                         ? R"({"architectures":["GPT2LMHeadModel"],
      "model_type":"gpt2","vocab_size":300,"n_embd":24,"n_layer":2,"n_head":4,
      "n_positions":64,"activation_function":"gelu_new"})"
                         : R"({"architectures":["MixtralForCausalLM"],
      "model_type":"mixtral","vocab_size":300,"hidden_size":24,
      "intermediate_size":40,"num_hidden_layers":2,"num_attention_heads":4,
      "num_key_value_heads":2,"max_position_embeddings":64,
      "num_local_experts":4,"num_experts_per_tok":2,"hidden_act":"silu"})";
  return ParseModelConfig(text, "tiny").value();
}

config::AdapterOptions OptionsOf(Family family, AdapterKind kind) {
  config::AdapterOptions options;
  options.kind = kind;
  options.rank = 4;
  options.alpha = 8;
  options.frozen_seed = 3;
  if (kind == AdapterKind::kLofit) {
    options.lofit_heads = 3;
    return options;
  }
  if (family == Family::kGpt2) {
    options.target_modules = {"c_attn", "c_fc", "c_proj"};
    if (kind == AdapterKind::kIa3) {
      options.feedforward_modules = {"mlp.c_proj"};
    }
  } else if (family == Family::kMixtral) {
    options.target_modules = {"k_proj", "o_proj", "w1", "w2"};
    if (kind == AdapterKind::kIa3) options.feedforward_modules = {"w2"};
  } else {
    options.target_modules = {"down_proj", "gate_proj", "k_proj", "v_proj"};
    if (kind == AdapterKind::kIa3) options.feedforward_modules = {"down_proj"};
  }
  return options;
}

config::TrainingOptions Steps(int steps, double learning_rate) {
  config::TrainingOptions options;
  options.objective = config::Objective::kCausalLm;
  options.local_steps = steps;
  options.local_epochs = 0;
  options.batch_size = 4;
  options.learning_rate = learning_rate;
  options.max_sequence_length = 32;
  return options;
}

at::Tensor LogitsOf(const std::string& folder, const PeftAdapter* adapter,
                    Kernels kernels) {
  const auto model = LoadedModel::LoadFolder(folder, DeviceKind::kCpu, false);
  EXPECT_TRUE(model.ok()) << model.status();
  at::NoGradGuard no_grad;
  const Decoder& decoder = (*model)->decoder();
  LoraBank bank;
  ForwardOptions forward;
  forward.kernels = kernels;
  if (adapter != nullptr) {
    bank = BindForUse(*adapter, decoder);
    forward.lora = &bank;
  }
  const std::vector<int32_t> ids = {5, 17, 200, 3, 3, 77, 260, 9};
  return decoder.Logits(PackWhole(ids, decoder.device()), forward);
}

class MergedLogitsTest
    : public testing::TestWithParam<std::tuple<Family, AdapterKind>> {};

TEST_P(MergedLogitsTest, MergedEqualsUnmerged) {
  const auto [family, kind] = GetParam();
  const ModelConfig config = ConfigOf(family);
  if (kind == AdapterKind::kLofit && family == Family::kMixtral) return;
  const std::string folder = tests::WriteTinyModel(config, 0.2);
  PeftAdapter adapter;
  adapter.options = OptionsOf(family, kind);
  adapter.layout = StoredLayout(config, adapter.options).value();
  adapter.values.resize(adapter.layout.num_elements());
  base::SimRandom random(9);
  for (float& v : adapter.values) {
    v = static_cast<float>(random.Normal() * 0.3);
  }
  const std::string stored = tests::NewTempDir();
  ASSERT_TRUE(WritePeftFolder(stored, adapter.options, adapter.layout,
                              adapter.values, "b")
                  .ok());
  MergeOptions merge;
  merge.model = folder;
  merge.adapter = stored;
  merge.out = tests::NewTempDir() + "/merged";
  const auto report = MergeAdapter(merge);
  ASSERT_TRUE(report.ok()) << report.status();
  const at::Tensor base = LogitsOf(folder, nullptr, Kernels::kFused);
  const at::Tensor merged = LogitsOf(merge.out, nullptr, Kernels::kFused);
  for (const Kernels kernels : {Kernels::kFused, Kernels::kReference}) {
    const at::Tensor adapted = LogitsOf(folder, &adapter, kernels);
    EXPECT_LT((merged - adapted).abs().max().item<double>(), 1e-4);
  }
  EXPECT_GT((merged - base).abs().max().item<double>(), 1e-2);
}

INSTANTIATE_TEST_SUITE_P(
    All, MergedLogitsTest,
    testing::Combine(testing::Values(Family::kLlama, Family::kGpt2,
                                     Family::kMixtral),
                     testing::Values(AdapterKind::kLora, AdapterKind::kDora,
                                     AdapterKind::kFrozenA, AdapterKind::kIa3,
                                     AdapterKind::kLofit)),
    [](const auto& info) {
      return std::string(FamilyName(std::get<0>(info.param))) + "_" +
             std::string(config::AdapterKindName(std::get<1>(info.param)));
    });

struct Training {
  explicit Training(AdapterKind kind, Family family = Family::kLlama)
      : config(ConfigOf(family)),
        options(OptionsOf(family, kind)),
        folder(tests::WriteTinyModel(config, 0.2)),
        base(BaseModel::Load(folder, DeviceKind::kCpu).value()),
        trainer(Trainer::Create(base, options).value()),
        values(InitialAdapterOf(folder, config, options, trainer->layout(), 1)
                   .value()),
        examples(tests::RandomExamples(12, 20, 40, 5)) {}
  double Loss() {
    const auto result =
        trainer->Evaluate(values, examples, Steps(1, 0.1), nullptr);
    EXPECT_TRUE(result.ok()) << result.status();
    return result->loss_sum / static_cast<double>(result->tokens);
  }
  void Train(const config::TrainingOptions& training) {
    const auto result =
        trainer->Train(absl::MakeSpan(values), examples, training, 7, nullptr);
    ASSERT_TRUE(result.ok()) << result.status();
  }
  ModelConfig config;
  config::AdapterOptions options;
  std::string folder;
  std::shared_ptr<const BaseModel> base;
  std::unique_ptr<Trainer> trainer;
  std::vector<float> values;
  std::vector<Example> examples;
};

class KindTrainingTest
    : public testing::TestWithParam<std::tuple<AdapterKind, Family>> {};

TEST_P(KindTrainingTest, BeginsAsTheBaseAndLowersTheLoss) {
  const auto [kind, family] = GetParam();
  Training plain(AdapterKind::kLora, family);
  Training training(kind, family);
  const double before = training.Loss();
  EXPECT_NEAR(before, plain.Loss(), 1e-5);
  if (kind == AdapterKind::kLofit) training.Train(Steps(10, 0.02));
  training.Train(Steps(30, 0.02));
  const double after = training.Loss();
  EXPECT_LT(after, before - 0.05) << before;
  // What was trained is what a folder gives back.
  const std::string folder = tests::NewTempDir();
  ASSERT_TRUE(WriteTrainedAdapter(folder, training.config, training.options,
                                  training.values, "b")
                  .ok());
  const auto model =
      LoadedModel::LoadFolder(training.folder, DeviceKind::kCpu, false);
  const auto bank = LoadAdapter(folder, (*model)->decoder());
  ASSERT_TRUE(bank.ok()) << bank.status();
  at::NoGradGuard no_grad;
  ForwardOptions forward;
  forward.lora = &*bank;
  double loss = 0.0;
  int64_t tokens = 0;
  for (const Example& example : training.examples) {
    const Example* const one[] = {&example};
    const PackedBatch batch =
        PackExamples(one, 32, (*model)->decoder().device());
    loss += (*model)->decoder().Loss(batch, forward, 1.0).item<double>();
    tokens += batch.predictions;
  }
  EXPECT_NEAR(loss / static_cast<double>(tokens), after, 1e-5);
}

INSTANTIATE_TEST_SUITE_P(
    All, KindTrainingTest,
    testing::Combine(testing::Values(AdapterKind::kLora, AdapterKind::kDora,
                                     AdapterKind::kFrozenA, AdapterKind::kIa3,
                                     AdapterKind::kLofit),
                     testing::Values(Family::kLlama, Family::kGpt2,
                                     Family::kMixtral)),
    [](const auto& info) {
      return std::string(config::AdapterKindName(std::get<0>(info.param))) +
             "_" + std::string(FamilyName(std::get<1>(info.param)));
    });

TEST(LofitTrainingTest, ChoosesHeadsThenTunesThemAlone) {
  Training training(AdapterKind::kLofit);
  config::TrainingOptions steps = Steps(8, 0.02);
  steps.weight_decay = 0.1;  // must not reach what is not trained
  training.Train(steps);
  const codec::Layout& layout = training.trainer->layout();
  const LofitState state =
      LofitStateOf(training.config, training.options, layout, training.values);
  ASSERT_FALSE(state.choosing);
  EXPECT_EQ(std::count(state.chosen.begin(), state.chosen.end(), true), 3);
  const std::vector<float> chosen = training.values;
  training.Train(steps);
  int64_t moved = 0;
  for (size_t i = 0; i < layout.tensors().size(); ++i) {
    const codec::TensorSpec& spec = layout.tensors()[i];
    const bool offset = absl::EndsWith(spec.name, "lofit_offset");
    const int layer = absl::StrContains(spec.name, "layers.1.") ? 1 : 0;
    for (int64_t k = 0; k < spec.num_elements(); ++k) {
      const float before = chosen[layout.offset(i) + k];
      const float after = training.values[layout.offset(i) + k];
      if (offset) {
        EXPECT_EQ(before, 0.0f);
        const bool tuned = state.chosen[layer * 4 + k / 6];
        EXPECT_EQ(after != 0.0f, tuned) << spec.name << " " << k;
        moved += after != 0.0f ? 1 : 0;
      } else {
        EXPECT_EQ(before, after) << spec.name << " " << k;
      }
    }
  }
  EXPECT_EQ(moved, 3 * 6);
}

TEST(LofitTrainingTest, ThePenaltyKeepsScalingsSmall) {
  const auto size = [](double l1) {
    Training training(AdapterKind::kLofit);
    training.options.lofit_l1 = l1;
    training.trainer = Trainer::Create(training.base, training.options).value();
    training.Train(Steps(15, 0.02));
    double sum = 0.0;
    for (const float v : training.values) sum += std::fabs(v);
    return sum;
  };
  EXPECT_LT(size(0.5), 0.7 * size(0.0));
}

TEST(TrainerKindsTest, ResultsDependOnTheArgumentsAlone) {
  for (const AdapterKind kind : {AdapterKind::kDora, AdapterKind::kFrozenA,
                                 AdapterKind::kIa3, AdapterKind::kLofit}) {
    Training training(kind);
    const std::vector<float> start = training.values;
    training.Train(Steps(3, 0.01));
    const std::vector<float> first = training.values;
    training.Train(Steps(3, 0.01));  // something else in between
    training.values = start;
    training.Train(Steps(3, 0.01));
    EXPECT_EQ(training.values, first) << config::AdapterKindName(kind);
  }
}

}  // namespace
}  // namespace choir::model
