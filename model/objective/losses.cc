#include "model/objective/losses.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "model/objective/packing.h"
#include "model/transformer/linear_nll.h"

namespace choir::model {
namespace {

// Both answers of every pair, in one batch.
struct Pairs {
  PackedBatch batch;
  at::Tensor sequence;  // int64 [predictions]: sequence of each prediction
  int64_t pairs = 0;
};

Pairs PackPairs(const LossContext& context,
                absl::Span<const Example* const> examples) {
  std::vector<Example> both;
  both.reserve(2 * examples.size());
  for (const Example* example : examples) {
    if (LossUnits(config::Objective::kDpo, *example, context.max_length) == 0) {
      continue;
    }
    both.push_back({example->ids, example->loss_begin});
    both.push_back({example->rejected, example->rejected_begin});
  }
  std::vector<const Example*> pointers;
  std::vector<int64_t> sequence;
  for (size_t i = 0; i < both.size(); ++i) {
    pointers.push_back(&both[i]);
    sequence.resize(
        sequence.size() + PredictedTokens(both[i], context.max_length),
        static_cast<int64_t>(i));
  }
  Pairs pairs;
  pairs.batch =
      PackExamples(pointers, context.max_length, context.decoder.device());
  pairs.sequence =
      at::empty({static_cast<int64_t>(sequence.size())}, at::kLong);
  std::copy(sequence.begin(), sequence.end(),
            pairs.sequence.data_ptr<int64_t>());
  pairs.sequence = pairs.sequence.to(context.decoder.device());
  pairs.pairs = static_cast<int64_t>(both.size()) / 2;
  return pairs;
}

// float64 [pairs]: log p(chosen) - log p(rejected).
at::Tensor LogRatios(const LossContext& context, const ForwardOptions& forward,
                     const Pairs& pairs) {
  const at::Tensor nll =
      LinearNll(forward.kernels, context.decoder.Hidden(pairs.batch, forward),
                context.decoder.weights().head, pairs.batch.targets);
  const at::Tensor sums =
      at::zeros({2 * pairs.pairs}, nll.options().dtype(at::kDouble))
          .index_add(0, pairs.sequence, nll.to(at::kDouble))
          .view({pairs.pairs, 2});
  return sums.select(1, 1) - sums.select(1, 0);
}

at::Tensor Margins(const LossContext& context, const ForwardOptions& forward,
                   const Pairs& pairs) {
  at::Tensor reference;
  {
    at::NoGradGuard no_grad;
    ForwardOptions base;
    base.kernels = forward.kernels;
    base.attention = forward.attention;
    reference = LogRatios(context, base, pairs);
  }
  return LogRatios(context, forward, pairs) - reference;
}

at::Tensor DpoLoss(const LossContext& context, const ForwardOptions& forward,
                   absl::Span<const Example* const> examples, double weight) {
  const at::Tensor z = Margins(context, forward, PackPairs(context, examples)) *
                       context.options.dpo.beta;
  const double smoothing = context.options.dpo.label_smoothing;
  at::Tensor loss = at::log_sigmoid(z) * (smoothing - 1.0);
  if (smoothing > 0.0) loss = loss - at::log_sigmoid(-z) * smoothing;
  return loss.sum() * weight;
}

// Whole texts; the last token of each is the row.
PackedBatch PackLabelled(const LossContext& context,
                         absl::Span<const Example* const> examples) {
  std::vector<int64_t> ids;
  std::vector<int64_t> rows;
  std::vector<int32_t> labels;
  PackedBatch batch;
  batch.starts.push_back(0);
  for (const Example* example : examples) {
    const auto n = std::min<int64_t>(static_cast<int64_t>(example->ids.size()),
                                     context.max_length);
    if (n == 0) continue;
    ids.insert(ids.end(), example->ids.begin(), example->ids.begin() + n);
    batch.starts.push_back(static_cast<int64_t>(ids.size()));
    rows.push_back(static_cast<int64_t>(ids.size()) - 1);
    labels.push_back(example->label);
  }
  const auto tensor = [](const auto& values, at::ScalarType type) {
    at::Tensor t = at::empty({static_cast<int64_t>(values.size())}, type);
    std::copy(values.begin(), values.end(),
              static_cast<std::decay_t<decltype(values[0])>*>(t.data_ptr()));
    return t;
  };
  batch.ids = tensor(ids, at::kLong).to(context.decoder.device());
  batch.rows = tensor(rows, at::kLong).to(context.decoder.device());
  batch.targets = tensor(labels, at::kInt);
  batch.predictions = static_cast<int64_t>(labels.size());
  return batch;
}

}  // namespace

int64_t LossUnits(config::Objective objective, const Example& example,
                  int max_length) {
  switch (objective) {
    case config::Objective::kSupervised:
    case config::Objective::kCausalLm:
      return PredictedTokens(example, max_length);
    case config::Objective::kDpo: {
      Example other;
      other.ids = example.rejected;
      other.loss_begin = example.rejected_begin;
      return PredictedTokens(example, max_length) > 0 &&
                     PredictedTokens(other, max_length) > 0
                 ? 1
                 : 0;
    }
    case config::Objective::kClassification:
      return example.ids.empty() || example.label < 0 ? 0 : 1;
  }
  return 0;
}

int64_t TotalUnits(const LossContext& context,
                   absl::Span<const Example* const> examples) {
  int64_t units = 0;
  for (const Example* example : examples) {
    units += LossUnits(context.options.objective, *example, context.max_length);
  }
  return units;
}

int64_t TotalTokens(const LossContext& context,
                    absl::Span<const Example* const> examples) {
  const config::Objective objective = context.options.objective;
  const bool last_too =
      context.whole_examples || objective == config::Objective::kClassification;
  int64_t tokens = 0;
  for (const Example* example : examples) {
    if (LossUnits(objective, *example, context.max_length) == 0) continue;
    for (const auto* ids : {&example->ids, &example->rejected}) {
      if (ids->empty()) continue;
      tokens += std::min<int64_t>(static_cast<int64_t>(ids->size()),
                                  context.max_length) -
                (last_too ? 0 : 1);
    }
  }
  return tokens;
}

absl::Status CheckForLoss(absl::Span<const Example> examples,
                          const LossContext& context) {
  const config::TrainingOptions& options = context.options;
  const int64_t labels = context.score.defined() ? context.score.size(0) : 0;
  const bool classify = options.objective == config::Objective::kClassification;
  if (classify && labels != static_cast<int64_t>(options.labels.size())) {
    return absl::InvalidArgumentError(absl::StrCat(
        "training.labels lists ", options.labels.size(),
        " labels, but the adapter's head has ", labels, " outputs"));
  }
  const int64_t vocabulary = context.decoder.config().vocab_size;
  const auto outside = [vocabulary](int32_t id) {
    return id < 0 || id >= vocabulary;
  };
  int64_t units = 0;
  for (size_t i = 0; i < examples.size(); ++i) {
    const Example& example = examples[i];
    if (std::any_of(example.ids.begin(), example.ids.end(), outside) ||
        std::any_of(example.rejected.begin(), example.rejected.end(),
                    outside)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "example ", i, " has a token id outside the model's vocabulary of ",
          vocabulary, "; use the model's own tokenizer"));
    }
    if (classify && (example.label < 0 || example.label >= labels)) {
      return absl::InvalidArgumentError(
          absl::StrCat("example ", i, " has label number ", example.label,
                       "; the adapter's head has ", labels, " outputs"));
    }
    units += LossUnits(options.objective, example, context.max_length);
  }
  if (units > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "none of the ", examples.size(), " examples has ",
      options.objective == config::Objective::kDpo ? "two answers to compare"
                                                   : "a token to predict",
      " within max_sequence_length ", context.max_length));
}

at::Tensor ObjectiveLoss(const LossContext& context,
                         const ForwardOptions& forward,
                         absl::Span<const Example* const> examples,
                         double weight) {
  switch (context.options.objective) {
    case config::Objective::kDpo:
      return DpoLoss(context, forward, examples, weight);
    case config::Objective::kClassification: {
      CHOIR_CHECK(context.score.defined());
      const PackedBatch batch = PackLabelled(context, examples);
      return LinearCrossEntropy(forward.kernels,
                                context.decoder.Hidden(batch, forward)
                                    .to(context.score.scalar_type()),
                                context.score, batch.targets, weight);
    }
    default:
      return context.decoder.Loss(
          PackExamples(examples, context.max_length, context.decoder.device(),
                       context.whole_examples),
          forward, weight);
  }
}

at::Tensor HiddenStates(const LossContext& context,
                        const ForwardOptions& forward,
                        absl::Span<const Example* const> examples) {
  switch (context.options.objective) {
    case config::Objective::kDpo:
      return context.decoder.Hidden(PackPairs(context, examples).batch,
                                    forward);
    case config::Objective::kClassification:
      return context.decoder.Hidden(PackLabelled(context, examples), forward);
    default:
      return context.decoder.Hidden(
          PackExamples(examples, context.max_length, context.decoder.device(),
                       context.whole_examples),
          forward);
  }
}

AttentionMethod AttentionOf(const config::TrainingOptions& options) {
  AttentionMethod method;
  switch (options.attention) {
    case config::AttentionChoice::kAuto:
      method.kind = AttentionKind::kAuto;
      break;
    case config::AttentionChoice::kExact:
      method.kind = AttentionKind::kExact;
      break;
    case config::AttentionChoice::kBlockwise:
      method.kind = AttentionKind::kBlockwise;
      break;
    case config::AttentionChoice::kBlockSparse:
      method.kind = AttentionKind::kBlockSparse;
      break;
  }
  method.pattern = {
      options.block_sparse.block, options.block_sparse.local_blocks,
      options.block_sparse.global_blocks, options.block_sparse.stride};
  return method;
}

at::Tensor PreferenceMargins(const LossContext& context,
                             const ForwardOptions& forward,
                             absl::Span<const Example* const> examples) {
  return Margins(context, forward, PackPairs(context, examples));
}

at::Tensor ClassLogits(const LossContext& context,
                       const ForwardOptions& forward,
                       absl::Span<const Example* const> examples) {
  return at::matmul(
      context.decoder.Hidden(PackLabelled(context, examples), forward)
          .to(context.score.scalar_type()),
      context.score.t());
}

ClassOutcome Classify(const LossContext& context, const ForwardOptions& forward,
                      absl::Span<const Example* const> examples) {
  const at::Tensor logits = ClassLogits(context, forward, examples)
                                .to(at::kCPU, at::kFloat)
                                .contiguous();
  const int64_t labels = logits.size(1);
  const float* row = logits.data_ptr<float>();
  ClassOutcome outcome;
  for (const Example* example : examples) {
    if (example->ids.empty()) {
      outcome.predicted.push_back(-1);
      continue;
    }
    const float* best = std::max_element(row, row + labels);
    double sum = 0.0;
    for (int64_t i = 0; i < labels; ++i) {
      sum += std::exp(static_cast<double>(row[i]) - *best);
    }
    outcome.loss_sum += std::log(sum) + *best - row[example->label];
    outcome.predicted.push_back(static_cast<int32_t>(best - row));
    row += labels;
  }
  return outcome;
}

}  // namespace choir::model
