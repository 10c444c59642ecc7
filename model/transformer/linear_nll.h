// The loss of every prediction by itself.
#ifndef CHOIR_MODEL_TRANSFORMER_LINEAR_NLL_H_
#define CHOIR_MODEL_TRANSFORMER_LINEAR_NLL_H_

#include "model/torch/compat.h"
#include "model/transformer/kernels.h"

namespace choir::model {

// -log softmax(hidden head^T)[target] of each row, float32 [rows]. Logits exist
// only a slice at a time; the backward pass makes them again. Where only the
// sum of the losses is wanted, LinearCrossEntropy (ops.h) is cheaper.
// Shapes:  hidden [rows, width]; head [vocabulary, width]; targets int32 [rows]
//          on the CPU.
// Threads: safe on distinct tensors.
at::Tensor LinearNll(Kernels kernels, const at::Tensor& hidden,
                     const at::Tensor& head, const at::Tensor& targets);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRANSFORMER_LINEAR_NLL_H_
