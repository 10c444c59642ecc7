// Training on a GPU against training on the CPU.
//
// AdamW divides each gradient by its size, so that an element whose gradient is
// nothing but rounding moves as far as any other: whole adapters are compared
// by the norm of what training changed, after few steps, with an epsilon that
// leaves such elements where they are. The bounds are those of gradients
// (cuda_test.cc) with room for what steps add up.
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "model/adapter/lora_layout.h"
#include "model/adapter/peft_folder.h"
#include "model/loaded_adapter.h"
#include "model/objective/packing.h"
#include "model/quantize/float_formats.h"
#include "tests/gpu/model/two_devices.h"

namespace choir::model {
namespace {

using config::AdapterKind;
using tests::GpuConfig;
using tests::TwoDevices;

class GpuTrainingTest : public ::testing::Test {
 protected:
  void SetUp() override { CHOIR_SKIP_WITHOUT_GPU(); }
};

config::AdapterOptions Adapter(AdapterKind kind) {
  return tests::SmallAdapter(kind,
                             {"down_proj", "k_proj", "q_proj", "up_proj"});
}

config::TrainingOptions Steps(int steps) {
  config::TrainingOptions options = tests::FewSteps(steps);
  options.epsilon = 1e-4;
  return options;
}

struct Trained {
  double loss = 0.0;
  double heldout = 0.0;
  std::vector<float> start, values;
};

Trained Train(const std::string& folder,
              const std::shared_ptr<const LoadedModel>& model,
              const config::AdapterOptions& adapter,
              const config::TrainingOptions& options,
              std::vector<Example> examples) {
  const ModelConfig& config = model->decoder().config();
  auto trainer = Trainer::Create(model, adapter);
  CHOIR_CHECK(trainer.ok());
  Trained trained;
  trained.start =
      InitialAdapterOf(folder, config, adapter, (*trainer)->layout(), 5)
          .value();
  trained.values = trained.start;
  const auto result = (*trainer)->Train(absl::MakeSpan(trained.values),
                                        examples, options, 7, nullptr);
  EXPECT_TRUE(result.ok()) << result.status();
  if (result.ok()) trained.loss = result->mean_loss;
  const auto eval =
      (*trainer)->Evaluate(trained.values, examples, options, nullptr);
  EXPECT_TRUE(eval.ok()) << eval.status();
  if (eval.ok() && eval->tokens > 0) {
    trained.heldout = eval->loss_sum / static_cast<double>(eval->tokens);
  }
  return trained;
}

// How far apart two results are, in units of what the training changed.
double ApartByChange(const Trained& a, const Trained& b) {
  double apart = 0.0, change = 1e-30;
  for (size_t i = 0; i < a.values.size(); ++i) {
    apart += std::pow(a.values[i] - b.values[i], 2);
    change += std::pow(b.values[i] - b.start[i], 2);
  }
  return std::sqrt(apart / change);
}

std::vector<Example> Examples(int count) {
  return tests::RandomExamples(count, 40, GpuConfig().vocab_size, 3);
}

TEST_F(GpuTrainingTest, EveryKindOfAdapter) {
  const TwoDevices wide(GpuConfig());
  const TwoDevices half(GpuConfig(), absl::nullopt);
  for (const AdapterKind kind :
       {AdapterKind::kLora, AdapterKind::kDora, AdapterKind::kFrozenA,
        AdapterKind::kIa3, AdapterKind::kLofit}) {
    const auto run = [&](const std::shared_ptr<const LoadedModel>& model) {
      return Train(wide.folder, model, Adapter(kind), Steps(5), Examples(12));
    };
    const Trained cpu = run(wide.cpu);
    const Trained gpu = run(wide.gpu);
    EXPECT_LT(ApartByChange(gpu, cpu), 2e-2) << static_cast<int>(kind);
    EXPECT_NEAR(gpu.heldout, cpu.heldout, 1e-3 * cpu.heldout);
    const Trained rounded = run(half.gpu);
    EXPECT_NEAR(rounded.loss, cpu.loss, 2e-2 * cpu.loss);
    EXPECT_NEAR(rounded.heldout, cpu.heldout, 2e-2 * cpu.heldout);
  }
}

// The values that a step sees and leaves are bfloat16, the optimiser's are not.
TEST_F(GpuTrainingTest, AdaptersInBfloat16) {
  const TwoDevices two(GpuConfig());
  for (const AdapterKind kind :
       {AdapterKind::kLora, AdapterKind::kDora, AdapterKind::kLofit}) {
    config::AdapterOptions adapter = Adapter(kind);
    adapter.precision = config::AdapterPrecision::kBf16;
    const Trained cpu =
        Train(two.folder, two.cpu, adapter, Steps(5), Examples(12));
    const Trained gpu =
        Train(two.folder, two.gpu, adapter, Steps(5), Examples(12));
    for (const float value : gpu.values) {
      ASSERT_EQ(value, RoundToBf16(value)) << static_cast<int>(kind);
    }
    // A value beside the middle of two may go either way.
    EXPECT_LT(ApartByChange(gpu, cpu), 0.3) << static_cast<int>(kind);
    EXPECT_NEAR(gpu.heldout, cpu.heldout, 1e-2 * cpu.heldout);
  }
}

TEST_F(GpuTrainingTest, SettingsOfTheStep) {
  const TwoDevices two(GpuConfig());
  std::vector<config::TrainingOptions> settings(6, Steps(5));
  settings[0].optimizer = config::OptimizerKind::kSgd;
  settings[0].momentum = 0.9;
  settings[0].learning_rate = 0.1;
  settings[1].weight_decay = 0.1;
  settings[1].max_grad_norm = 0.01;
  settings[2].gradient_accumulation = 3;
  settings[3].activation_checkpointing = true;
  settings[4].attention = config::AttentionChoice::kBlockwise;
  settings[5].sparsity.max_rate = 0.5;
  settings[5].sparsity.stages = 2;
  for (size_t i = 0; i < settings.size(); ++i) {
    const auto run = [&](const std::shared_ptr<const LoadedModel>& model) {
      return Train(two.folder, model, Adapter(AdapterKind::kLora), settings[i],
                   Examples(16));
    };
    EXPECT_LT(ApartByChange(run(two.gpu), run(two.cpu)), 2e-2) << i;
  }
}

TEST_F(GpuTrainingTest, Preferences) {
  const TwoDevices two(GpuConfig());
  config::TrainingOptions options = Steps(4);
  options.objective = config::Objective::kDpo;
  std::vector<Example> examples = Examples(8);
  const std::vector<Example> others =
      tests::RandomExamples(8, 30, GpuConfig().vocab_size, 4);
  for (size_t i = 0; i < examples.size(); ++i) {
    examples[i].rejected = others[i].ids;
    examples[i].rejected_begin = others[i].loss_begin;
  }
  const auto run = [&](const std::shared_ptr<const LoadedModel>& model) {
    return Train(two.folder, model, Adapter(AdapterKind::kLora), options,
                 examples);
  };
  EXPECT_LT(ApartByChange(run(two.gpu), run(two.cpu)), 2e-2);
}

TEST_F(GpuTrainingTest, Classification) {
  const TwoDevices two(GpuConfig());
  config::TrainingOptions options = Steps(4);
  options.objective = config::Objective::kClassification;
  options.labels = {"a", "b", "c"};
  config::AdapterOptions adapter = Adapter(AdapterKind::kLora);
  adapter.num_labels = 3;
  std::vector<Example> examples = Examples(8);
  for (size_t i = 0; i < examples.size(); ++i) {
    examples[i].label = static_cast<int32_t>(i % 3);
  }
  const auto run = [&](const std::shared_ptr<const LoadedModel>& model) {
    return Train(two.folder, model, adapter, options, examples);
  };
  EXPECT_LT(ApartByChange(run(two.gpu), run(two.cpu)), 2e-2);
}

TEST_F(GpuTrainingTest, ExpertsAndTheirRouters) {
  ModelConfig config = GpuConfig(Family::kMixtral);
  const TwoDevices two(config);
  config::TrainingOptions options = Steps(3);
  options.router.aux_loss = 0.01;
  options.router.z_loss = 0.001;
  config::AdapterOptions adapter = Adapter(AdapterKind::kLora);
  adapter.target_modules = {"q_proj", "w1", "w2"};
  for (const bool checkpointing : {false, true}) {
    options.activation_checkpointing = checkpointing;
    const auto run = [&](const std::shared_ptr<const LoadedModel>& model) {
      return Train(two.folder, model, adapter, options, Examples(12));
    };
    EXPECT_LT(ApartByChange(run(two.gpu), run(two.cpu)), 2e-2);
  }
}

TEST_F(GpuTrainingTest, ManyClientsInOnePass) {
  const TwoDevices two(GpuConfig());
  const config::AdapterOptions adapter = Adapter(AdapterKind::kLora);
  const config::TrainingOptions options = Steps(3);
  auto trainer = Trainer::Create(two.gpu, adapter);
  ASSERT_TRUE(trainer.ok());
  const std::vector<float> start = InitialAdapter((*trainer)->layout(), 5);
  std::vector<std::vector<Example>> data;
  std::vector<std::vector<float>> values(3, start);
  std::vector<BankMember> members;
  for (int i = 0; i < 3; ++i) {
    data.push_back(tests::RandomExamples(6, 30, GpuConfig().vocab_size, i + 1));
  }
  for (int i = 0; i < 3; ++i) {
    members.push_back(
        {absl::MakeSpan(values[i]), data[i], static_cast<uint64_t>(i)});
  }
  const auto results = (*trainer)->TrainBank(members, options, nullptr);
  ASSERT_TRUE(results.ok()) << results.status();
  for (int i = 0; i < 3; ++i) {
    Trained one;
    one.start = one.values = start;
    ASSERT_TRUE((*trainer)
                    ->Train(absl::MakeSpan(one.values), data[i], options,
                            static_cast<uint64_t>(i), nullptr)
                    .ok());
    Trained shared = one;
    shared.values = values[i];
    EXPECT_LT(ApartByChange(shared, one), 2e-2) << i;
  }
}

// Scales near one differ by less than bfloat16 can tell apart: they must act
// all the same.
TEST_F(GpuTrainingTest, SmallScalesActInBfloat16) {
  const TwoDevices half(GpuConfig(), absl::nullopt);
  const Decoder& decoder = half.gpu->decoder();
  const ModelConfig& config = decoder.config();
  PeftAdapter adapter;
  adapter.options = Adapter(AdapterKind::kIa3);
  adapter.layout = StoredLayout(config, adapter.options).value();
  const auto logits = [&](float scale) {
    adapter.values.assign(adapter.layout.num_elements(), scale);
    const LoraBank bank = BindForUse(adapter, decoder);
    ForwardOptions forward;
    forward.lora = &bank;
    at::NoGradGuard no_grad;
    return decoder
        .Logits(PackWhole(Examples(1)[0].ids, decoder.device()), forward)
        .cpu();
  };
  EXPECT_GT(tests::Apart(logits(1.003f), logits(1.0f)), 1e-4);
}

}  // namespace
}  // namespace choir::model
