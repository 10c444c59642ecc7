// Local optimisers over flat float32 vectors; no LibTorch.
#ifndef CHOIR_MODEL_KERNELS_OPTIMIZER_H_
#define CHOIR_MODEL_KERNELS_OPTIMIZER_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace choir::model {

struct AdamWOptions {
  double learning_rate = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.0;
};

// One step, PyTorch's arithmetic; `step` counts from 1. m and v are the running
// moments. All spans have the same length.
// Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization"
// (2019).
void AdamWStep(const AdamWOptions& options, int64_t step,
               absl::Span<const float> gradient, absl::Span<float> m,
               absl::Span<float> v, absl::Span<float> parameters);

struct SgdOptions {
  double learning_rate = 0.1;
  double momentum = 0.0;
  double weight_decay = 0.0;
};

// One step, PyTorch's arithmetic: on the first step the buffer becomes the
// gradient. `buffer` may be empty if momentum is 0.
void SgdStep(const SgdOptions& options, int64_t step,
             absl::Span<const float> gradient, absl::Span<float> buffer,
             absl::Span<float> parameters);

// Scales `gradient` down to an L2 norm of `max_norm` if it is above (PyTorch's
// clip_grad_norm_; 0: never) and returns the norm before.
double ClipGradient(absl::Span<float> gradient, double max_norm);

}  // namespace choir::model

#endif  // CHOIR_MODEL_KERNELS_OPTIMIZER_H_
