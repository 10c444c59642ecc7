// The loss of each training objective, over a decoder with its adapter.
//
//   sft, causal_lm   -log p of each predicted token
//   dpo              -log sigmoid(beta ((log p(chosen) - log p_ref(chosen)) -
//                    (log p(rejected) - log p_ref(rejected)))), where p_ref is
//                    the base without its adapter; with label smoothing e,
//                    (1 - e) of that plus e of the same with the sign turned
//   classification   -log softmax(score h)[label], h the last token's state
//
// Source: Rafailov et al., "Direct Preference Optimization" (2023); the head
// `score` is that of Hugging Face's ...ForSequenceClassification.
#ifndef CHOIR_MODEL_OBJECTIVE_LOSSES_H_
#define CHOIR_MODEL_OBJECTIVE_LOSSES_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "model/objective/example.h"
#include "model/torch/compat.h"
#include "model/transformer/decoder.h"
#include "proto/config/job_options.h"

namespace choir::model {

// What the loss of one example is a sum over: predicted tokens, pairs, or
// examples. 0: nothing to learn from it within `max_length` ids.
int64_t LossUnits(config::Objective objective, const Example& example,
                  int max_length);

struct LossContext {
  const Decoder& decoder;
  const config::TrainingOptions& options;
  int max_length = 0;
  at::Tensor score;             // [labels, hidden]; of classification
  bool whole_examples = false;  // of PackExamples
};

int64_t TotalUnits(const LossContext& context,
                   absl::Span<const Example* const> examples);
// Tokens that a pass over `examples` computes.
int64_t TotalTokens(const LossContext& context,
                    absl::Span<const Example* const> examples);

// INVALID_ARGUMENT for ids outside the vocabulary, labels without an output in
// the head, and if nothing can be learnt from any of `examples`.
absl::Status CheckForLoss(absl::Span<const Example> examples,
                          const LossContext& context);

// `weight` times the sum of the losses of all units of `examples`, a float64
// scalar that carries gradients. At least one example must have a unit.
// Cost: one forward pass; dpo two.
at::Tensor ObjectiveLoss(const LossContext& context,
                         const ForwardOptions& forward,
                         absl::Span<const Example* const> examples,
                         double weight);

// What the adapted model makes of them on the way to that loss: the blocks'
// outputs of the tokens that predict, [tokens, hidden].
at::Tensor HiddenStates(const LossContext& context,
                        const ForwardOptions& forward,
                        absl::Span<const Example* const> examples);

// The AttentionMethod that a job asks for.
AttentionMethod AttentionOf(const config::TrainingOptions& options);

// float64 [pairs]: how much more the adapted model prefers the chosen answer
// than the base does, the parenthesis of the formula above.
at::Tensor PreferenceMargins(const LossContext& context,
                             const ForwardOptions& forward,
                             absl::Span<const Example* const> examples);

// float32 [examples, labels].
at::Tensor ClassLogits(const LossContext& context,
                       const ForwardOptions& forward,
                       absl::Span<const Example* const> examples);

// What a classifier says of examples.
struct ClassOutcome {
  double loss_sum = 0.0;  // nats
  // For each example the likeliest label, the first of equals; -1 for one
  // without ids.
  std::vector<int32_t> predicted;
};
ClassOutcome Classify(const LossContext& context, const ForwardOptions& forward,
                      absl::Span<const Example* const> examples);

}  // namespace choir::model

#endif  // CHOIR_MODEL_OBJECTIVE_LOSSES_H_
