// Activations that are cheap to make again are not kept for the gradient.
#ifndef CHOIR_MODEL_TRANSFORMER_REMAKE_H_
#define CHOIR_MODEL_TRANSFORMER_REMAKE_H_

#include <functional>

#include "model/torch/compat.h"

namespace choir::model {

// Frees the memory of `made` until the gradient of `output` is computed, which
// was computed from it and which alone reads it until then; `remake` then
// computes it again, as it was, before that gradient flows further. It runs
// without gradients. Returns the output to go on with. Nothing is freed if no
// gradient will be asked for.
at::Tensor ForgetUntilBackward(const at::Tensor& made,
                               std::function<at::Tensor()> remake,
                               const at::Tensor& output);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRANSFORMER_REMAKE_H_
