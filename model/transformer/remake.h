// Activations that are cheap to make again are not kept for the gradient.
#ifndef CHOIR_MODEL_TRANSFORMER_REMAKE_H_
#define CHOIR_MODEL_TRANSFORMER_REMAKE_H_

#include <functional>
#include <vector>

#include "model/torch/compat.h"

namespace choir::model {

// Frees the memory of `made` until the gradient of `outputs` is computed;
// `remake` then fills it again (a CPU tensor of the same shape, its memory
// anew) before that gradient flows further; it must write through the data
// pointer, for autograd takes an in-place operation for a change. `outputs`
// were computed from `made`, which nobody else may read in between. Returns the
// outputs to go on with. Without gradients: the outputs, and nothing is freed.
std::vector<at::Tensor> ForgetUntilBackward(
    const at::Tensor& made, std::function<void(const at::Tensor&)> remake,
    const std::vector<at::Tensor>& outputs);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRANSFORMER_REMAKE_H_
