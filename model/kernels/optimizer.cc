#include "model/kernels/optimizer.h"

#include <cmath>

namespace choir::model {

void AdamWStep(const AdamWOptions& options, int64_t step,
               absl::Span<const float> gradient, absl::Span<float> m,
               absl::Span<float> v, absl::Span<float> parameters) {
  const double correction1 = 1.0 - std::pow(options.beta1, step);
  const double correction2 = 1.0 - std::pow(options.beta2, step);
  const float beta1 = static_cast<float>(options.beta1);
  const float beta2 = static_cast<float>(options.beta2);
  const float one_minus_beta1 = static_cast<float>(1.0 - options.beta1);
  const float one_minus_beta2 = static_cast<float>(1.0 - options.beta2);
  const float decay =
      static_cast<float>(1.0 - options.learning_rate * options.weight_decay);
  const float rate = static_cast<float>(options.learning_rate / correction1);
  const float inverse_root = static_cast<float>(1.0 / std::sqrt(correction2));
  const float epsilon = static_cast<float>(options.epsilon);
  const float* g = gradient.data();
  float* mean = m.data();
  float* square = v.data();
  float* p = parameters.data();
  const size_t n = parameters.size();
#pragma omp simd
  for (size_t i = 0; i < n; ++i) {
    mean[i] = beta1 * mean[i] + one_minus_beta1 * g[i];
    square[i] = beta2 * square[i] + one_minus_beta2 * g[i] * g[i];
    const float denominator =
        __builtin_sqrtf(square[i]) * inverse_root + epsilon;
    p[i] = p[i] * decay - rate * (mean[i] / denominator);
  }
}

void SgdStep(const SgdOptions& options, int64_t step,
             absl::Span<const float> gradient, absl::Span<float> buffer,
             absl::Span<float> parameters) {
  const float decay = static_cast<float>(options.weight_decay);
  const float momentum = static_cast<float>(options.momentum);
  const float rate = static_cast<float>(options.learning_rate);
  for (size_t i = 0; i < parameters.size(); ++i) {
    float direction = gradient[i] + decay * parameters[i];
    if (options.momentum != 0.0) {
      if (step > 1) direction += momentum * buffer[i];
      buffer[i] = direction;
    }
    parameters[i] -= rate * direction;
  }
}

double ClipGradient(absl::Span<float> gradient, double max_norm) {
  double sum = 0.0;
  for (const float g : gradient) sum += static_cast<double>(g) * g;
  const double norm = std::sqrt(sum);
  if (max_norm > 0.0 && norm > max_norm) {
    const float factor = static_cast<float>(max_norm / (norm + 1e-6));
    for (float& g : gradient) g *= factor;
  }
  return norm;
}

}  // namespace choir::model
