#include "model/training/device_optimizer.h"

#include <cmath>

namespace choir::model {

void DeviceOptimizer::Reset(const at::Tensor& values) {
  first_moment_ = at::zeros_like(values);
  second_moment_ = at::zeros_like(values);
  steps_ = 0;
}

absl::Status DeviceOptimizer::Step(const config::TrainingOptions& options,
                                   at::Tensor& gradient, at::Tensor& values) {
  at::NoGradGuard no_grad;
  const double norm =
      std::sqrt(gradient.square().sum(at::kDouble).item<double>());
  if (!std::isfinite(norm)) {
    return absl::AbortedError(
        "the gradient is no longer a finite number; lower the learning rate");
  }
  if (options.max_grad_norm > 0.0 && norm > options.max_grad_norm) {
    gradient.mul_(options.max_grad_norm / (norm + 1e-6));
  }
  ++steps_;
  if (options.optimizer == config::OptimizerKind::kAdamW) {
    const double step = static_cast<double>(steps_);
    const double correction1 = 1.0 - std::pow(options.beta1, step);
    const double correction2 = 1.0 - std::pow(options.beta2, step);
    first_moment_.mul_(options.beta1).add_(gradient, 1.0 - options.beta1);
    second_moment_.mul_(options.beta2)
        .addcmul_(gradient, gradient, 1.0 - options.beta2);
    const at::Tensor denominator = second_moment_.sqrt()
                                       .mul_(1.0 / std::sqrt(correction2))
                                       .add_(options.epsilon);
    values.mul_(1.0 - options.learning_rate * options.weight_decay)
        .addcdiv_(first_moment_, denominator,
                  -options.learning_rate / correction1);
    return absl::OkStatus();
  }
  if (options.weight_decay != 0.0) gradient.add_(values, options.weight_decay);
  if (options.momentum != 0.0) {
    first_moment_.mul_(steps_ > 1 ? options.momentum : 0.0).add_(gradient);
  }
  values.sub_(options.momentum != 0.0 ? first_moment_ : gradient,
              options.learning_rate);
  return absl::OkStatus();
}

}  // namespace choir::model
