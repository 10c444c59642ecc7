// The operations of ops.h in LibTorch's own terms: for CUDA, and what the fused
// kernels are tested against.
#include "model/transformer/ops_reference.h"

#include <algorithm>

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
    at::Tensor y = at::matmul(x, layer.weight.t());
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

at::Tensor RotateReference(const at::Tensor& x, const at::Tensor& cosine,
                           const at::Tensor& sine, const at::Tensor& positions,
                           int64_t heads) {
  const at::Tensor c = cosine.index_select(0, positions).unsqueeze(1);
  const at::Tensor s = sine.index_select(0, positions).unsqueeze(1);
  const at::Tensor split =
      x.view({x.size(0), heads, -1}).to(at::kFloat);
  const int64_t half = split.size(2) / 2;
  const at::Tensor a = split.narrow(2, 0, half);
  const at::Tensor b = split.narrow(2, half, half);
  return at::cat({a * c - b * s, b * c + a * s}, 2)
      .reshape(x.sizes())
      .to(x.scalar_type());
}

at::Tensor RotaryAttentionReference(const at::Tensor& q, const at::Tensor& k,
                                    const at::Tensor& v,
                                    const at::Tensor& cosine,
                                    const at::Tensor& sine,
                                    const SequenceStarts& starts,
                                    const AttentionSizes& sizes) {
  // Sequences are padded on the right to one length for attention alone; the
  // causal mask keeps padding out of sight.
  const int64_t batch = static_cast<int64_t>(starts.size()) - 1;
  int64_t longest = 0;
  for (int64_t i = 0; i < batch; ++i) {
    longest = std::max(longest, starts[i + 1] - starts[i]);
  }
  at::Tensor pad = at::zeros({batch * longest}, at::kLong);
  at::Tensor unpad = at::empty({q.size(0)}, at::kLong);
  at::Tensor positions = at::empty({q.size(0)}, at::kLong);
  for (int64_t i = 0; i < batch; ++i) {
    for (int64_t t = starts[i]; t < starts[i + 1]; ++t) {
      const int64_t slot = i * longest + t - starts[i];
      pad.data_ptr<int64_t>()[slot] = t;
      unpad.data_ptr<int64_t>()[t] = slot;
      positions.data_ptr<int64_t>()[t] = t - starts[i];
    }
  }
  pad = pad.to(q.device());
  positions = positions.to(q.device());
  const int64_t group = sizes.heads / sizes.kv_heads;
  const auto spread = [&](const at::Tensor& x, int64_t heads) {
    at::Tensor y = x.index_select(0, pad)
                       .view({batch, longest, heads, sizes.head_dim})
                       .transpose(1, 2);
    return heads == sizes.heads ? y : y.repeat_interleave(group, 1);
  };
  const at::Tensor qr =
      RotateReference(q, cosine, sine, positions, sizes.heads);
  const at::Tensor kr =
      RotateReference(k, cosine, sine, positions, sizes.kv_heads);
  const at::Tensor out =
      compat::CausalSdpa(spread(qr, sizes.heads), spread(kr, sizes.kv_heads),
                         spread(v, sizes.kv_heads));
  return out.transpose(1, 2)
      .reshape({batch * longest, sizes.heads * sizes.head_dim})
      .index_select(0, unpad.to(q.device()));
}

at::Tensor LinearCrossEntropyReference(const at::Tensor& hidden,
                                       const at::Tensor& head,
                                       const at::Tensor& targets,
                                       double weight) {
  const at::Tensor logits = at::matmul(hidden, head.t()).to(at::kFloat);
  const at::Tensor wide = targets.to(hidden.device(), at::kLong);
  const at::Tensor nll = -at::log_softmax(logits, -1)
                              .gather(1, wide.unsqueeze(1));
  return nll.to(at::kDouble).sum() * weight;
}

}  // namespace choir::model
