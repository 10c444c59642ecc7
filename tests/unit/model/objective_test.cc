// Objectives against plain formulas, packing without leaks, and what training
// with them reaches.
#include <cmath>
#include <numeric>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/adapter/lora_layout.h"
#include "model/adapter/peft_folder.h"
#include "model/compute.h"
#include "model/export/merge.h"
#include "model/loaded_adapter.h"
#include "model/loaded_model.h"
#include "model/objective/encode.h"
#include "model/objective/losses.h"
#include "model/objective/packing.h"
#include "model/transformer/linear_nll.h"
#include "tests/unit/model/normal_tensor.h"
#include "tests/unit/model/tiny_model.h"

namespace choir::model {
namespace {

using ::testing::HasSubstr;

constexpr int kMaxLength = 64;

config::AdapterOptions Adapter(int labels = 0) {
  config::AdapterOptions options;
  options.rank = 4;
  options.alpha = 8.0;
  options.target_modules = LinearKinds(tests::TinyConfig());
  options.num_labels = labels;
  return options;
}

config::TrainingOptions Options(config::Objective objective, int steps = 1) {
  config::TrainingOptions options;
  options.objective = objective;
  options.learning_rate = 1e-2;
  options.batch_size = 4;
  options.local_steps = steps;
  options.local_epochs = 0;
  return options;
}

std::vector<const Example*> Pointers(const std::vector<Example>& examples) {
  std::vector<const Example*> pointers;
  for (const Example& example : examples) pointers.push_back(&example);
  return pointers;
}

class ObjectiveTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    ConfigureCompute(1);
    const auto loaded = LoadedModel::LoadFolder(
        tests::WriteTinyModel(tests::TinyConfig()), DeviceKind::kCpu, true);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    base_ = *loaded;
  }
  static void TearDownTestSuite() { base_ = nullptr; }

  static const Decoder& decoder() { return base_->decoder(); }

  // An adapter that does something, bound to the model.
  void MakeBank(double scale = 0.1) {
    layout_ = AdapterLayout(decoder().config(), Adapter()).value();
    base::SimRandom random(5);
    flat_ = at::empty({layout_.num_elements()}, at::kFloat);
    for (int64_t i = 0; i < flat_.numel(); ++i) {
      flat_.data_ptr<float>()[i] = static_cast<float>(random.Normal() * scale);
    }
    bank_ = BindLora(decoder().config(), layout_, flat_, 2.0);
    forward_.lora = &bank_;
  }

  static std::vector<Example> Texts(int count, uint64_t seed) {
    return tests::RandomExamples(count, 20, tests::TinyConfig().vocab_size,
                                 seed);
  }
  static std::vector<Example> PreferencePairs(int count) {
    std::vector<Example> pairs = Texts(count, 3);
    const std::vector<Example> others = Texts(count, 4);
    for (int i = 0; i < count; ++i) {
      Example& pair = pairs[i];
      const int prompt = 5 + i % 3;
      pair.loss_begin = pair.rejected_begin = prompt;
      pair.rejected.assign(pair.ids.begin(), pair.ids.begin() + prompt);
      pair.rejected.insert(pair.rejected.end(), others[i].ids.begin() + prompt,
                           others[i].ids.end());
    }
    return pairs;
  }
  // Class: whether the text begins with an id below 150.
  static std::vector<Example> Labelled(int count) {
    std::vector<Example> texts = Texts(count, 6);
    for (Example& text : texts) {
      text.label = text.ids.front() < 150 ? 0 : 1;
      text.ids.resize(6);
    }
    return texts;
  }

  // log p of ids[begin..] by the whole matrix of logits.
  static double PlainLogProbability(const std::vector<int32_t>& ids, int begin,
                                    const ForwardOptions& forward) {
    const at::Tensor p = at::log_softmax(
        decoder().Logits(PackWhole(ids, at::kCPU), forward).to(at::kDouble),
        -1);
    double sum = 0.0;
    for (size_t i = begin; i < ids.size(); ++i) {
      sum += p[static_cast<int64_t>(i) - 1][ids[i]].item<double>();
    }
    return sum;
  }

  static std::shared_ptr<const LoadedModel> base_;
  codec::Layout layout_;
  at::Tensor flat_;
  LoraBank bank_;
  ForwardOptions forward_;
};

std::shared_ptr<const LoadedModel> ObjectiveTest::base_;

TEST_F(ObjectiveTest, PackedExamplesDoNotSeeEachOther) {
  MakeBank();
  std::vector<Example> examples = Texts(3, 1);
  std::vector<Example> changed = examples;
  for (const size_t other : {0, 2}) {  // the same lengths, other ids
    for (int32_t& id : changed[other].ids) id = (id + 17) % 300;
  }
  const int64_t begin = static_cast<int64_t>(examples[0].ids.size()) - 1;
  const int64_t length = static_cast<int64_t>(examples[1].ids.size()) - 1;
  for (const Kernels kernels : {Kernels::kFused, Kernels::kReference}) {
    for (const AttentionKind kind :
         {AttentionKind::kExact, AttentionKind::kBlockwise,
          AttentionKind::kBlockSparse}) {
      forward_.kernels = kernels;
      forward_.attention.kind = kind;
      const auto hidden = [&](const std::vector<Example>& texts) {
        PackedBatch batch = PackExamples(Pointers(texts), kMaxLength, at::kCPU);
        batch.rows = at::Tensor();
        return decoder().Hidden(batch, forward_).narrow(0, begin, length);
      };
      const at::Tensor alone =
          decoder().Hidden(PackWhole(absl::MakeConstSpan(examples[1].ids)
                                         .first(static_cast<size_t>(length)),
                                     at::kCPU),
                           forward_);
      EXPECT_TRUE(at::equal(hidden(examples), hidden(changed)));
      EXPECT_LT((hidden(examples) - alone).abs().max().item<double>(), 1e-5);
    }
  }
}

TEST_F(ObjectiveTest, PackedGradientsOfOneExampleStayInIt) {
  const std::vector<Example> examples = Texts(2, 1);
  MakeBank();
  const auto gradient = [&](const std::vector<Example>& texts) {
    at::Tensor leaf = flat_.detach().clone().set_requires_grad(true);
    LoraBank bank = BindLora(decoder().config(), layout_, leaf, 2.0);
    at::Tensor grad = at::zeros_like(flat_);
    GatherGradients(BindLora(decoder().config(), layout_, grad, 1.0), bank);
    ForwardOptions forward;
    forward.lora = &bank;
    torch::autograd::backward(
        {decoder().Loss(PackExamples(Pointers(texts), kMaxLength, at::kCPU),
                        forward, 0.1)},
        {});
    return grad;
  };
  const at::Tensor sum = gradient({examples[0]}) + gradient({examples[1]});
  EXPECT_LT((gradient(examples) - sum).abs().max().item<double>(), 1e-5);
}

TEST_F(ObjectiveTest, TokenLossesEqualTheirSumAndLibTorchsGradients) {
  base::SimRandom random(2);
  const int64_t rows = 40;
  const int64_t vocabulary = 1 << 18;  // slices of 16 rows
  const auto normal = [&](at::IntArrayRef sizes) {
    return tests::NormalTensor(random, sizes);
  };
  const at::Tensor hidden = normal({rows, 8});
  const at::Tensor head = normal({vocabulary, 8});
  const at::Tensor weights = normal({rows});
  at::Tensor targets = at::empty({rows}, at::kInt);
  for (int64_t i = 0; i < rows; ++i) {
    targets.data_ptr<int32_t>()[i] =
        static_cast<int32_t>(random.Below(vocabulary));
  }
  at::Tensor nll[2], grad_hidden[2], grad_head[2];
  for (const int which : {0, 1}) {
    const Kernels kernels = which == 0 ? Kernels::kFused : Kernels::kReference;
    at::Tensor h = hidden.clone().set_requires_grad(true);
    at::Tensor w = head.clone().set_requires_grad(true);
    nll[which] = LinearNll(kernels, h, w, targets);
    torch::autograd::backward({(nll[which] * weights).sum()}, {});
    grad_hidden[which] = h.grad();
    grad_head[which] = w.grad();
  }
  // Of the largest: both are sums of float32 over the vocabulary.
  const auto difference = [](const at::Tensor* x) {
    return ((x[0] - x[1]).abs().max() / x[1].abs().max()).item<double>();
  };
  EXPECT_LT(difference(nll), 1e-5);
  EXPECT_LT(difference(grad_hidden), 5e-5);
  EXPECT_LT(difference(grad_head), 5e-5);
  EXPECT_NEAR(nll[0].sum().item<double>(),
              LinearCrossEntropy(Kernels::kFused, hidden, head, targets, 1.0)
                  .item<double>(),
              1e-2);
}

TEST_F(ObjectiveTest, DpoLossEqualsThePlainFormula) {
  MakeBank();
  const std::vector<Example> pairs = PreferencePairs(5);
  for (const double smoothing : {0.0, 0.2}) {
    config::TrainingOptions options = Options(config::Objective::kDpo);
    options.dpo.beta = 0.3;
    options.dpo.label_smoothing = smoothing;
    double expected = 0.0;
    for (const Example& pair : pairs) {
      const auto ratio = [&](const ForwardOptions& forward) {
        return PlainLogProbability(pair.ids, pair.loss_begin, forward) -
               PlainLogProbability(pair.rejected, pair.rejected_begin, forward);
      };
      const double z = 0.3 * (ratio(forward_) - ratio({}));
      expected += (1.0 - smoothing) * std::log1p(std::exp(-z)) +
                  smoothing * std::log1p(std::exp(z));
    }
    const LossContext context{decoder(), options, kMaxLength, {}, false};
    for (const Kernels kernels : {Kernels::kFused, Kernels::kReference}) {
      forward_.kernels = kernels;
      EXPECT_NEAR(
          ObjectiveLoss(context, forward_, Pointers(pairs), 1.0).item<double>(),
          expected, 1e-4);
    }
    forward_.kernels = Kernels::kFused;
  }
}

TEST_F(ObjectiveTest, DpoOfAFreshAdapterIsLog2AndTrainingRaisesTheMargin) {
  const std::vector<Example> pairs = PreferencePairs(12);
  const config::TrainingOptions options =
      Options(config::Objective::kDpo, /*steps=*/30);
  const auto trainer = Trainer::Create(base_, Adapter()).value();
  std::vector<float> values = InitialAdapter(trainer->layout(), 5);
  const auto before = trainer->Evaluate(values, pairs, options, nullptr);
  ASSERT_TRUE(before.ok()) << before.status();
  EXPECT_EQ(before->tokens, pairs.size());
  EXPECT_NEAR(before->loss_sum / before->tokens, std::log(2.0), 1e-6);
  const auto trained =
      trainer->Train(absl::MakeSpan(values), pairs, options, 1, nullptr);
  ASSERT_TRUE(trained.ok()) << trained.status();
  EXPECT_EQ(trained->tokens, 30u * 4u);
  const auto after = trainer->Evaluate(values, pairs, options, nullptr);
  EXPECT_LT(after->loss_sum / after->tokens, 0.4);

  at::Tensor flat = at::empty({static_cast<int64_t>(values.size())});
  std::copy(values.begin(), values.end(), flat.data_ptr<float>());
  const LoraBank bank =
      BindLora(decoder().config(), trainer->layout(), flat, Adapter().scale());
  ForwardOptions forward;
  forward.lora = &bank;
  const LossContext context{decoder(), options, kMaxLength, {}, false};
  EXPECT_GT(
      PreferenceMargins(context, forward, Pointers(pairs)).min().item<double>(),
      1.0);
}

TEST_F(ObjectiveTest, DpoNeedsTwoAnswers) {
  const auto trainer = Trainer::Create(base_, Adapter()).value();
  std::vector<float> values = InitialAdapter(trainer->layout(), 5);
  const auto trained =
      trainer->Train(absl::MakeSpan(values), Texts(3, 1),
                     Options(config::Objective::kDpo), 1, nullptr);
  EXPECT_EQ(trained.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(trained.status().message()),
              HasSubstr("two answers"));
}

TEST_F(ObjectiveTest, ClassificationLearnsAHeadThatThePeftFolderKeeps) {
  config::TrainingOptions options =
      Options(config::Objective::kClassification, /*steps=*/120);
  options.labels = {"low", "high"};
  options.batch_size = 16;
  const std::vector<Example> texts = Labelled(40);
  const auto trainer = Trainer::Create(base_, Adapter(2)).value();
  EXPECT_EQ(trainer->layout().num_elements(),
            AdapterLayout(decoder().config(), Adapter())->num_elements() +
                2 * decoder().config().hidden_size);
  std::vector<float> values = InitialAdapter(trainer->layout(), 5);
  const auto before = trainer->Evaluate(values, texts, options, nullptr);
  ASSERT_TRUE(before.ok()) << before.status();
  EXPECT_NEAR(before->loss_sum / before->tokens, std::log(2.0), 1e-6);
  const auto trained =
      trainer->Train(absl::MakeSpan(values), texts, options, 1, nullptr);
  ASSERT_TRUE(trained.ok()) << trained.status();
  const auto after = trainer->Evaluate(values, texts, options, nullptr);
  EXPECT_LT(after->loss_sum / after->tokens, 0.2);

  const std::string folder = tests::NewTempDir();
  ASSERT_TRUE(WriteTrainedAdapter(folder, decoder().config(), Adapter(2),
                                  values, "base")
                  .ok());
  const auto read = ReadPeftFolder(folder, decoder().config());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->options.num_labels, 2);
  EXPECT_EQ(read->values, values);
  EXPECT_EQ(read->layout.digest(), trainer->layout().digest());
  const std::string json =
      base::ReadFile(base::JoinPath(folder, "adapter_config.json")).value();
  EXPECT_THAT(json, HasSubstr("SEQ_CLS"));
  EXPECT_THAT(json, HasSubstr("score"));
}

TEST_F(ObjectiveTest, AMergedClassifierGivesTheLogitsOfBaseAndAdapter) {
  ModelConfig config = tests::TinyConfig();
  config.num_labels = 3;
  MergeOptions merge;
  merge.model = tests::WriteTinyModel(config);
  merge.adapter = tests::NewTempDir();
  merge.out = base::JoinPath(merge.adapter, "merged");
  const codec::Layout layout = AdapterLayout(config, Adapter(3)).value();
  base::SimRandom random(12);
  std::vector<float> values(layout.num_elements());
  for (float& v : values) v = static_cast<float>(random.Normal() * 0.1);
  ASSERT_TRUE(
      WriteTrainedAdapter(merge.adapter, config, Adapter(3), values, "").ok());
  const auto merged_report = MergeAdapter(merge);
  ASSERT_TRUE(merged_report.ok()) << merged_report.status();
  const auto base =
      LoadedModel::LoadFolder(merge.model, DeviceKind::kCpu, true);
  const auto merged =
      LoadedModel::LoadFolder(merge.out, DeviceKind::kCpu, true);
  ASSERT_TRUE(base.ok() && merged.ok()) << merged.status();

  const config::TrainingOptions options =
      Options(config::Objective::kClassification);
  const std::vector<Example> texts = Labelled(8);
  const auto logits = [&](const LoadedModel& model, const at::Tensor& score,
                          const ForwardOptions& forward) {
    return ClassLogits({model.decoder(), options, kMaxLength, score, false},
                       forward, Pointers(texts));
  };
  const PeftAdapter adapter = ReadPeftFolder(merge.adapter, config).value();
  const LoraBank bank = BindForUse(adapter, (*base)->decoder());
  ForwardOptions forward;
  forward.lora = &bank;
  const at::Tensor pair =
      logits(**base, ScoreOf(adapter, (*base)->decoder()), forward);
  const at::Tensor alone =
      logits(**merged, (*merged)->decoder().weights().score, {});
  const at::Tensor before =
      logits(**base, (*base)->decoder().weights().score, {});
  EXPECT_LT((pair - alone).abs().max().item<double>(), 1e-5);
  EXPECT_GT((pair - before).abs().max().item<double>(), 1e-2);
}

TEST_F(ObjectiveTest, ClassificationReadsTheLastTokenAlone) {
  config::TrainingOptions options = Options(config::Objective::kClassification);
  options.labels = {"a", "b", "c"};
  base::SimRandom random(8);
  at::Tensor score = at::empty({3, decoder().config().hidden_size});
  for (int64_t i = 0; i < score.numel(); ++i) {
    score.data_ptr<float>()[i] = static_cast<float>(random.Normal());
  }
  const std::vector<Example> texts = Labelled(3);
  const LossContext context{decoder(), options, kMaxLength, score, false};
  const at::Tensor logits = ClassLogits(context, {}, Pointers(texts));
  double loss = 0.0;
  for (size_t i = 0; i < texts.size(); ++i) {
    const at::Tensor hidden =
        decoder().Hidden(PackWhole(texts[i].ids, at::kCPU), {});
    const at::Tensor plain = at::matmul(score, hidden[hidden.size(0) - 1]);
    EXPECT_LT(
        (logits[static_cast<int64_t>(i)] - plain).abs().max().item<double>(),
        1e-4);
    loss -= at::log_softmax(plain, 0)[texts[i].label].item<double>();
  }
  EXPECT_NEAR(ObjectiveLoss(context, {}, Pointers(texts), 1.0).item<double>(),
              loss, 1e-4);
}

TEST_F(ObjectiveTest, ClassificationRefusesLabelsWithoutAnOutput) {
  config::TrainingOptions options = Options(config::Objective::kClassification);
  options.labels = {"a", "b"};
  std::vector<Example> texts = Labelled(3);
  const auto without = Trainer::Create(base_, Adapter()).value();
  std::vector<float> values = InitialAdapter(without->layout(), 5);
  EXPECT_THAT(std::string(without->Evaluate(values, texts, options, nullptr)
                              .status()
                              .message()),
              HasSubstr("0 outputs"));
  const auto with = Trainer::Create(base_, Adapter(2)).value();
  values = InitialAdapter(with->layout(), 5);
  texts[1].label = 2;
  EXPECT_THAT(
      std::string(
          with->Evaluate(values, texts, options, nullptr).status().message()),
      HasSubstr("label number 2"));
}

TEST_F(ObjectiveTest, EveryExactAttentionTrainsAlike) {
  const std::vector<Example> texts = Texts(12, 9);
  std::vector<std::vector<float>> results;
  for (const config::AttentionChoice attention :
       {config::AttentionChoice::kAuto, config::AttentionChoice::kExact,
        config::AttentionChoice::kBlockwise,
        config::AttentionChoice::kBlockSparse}) {
    config::TrainingOptions options =
        Options(config::Objective::kSupervised, 5);
    options.attention = attention;
    options.block_sparse.local_blocks = 4;  // of 64: the whole text
    const auto trainer = Trainer::Create(base_, Adapter()).value();
    results.push_back(InitialAdapter(trainer->layout(), 5));
    ASSERT_TRUE(
        trainer
            ->Train(absl::MakeSpan(results.back()), texts, options, 1, nullptr)
            .ok());
  }
  EXPECT_EQ(results[0], results[1]);
  for (const size_t other : {2, 3}) {
    double worst = 0.0;
    for (size_t i = 0; i < results[0].size(); ++i) {
      worst =
          std::max<double>(worst, std::abs(results[0][i] - results[other][i]));
    }
    EXPECT_LT(worst, 1e-3);
  }
}

TEST(EncodeObjectiveTest, BothAnswersKeepTheSamePrompt) {
  const auto tokenizer =
      Tokenizer::LoadFolder(tests::WriteTinyModel(tests::TinyConfig())).value();
  const std::string prompt =
      "the apple is a fruit of the tree; a tree is a tall plant";
  const Example pair = EncodePreference(*tokenizer, prompt, "yes",
                                        "no, the tree is the fruit", 20);
  EXPECT_EQ(pair.loss_begin, pair.rejected_begin);
  EXPECT_TRUE(std::equal(pair.ids.begin(), pair.ids.begin() + pair.loss_begin,
                         pair.rejected.begin()));
  EXPECT_LE(pair.ids.size(), 20u);
  EXPECT_LE(pair.rejected.size(), 20u);
  EXPECT_GT(static_cast<int>(pair.ids.size()), pair.loss_begin);
  // Nothing to cut: as supervised tuning encodes the chosen answer.
  const Example whole = EncodePreference(*tokenizer, "a", "b", "c", 64);
  const Example supervised = EncodePromptResponse(*tokenizer, "a", "b", 64);
  EXPECT_EQ(whole.ids, supervised.ids);
  EXPECT_EQ(whole.loss_begin, supervised.loss_begin);
  const Example labelled = EncodeLabelled(*tokenizer, prompt, 3, 8);
  EXPECT_EQ(labelled.ids.size(), 8u);
  EXPECT_EQ(labelled.label, 3);
}

}  // namespace
}  // namespace choir::model
