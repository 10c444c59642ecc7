// Attention in LibTorch's own terms: for CUDA and bfloat16, and what the fused
// kernels are tested against.
#include <algorithm>

#include "model/transformer/attention.h"
#include "model/transformer/attention_blockwise.h"
#include "model/transformer/ops_device.h"

namespace choir::model {

// Sequences are padded on the right to one length; the causal mask keeps
// padding out of sight.
SequencePlan PlanSequences(const SequenceStarts& starts,
                           const at::Tensor& cosine, const at::Tensor& sine,
                           at::Device device) {
  SequencePlan p;
  p.batch = static_cast<int64_t>(starts.size()) - 1;
  for (int64_t i = 0; i < p.batch; ++i) {
    p.longest = std::max(p.longest, starts[i + 1] - starts[i]);
  }
  p.whole = p.batch * p.longest == starts.back();
  p.pad = at::zeros({p.batch * p.longest}, at::kLong);
  p.unpad = at::empty({starts.back()}, at::kLong);
  p.positions = at::empty({starts.back()}, at::kLong);
  for (int64_t i = 0; i < p.batch; ++i) {
    for (int64_t t = starts[i]; t < starts[i + 1]; ++t) {
      const int64_t slot = i * p.longest + t - starts[i];
      p.pad.data_ptr<int64_t>()[slot] = t;
      p.unpad.data_ptr<int64_t>()[t] = slot;
      p.positions.data_ptr<int64_t>()[t] = t - starts[i];
    }
  }
  p.pad = p.pad.to(device);
  p.unpad = p.unpad.to(device);
  p.positions = p.positions.to(device);
  if (cosine.defined()) {
    p.cosine = cosine.index_select(0, p.positions).unsqueeze(1);
    p.sine = sine.index_select(0, p.positions).unsqueeze(1);
  }
  return p;
}

namespace {

at::Tensor RotateByToken(const at::Tensor& x, const at::Tensor& c,
                         const at::Tensor& s, int64_t heads) {
  const at::Tensor split = x.view({x.size(0), heads, -1}).to(at::kFloat);
  const int64_t half = split.size(2) / 2;
  const at::Tensor a = split.narrow(2, 0, half);
  const at::Tensor b = split.narrow(2, half, half);
  return at::cat({a * c - b * s, b * c + a * s}, 2)
      .reshape(x.sizes())
      .to(x.scalar_type());
}

}  // namespace

at::Tensor RotateReference(const at::Tensor& x, const at::Tensor& cosine,
                           const at::Tensor& sine, const at::Tensor& positions,
                           int64_t heads) {
  return RotateByToken(x, cosine.index_select(0, positions).unsqueeze(1),
                       sine.index_select(0, positions).unsqueeze(1), heads);
}

at::Tensor RotaryAttentionReference(const at::Tensor& q, const at::Tensor& k,
                                    const at::Tensor& v, const SequencePlan& p,
                                    const AttentionSizes& sizes,
                                    const AttentionMethod& method,
                                    Kernels kernels) {
  const auto rotated = [&](const at::Tensor& x, int64_t heads) {
    if (!p.cosine.defined()) return x;
    return kernels == Kernels::kFused
               ? RotateDevice(x, p.cosine, p.sine, heads)
               : RotateByToken(x, p.cosine, p.sine, heads);
  };
  const auto split = [&](const at::Tensor& x, int64_t heads) {
    return (p.whole ? x : x.index_select(0, p.pad))
        .view({p.batch, p.longest, heads, sizes.head_dim})
        .transpose(1, 2);
  };
  const at::Tensor qs = split(rotated(q, sizes.heads), sizes.heads);
  const at::Tensor ks = split(rotated(k, sizes.kv_heads), sizes.kv_heads);
  const at::Tensor vs = split(v, sizes.kv_heads);
  const int64_t window = sizes.window < p.longest ? sizes.window : 0;
  const AttentionKind kind =
      ChooseAttention(method, Kernels::kReference, q, p.longest, sizes.window);
  at::Tensor out;
  if (kind == AttentionKind::kExact) {
    out = compat::CausalSdpa(qs, ks, vs, window);
  } else {
    BlockwiseOptions options;
    options.chunk = method.chunk;
    options.window = window;
    options.sparse = kind == AttentionKind::kBlockSparse;
    options.pattern = method.pattern;
    out = BlockwiseAttention(qs, ks, vs, options);
  }
  out = out.transpose(1, 2).reshape(
      {p.batch * p.longest, sizes.heads * sizes.head_dim});
  return p.whole ? out : out.index_select(0, p.unpad);
}

}  // namespace choir::model
