// The operations of ops.h in LibTorch's own terms: for what ops_device.h
// leaves out (dropout, weights in training), and what both are tested against.
#include "model/transformer/ops_reference.h"

#include <algorithm>

#include "model/transformer/ops_device.h"

namespace choir::model {

std::vector<at::Tensor> LinearGroupReference(
    const at::Tensor& x, const std::vector<LinearParts>& layers,
    const LoraUse& lora) {
  at::Tensor dropped = x;
  const bool adapted =
      std::any_of(layers.begin(), layers.end(),
                  [](const LinearParts& p) { return p.lora_a.defined(); });
  if (lora.dropout > 0.0 && adapted) {
    dropped = x * DropoutMask(x.sizes(), lora.dropout, lora.seed, x.device())
                      .to(x.scalar_type());
  }
  std::vector<at::Tensor> outputs;
  for (const LinearParts& layer : layers) {
    at::Tensor y = layer.packed != nullptr ? PackedMatMul(x, *layer.packed)
                                           : at::matmul(x, layer.weight.t());
    if (layer.bias.defined()) y = y + layer.bias;
    if (layer.lora_a.defined()) {
      const at::Tensor u =
          at::matmul(dropped, layer.lora_a.to(x.scalar_type()).t());
      y = y + at::matmul(u, layer.lora_b.to(x.scalar_type()).t()) * lora.scale;
    }
    outputs.push_back(y);
  }
  return outputs;
}

std::pair<at::Tensor, at::Tensor> AddRmsNormReference(const at::Tensor& x,
                                                      const at::Tensor& delta,
                                                      const at::Tensor& weight,
                                                      double epsilon) {
  const at::Tensor sum = delta.defined() ? x + delta : x;
  const at::Tensor wide = sum.to(at::kFloat);
  const at::Tensor inverse =
      at::rsqrt(wide.pow(2).mean({-1}, /*keepdim=*/true) + epsilon);
  return {sum, (wide * inverse).to(x.scalar_type()) * weight};
}

at::Tensor LinearCrossEntropyReference(const at::Tensor& hidden,
                                       const at::Tensor& head,
                                       const at::Tensor& targets,
                                       double weight) {
  const at::Tensor logits = HeadLogits(hidden, head);
  const at::Tensor wide = targets.to(hidden.device(), at::kLong);
  const at::Tensor nll =
      -at::log_softmax(logits, -1).gather(1, wide.unsqueeze(1));
  return nll.to(at::kDouble).sum() * weight;
}

}  // namespace choir::model
