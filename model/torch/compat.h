// Every difference between the LibTorch versions that Choir compiles with
// (1.13 to 2.11), and the few headers of it that Choir needs.
#ifndef CHOIR_MODEL_TORCH_COMPAT_H_
#define CHOIR_MODEL_TORCH_COMPAT_H_

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/version.h>

#include <cmath>
#include <tuple>
#include <utility>

namespace choir::model::compat {

// True if LibTorch has a kernel for causal attention where `q` is that keeps no
// scores: memory linear in the length of a sequence.
inline bool HasFusedAttention(const at::Tensor& q) {
#if TORCH_VERSION_MAJOR >= 2
  return q.is_cuda();
#else
  (void)q;
  return false;
#endif
}

// Keys and values repeated for each of `heads` query heads, [batch, heads, ..].
inline at::Tensor SpreadHeads(const at::Tensor& x, int64_t heads) {
  const int64_t group = heads / x.size(1);
  return group == 1 ? x : x.repeat_interleave(group, 1);
}

// softmax(q k^T / sqrt(d)) v with a causal mask; with `window` above 0,
// position i sees i - window + 1 to i. Shapes: q [batch, heads, tokens,
// head_dim]; k and v may have fewer heads, which then serve groups of the
// queries'.
inline at::Tensor CausalSdpa(const at::Tensor& q, const at::Tensor& k,
                             const at::Tensor& v, int64_t window) {
  const int64_t tokens = q.size(-2);
  const int64_t heads = q.size(1);
#if TORCH_VERSION_MAJOR > 2 || \
    (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 5)
  // The kernels for half precision read shared heads where they are.
  if (q.is_cuda() && window <= 0 && k.size(1) != heads &&
      q.scalar_type() != at::kFloat) {
    return at::scaled_dot_product_attention(q, k, v, {}, 0.0, true, {}, true);
  }
#endif
#if TORCH_VERSION_MAJOR >= 2
  if (q.is_cuda() && window <= 0) {
    return at::scaled_dot_product_attention(
        q, SpreadHeads(k, heads), SpreadHeads(v, heads), {}, 0.0, true);
  }
#endif
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(-1)));
  at::Tensor visible =
      at::ones({tokens, tokens}, q.options().dtype(at::kBool)).tril();
  if (window > 0) visible = visible.triu(1 - window);
#if TORCH_VERSION_MAJOR >= 2
  if (q.is_cuda()) {
    return at::scaled_dot_product_attention(
        q, SpreadHeads(k, heads), SpreadHeads(v, heads), visible, 0.0, false);
  }
#endif
  const at::Tensor scores =
      at::matmul(q * scale, SpreadHeads(k, heads).transpose(-2, -1))
          .masked_fill(visible.logical_not(), -INFINITY);
  return at::matmul(at::softmax(scores, -1, at::kFloat).to(v.scalar_type()),
                    SpreadHeads(v, heads));
}

// x / rms(x) * weight over the last dimension, and what the gradient needs to
// know of each row. One kernel on CUDA where LibTorch has it.
inline std::pair<at::Tensor, at::Tensor> RmsNorm(const at::Tensor& x,
                                                 const at::Tensor& weight,
                                                 double epsilon) {
#if __has_include(<ATen/ops/_fused_rms_norm_backward.h>)
  if (x.is_cuda()) {
    const auto [out, inverse] =
        at::_fused_rms_norm(x, weight.sizes(), weight, epsilon);
    return {out, inverse};
  }
#endif
  at::Tensor wide = x.to(at::kFloat);
  const at::Tensor inverse =
      at::rsqrt(wide.square().mean({-1}, /*keepdim=*/true).add_(epsilon));
  return {(wide * inverse).mul_(weight).to(x.scalar_type()), inverse};
}

// Gradient of RmsNorm() for x, from that of its first result; `inverse` is the
// second.
inline at::Tensor RmsNormBackward(const at::Tensor& grad, const at::Tensor& x,
                                  const at::Tensor& inverse,
                                  const at::Tensor& weight) {
#if __has_include(<ATen/ops/_fused_rms_norm_backward.h>)
  if (x.is_cuda()) {
    return std::get<0>(at::_fused_rms_norm_backward(
        grad.contiguous(), x, weight.sizes(), inverse, weight, {true, false}));
  }
#endif
  const at::Tensor wide = x.to(at::kFloat) * inverse;
  at::Tensor out = grad.to(at::kFloat) * weight;
  const at::Tensor mean = (out * wide).mean({-1}, /*keepdim=*/true);
  return out.sub_(wide * mean).mul_(inverse).to(x.scalar_type());
}

inline bool CudaAvailable() { return at::hasCUDA(); }

}  // namespace choir::model::compat

#endif  // CHOIR_MODEL_TORCH_COMPAT_H_
