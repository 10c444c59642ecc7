// Every difference between the LibTorch versions that Choir compiles with
// (1.13 to 2.11), and the few headers of it that Choir needs.
#ifndef CHOIR_MODEL_TORCH_COMPAT_H_
#define CHOIR_MODEL_TORCH_COMPAT_H_

#include <cmath>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/version.h>

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

// softmax(q k^T / sqrt(d)) v with a causal mask; with `window` above 0, position
// i sees i - window + 1 to i.
// Shapes: [batch, heads, tokens, head_dim], the same number of heads for all.
inline at::Tensor CausalSdpa(const at::Tensor& q, const at::Tensor& k,
                             const at::Tensor& v, int64_t window) {
  const int64_t tokens = q.size(-2);
#if TORCH_VERSION_MAJOR >= 2
  if (q.is_cuda() && window <= 0) {
    return at::scaled_dot_product_attention(q, k, v, {}, 0.0, true);
  }
#endif
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(-1)));
  at::Tensor visible =
      at::ones({tokens, tokens}, q.options().dtype(at::kBool)).tril();
  if (window > 0) visible = visible.triu(1 - window);
#if TORCH_VERSION_MAJOR >= 2
  if (q.is_cuda()) {
    return at::scaled_dot_product_attention(q, k, v, visible, 0.0, false);
  }
#endif
  const at::Tensor scores = at::matmul(q * scale, k.transpose(-2, -1))
                                .masked_fill(visible.logical_not(), -INFINITY);
  return at::matmul(at::softmax(scores, -1, at::kFloat).to(v.scalar_type()), v);
}

inline bool CudaAvailable() { return at::hasCUDA(); }

}  // namespace choir::model::compat

#endif  // CHOIR_MODEL_TORCH_COMPAT_H_
