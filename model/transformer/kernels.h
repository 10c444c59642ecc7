// Which of the two implementations of a decoder's parts computes.
#ifndef CHOIR_MODEL_TRANSFORMER_KERNELS_H_
#define CHOIR_MODEL_TRANSFORMER_KERNELS_H_

#include "model/torch/compat.h"

namespace choir::model {

// kFused: hand-written passes where there are any (CPU in float32: ours; other
// devices: over LibTorch's kernels), else LibTorch's operations.
// kReference: always LibTorch's.
enum class Kernels { kFused, kReference };

// True if `x` can go through the fused kernels.
inline bool UseFused(Kernels kernels, const at::Tensor& x) {
  return kernels == Kernels::kFused && x.device().is_cpu() &&
         x.scalar_type() == at::kFloat;
}

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRANSFORMER_KERNELS_H_
