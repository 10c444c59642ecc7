// The differentiable parts of a decoder block. On the CPU in float32 each is
// one autograd node with hand-written, fused forward and backward passes;
// elsewhere (CUDA, bfloat16) one with a hand-written gradient over LibTorch's
// kernels (ops_device.h), where the weights are frozen; and with
// Kernels::kReference the same formula in LibTorch's own operations.
//
// Shapes:  tokens of all sequences are packed: activations are [tokens, width].
// Threads: safe on distinct tensors.
#ifndef CHOIR_MODEL_TRANSFORMER_OPS_H_
#define CHOIR_MODEL_TRANSFORMER_OPS_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "model/torch/compat.h"
#include "model/transformer/attention.h"
#include "model/transformer/kernels.h"
#include "model/transformer/packed_weight.h"

namespace choir::model {

// weight [out, in]; bias [out]; lora_a [rank, in]; lora_b [out, rank]. All but
// weight may be undefined, and weight where `packed` is in its place; that must
// live until the gradients are computed.
struct LinearParts {
  at::Tensor weight, bias, lora_a, lora_b;
  const PackedWeight* packed = nullptr;
  int64_t out_features() const {
    return packed != nullptr ? packed->out_features() : weight.size(0);
  }
};

struct LoraUse {
  double scale = 0.0;
  double dropout = 0.0;  // on the adapter's input; 0 unless training
  uint64_t seed = 0;     // of the dropout mask
};

// y_i = x W_i^T + bias_i + scale (dropout(x) A_i^T) B_i^T for layers that share
// one input; gradients only for what requires them.
std::vector<at::Tensor> LinearGroup(Kernels kernels, const at::Tensor& x,
                                    const std::vector<LinearParts>& layers,
                                    const LoraUse& lora);

// {x + delta, rms_norm(x + delta) * weight}; delta may be undefined.
std::pair<at::Tensor, at::Tensor> AddRmsNorm(Kernels kernels,
                                             const at::Tensor& x,
                                             const at::Tensor& delta,
                                             const at::Tensor& weight,
                                             double epsilon);

at::Tensor SwiGlu(Kernels kernels, const at::Tensor& gate,
                  const at::Tensor& up);

// hidden head^T, float32 [rows, vocabulary]; a bfloat16 head is read back a
// block at a time where no gradient is wanted.
at::Tensor HeadLogits(const at::Tensor& hidden, const at::Tensor& head);

// weight * sum over rows of -log softmax(hidden head^T)[target], a float64
// scalar. Logits exist only a slice at a time. targets: int32 [rows] on the
// CPU. The head may be bfloat16 where hidden is float32; it then has no
// gradient.
at::Tensor LinearCrossEntropy(Kernels kernels, const at::Tensor& hidden,
                              const at::Tensor& head, const at::Tensor& targets,
                              double weight);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRANSFORMER_OPS_H_
