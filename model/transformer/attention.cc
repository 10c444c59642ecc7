#include "model/transformer/attention.h"

#include <algorithm>

#include "base/check.h"
#include "model/kernels/cpu_kernels.h"
#include "model/transformer/attention_blockwise.h"

namespace choir::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// Sequences up to here may keep all scores (kAuto).
constexpr int64_t kMaxScores = 2048;

const float* Data(const at::Tensor& x) { return x.data_ptr<float>(); }
float* Mutable(const at::Tensor& x) { return x.data_ptr<float>(); }

at::Tensor NewFloats(at::IntArrayRef sizes) {
  return at::empty(sizes, at::TensorOptions().dtype(at::kFloat));
}

// What an autograd node keeps of sizes and method.
std::vector<int64_t> Pack(const AttentionSizes& sizes, AttentionKind kind,
                          const AttentionMethod& method) {
  return {sizes.heads,
          sizes.kv_heads,
          sizes.head_dim,
          sizes.window,
          static_cast<int64_t>(kind),
          method.chunk,
          method.pattern.block,
          method.pattern.local_blocks,
          method.pattern.global_blocks,
          method.pattern.stride};
}

struct Settings {
  explicit Settings(const std::vector<int64_t>& s)
      : shape{s[0], s[1], s[2], 0, 0, s[3]},
        kind(static_cast<AttentionKind>(s[4])),
        pattern{s[6], s[7], s[8], s[9]} {
    plan.key_chunk = s[5];
    if (kind == AttentionKind::kBlockSparse) plan.pattern = &pattern;
  }
  Settings(const Settings&) = delete;
  AttentionShape shape;
  AttentionKind kind;
  BlockPattern pattern;
  TiledAttentionPlan plan;
};

void Forward(const Settings& settings, const AttentionShape& shape,
             const float* q, const float* k, const float* v, float* out,
             float* log_sum) {
  if (settings.kind == AttentionKind::kExact) {
    CausalAttention(shape, q, k, v, out, log_sum);
  } else {
    TiledAttention(shape, settings.plan, q, k, v, out, log_sum);
  }
}

// x with every sequence rotated from position 0 on; x itself if there is
// nothing to rotate by.
at::Tensor RotatePacked(const at::Tensor& x, const at::Tensor& cosine,
                        const at::Tensor& sine, at::IntArrayRef starts,
                        int64_t heads, float sign) {
  if (cosine.numel() == 0) return x;
  const at::Tensor out = NewFloats(x.sizes());
  const int64_t width = x.size(1);
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    const int64_t at = starts[i] * width;
    Rotate(Data(x) + at, Data(cosine), Data(sine), 0, starts[i + 1] - starts[i],
           heads, width / heads, sign, Mutable(out) + at);
  }
  return out;
}

class RotaryAttentionFn : public Function<RotaryAttentionFn> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q,
                            const at::Tensor& k, const at::Tensor& v,
                            const at::Tensor& cosine, const at::Tensor& sine,
                            const std::vector<int64_t>& starts,
                            const std::vector<int64_t>& packed) {
    const Settings settings(packed);
    AttentionShape shape = settings.shape;
    const at::Tensor qr =
        RotatePacked(q, cosine, sine, starts, shape.heads, 1.0f);
    const at::Tensor kr =
        RotatePacked(k, cosine, sine, starts, shape.kv_heads, 1.0f);
    const at::Tensor out = NewFloats(q.sizes());
    const at::Tensor log_sum = NewFloats({q.size(0), shape.heads});
    const int64_t ldq = q.size(1);
    const int64_t ldk = k.size(1);
    for (size_t i = 0; i + 1 < starts.size(); ++i) {
      const int64_t s = starts[i];
      shape.queries = shape.keys = starts[i + 1] - s;
      Forward(settings, shape, Data(qr) + s * ldq, Data(kr) + s * ldk,
              Data(v) + s * ldk, Mutable(out) + s * ldq,
              Mutable(log_sum) + s * shape.heads);
    }
    ctx->save_for_backward({qr, kr, v, out, log_sum, cosine, sine});
    ctx->saved_data["starts"] = starts;
    ctx->saved_data["settings"] = packed;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& qr = saved[0];
    const at::Tensor& kr = saved[1];
    const at::Tensor& v = saved[2];
    const std::vector<int64_t> starts = ctx->saved_data["starts"].toIntVector();
    const Settings settings(ctx->saved_data["settings"].toIntVector());
    AttentionShape shape = settings.shape;
    const at::Tensor grad = grads[0].contiguous();
    const at::Tensor grad_q = at::zeros(qr.sizes(), at::kFloat);
    const at::Tensor grad_k = at::zeros(kr.sizes(), at::kFloat);
    const at::Tensor grad_v = at::zeros(v.sizes(), at::kFloat);
    const int64_t ldq = qr.size(1);
    const int64_t ldk = kr.size(1);
    for (size_t i = 0; i + 1 < starts.size(); ++i) {
      const int64_t s = starts[i];
      shape.queries = shape.keys = starts[i + 1] - s;
      TiledAttentionPlan plan = settings.plan;
      if (settings.kind == AttentionKind::kExact) plan.key_chunk = shape.keys;
      TiledAttentionBackward(
          shape, plan, Data(grad) + s * ldq, Data(qr) + s * ldq,
          Data(kr) + s * ldk, Data(v) + s * ldk, Data(saved[3]) + s * ldq,
          Data(saved[4]) + s * shape.heads, Mutable(grad_q) + s * ldq,
          Mutable(grad_k) + s * ldk, Mutable(grad_v) + s * ldk);
    }
    return {
        RotatePacked(grad_q, saved[5], saved[6], starts, shape.heads, -1.0f),
        RotatePacked(grad_k, saved[5], saved[6], starts, shape.kv_heads, -1.0f),
        grad_v,
        at::Tensor(),
        at::Tensor(),
        at::Tensor(),
        at::Tensor()};
  }
};

at::Tensor CachedFused(const at::Tensor& q, const at::Tensor& k,
                       const at::Tensor& cosine, const at::Tensor& sine,
                       const KvSlot& slot, const AttentionSizes& sizes,
                       const AttentionMethod& method) {
  const int64_t tokens = q.size(0);
  float* new_keys = Mutable(slot.keys) + slot.length * k.size(1);
  at::Tensor qr = q;
  if (cosine.defined()) {
    qr = NewFloats(q.sizes());
    Rotate(Data(q), Data(cosine), Data(sine), slot.length, tokens, sizes.heads,
           sizes.head_dim, 1.0f, Mutable(qr));
    Rotate(Data(k), Data(cosine), Data(sine), slot.length, tokens,
           sizes.kv_heads, sizes.head_dim, 1.0f, new_keys);
  } else {
    std::copy(Data(k), Data(k) + k.numel(), new_keys);
  }
  const AttentionKind kind = method.kind == AttentionKind::kBlockSparse
                                 ? AttentionKind::kBlockSparse
                                 : AttentionKind::kExact;
  const Settings settings(Pack(sizes, kind, method));
  AttentionShape shape = settings.shape;
  shape.queries = tokens;
  shape.keys = slot.length + tokens;
  const at::Tensor out = NewFloats(q.sizes());
  const at::Tensor log_sum = NewFloats({tokens, sizes.heads});
  Forward(settings, shape, Data(qr), Data(slot.keys), Data(slot.values),
          Mutable(out), Mutable(log_sum));
  return out;
}

}  // namespace

AttentionKind ChooseAttention(const AttentionMethod& method, Kernels kernels,
                              const at::Tensor& q, int64_t longest,
                              int64_t window) {
  if (method.kind != AttentionKind::kAuto) return method.kind;
  if (UseFused(kernels, q) || longest <= kMaxScores) {
    return AttentionKind::kExact;  // never keeps more than a block of scores
  }
  const bool windowed = window > 0 && window < longest;
  return compat::HasFusedAttention(q) && !windowed ? AttentionKind::kExact
                                                   : AttentionKind::kBlockwise;
}

at::Tensor RotaryAttention(Kernels kernels, const at::Tensor& q,
                           const at::Tensor& k, const at::Tensor& v,
                           const at::Tensor& cosine, const at::Tensor& sine,
                           const SequenceStarts& starts,
                           const AttentionSizes& sizes,
                           const AttentionMethod& method,
                           const SequencePlan* plan) {
  if (!UseFused(kernels, q)) {
    SequencePlan made;
    if (plan == nullptr) made = PlanSequences(starts, cosine, sine, q.device());
    return RotaryAttentionReference(q, k, v, plan == nullptr ? made : *plan,
                                    sizes, method, kernels);
  }
  int64_t longest = 0;
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    longest = std::max(longest, starts[i + 1] - starts[i]);
  }
  const AttentionKind kind =
      ChooseAttention(method, kernels, q, longest, sizes.window);
  // An autograd node takes only tensors that are defined.
  const at::Tensor none = cosine.defined() ? cosine : NewFloats({0});
  return RotaryAttentionFn::apply(
      q.contiguous(), k.contiguous(), v.contiguous(), none,
      sine.defined() ? sine : none, starts, Pack(sizes, kind, method));
}

at::Tensor CachedRotaryAttention(Kernels kernels, const at::Tensor& q,
                                 const at::Tensor& k, const at::Tensor& v,
                                 const at::Tensor& cosine,
                                 const at::Tensor& sine, const KvSlot& slot,
                                 const AttentionSizes& sizes,
                                 const AttentionMethod& method) {
  const int64_t tokens = q.size(0);
  const int64_t total = slot.length + tokens;
  CHOIR_CHECK(total <= slot.keys.size(0));
  slot.values.narrow(0, slot.length, tokens).copy_(v);
  if (UseFused(kernels, q)) {
    return CachedFused(q.contiguous(), k.contiguous(), cosine, sine, slot,
                       sizes, method);
  }
  at::Tensor qr = q;
  at::Tensor kr = k;
  if (cosine.defined()) {
    const at::Tensor positions =
        at::arange(slot.length, total,
                   at::TensorOptions().dtype(at::kLong).device(q.device()));
    qr = RotateReference(q, cosine, sine, positions, sizes.heads);
    kr = RotateReference(k, cosine, sine, positions, sizes.kv_heads);
  }
  slot.keys.narrow(0, slot.length, tokens).copy_(kr);
  const auto split = [&](const at::Tensor& x, int64_t heads) {
    return x.view({1, x.size(0), heads, sizes.head_dim}).transpose(1, 2);
  };
  BlockwiseOptions options;
  options.chunk = std::max<int64_t>(method.chunk, 1024);
  options.window = sizes.window;
  options.sparse = method.kind == AttentionKind::kBlockSparse;
  options.pattern = method.pattern;
  return BlockwiseAttention(
             split(qr, sizes.heads),
             split(slot.keys.narrow(0, 0, total), sizes.kv_heads),
             split(slot.values.narrow(0, 0, total), sizes.kv_heads), options)
      .transpose(1, 2)
      .reshape({tokens, sizes.heads * sizes.head_dim});
}

}  // namespace choir::model
