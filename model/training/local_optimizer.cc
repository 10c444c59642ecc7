#include "model/training/local_optimizer.h"

#include <algorithm>
#include <cmath>

#include "model/kernels/optimizer.h"

namespace choir::model {

TrainingLength::TrainingLength(const config::TrainingOptions& options,
                               size_t num_examples)
    : examples_per_step(static_cast<size_t>(options.batch_size) *
                        static_cast<size_t>(options.gradient_accumulation)),
      runs_on(options.local_steps > 0) {
  const int steps_per_epoch = static_cast<int>(
      (num_examples + examples_per_step - 1) / examples_per_step);
  steps =
      runs_on ? options.local_steps : options.local_epochs * steps_per_epoch;
}

void LocalOptimizer::Reset(size_t size) {
  first_moment_.assign(size, 0.0f);
  second_moment_.assign(size, 0.0f);
  steps_ = 0;
}

absl::Status LocalOptimizer::Step(const config::TrainingOptions& options,
                                  absl::Span<float> gradient,
                                  absl::Span<float> values) {
  const double norm = ClipGradient(gradient, options.max_grad_norm);
  if (!std::isfinite(norm)) {
    return absl::AbortedError(
        "the gradient is no longer a finite number; lower the learning rate");
  }
  ++steps_;
  if (options.optimizer == config::OptimizerKind::kAdamW) {
    AdamWStep({options.learning_rate, options.beta1, options.beta2,
               options.epsilon, options.weight_decay},
              steps_, gradient, absl::MakeSpan(first_moment_),
              absl::MakeSpan(second_moment_), values);
  } else {
    SgdStep({options.learning_rate, options.momentum, options.weight_decay},
            steps_, gradient, absl::MakeSpan(first_moment_), values);
  }
  return absl::OkStatus();
}

absl::Status CheckFinite(absl::Span<const float> values) {
  if (std::all_of(values.begin(), values.end(),
                  [](float value) { return std::isfinite(value); })) {
    return absl::OkStatus();
  }
  return absl::AbortedError(
      "the adapter is no longer finite; lower the learning rate");
}

}  // namespace choir::model
