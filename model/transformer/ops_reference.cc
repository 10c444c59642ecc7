// The operations of ops.h in LibTorch's own terms: for CUDA, and what the fused
// kernels are tested against.
#include "model/transformer/ops_reference.h"

#include "model/transformer/cpu_kernels.h"

namespace choir::model {

std::vector<at::Tensor> LinearGroupReference(
    const at::Tensor& x, const std::vector<LinearParts>& layers,
    const LoraUse& lora) {
  at::Tensor dropped = x;
  if (lora.dropout > 0.0) {
    // The mask is made where it is the same for every device.
    at::Tensor mask = at::ones(x.sizes(), at::kFloat);
    Dropout(mask.data_ptr<float>(), mask.numel(), lora.dropout, lora.seed,
            mask.data_ptr<float>());
    dropped = x * mask.to(x.device(), x.scalar_type());
  }
  std::vector<at::Tensor> outputs;
  for (const LinearParts& layer : layers) {
    at::Tensor y = layer.packed != nullptr
                       ? PackedMatMul(x, *layer.packed)
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
  const at::Tensor nll = -at::log_softmax(logits, -1)
                              .gather(1, wide.unsqueeze(1));
  return nll.to(at::kDouble).sum() * weight;
}

}  // namespace choir::model
