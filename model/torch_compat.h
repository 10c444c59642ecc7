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

// softmax(q k^T / sqrt(d)) v with a causal mask.
// Shapes: [batch, heads, tokens, head_dim], the same number of heads for all.
// With more keys than queries, the last queries keys are the queries' own.
inline at::Tensor CausalAttentionWithPast(const at::Tensor& q,
                                          const at::Tensor& k,
                                          const at::Tensor& v) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(-1)));
  at::Tensor scores = at::matmul(q * scale, k.transpose(-2, -1));
  const int64_t queries = q.size(-2);
  const int64_t keys = k.size(-2);
  const at::Tensor hidden =
      at::ones({queries, keys}, q.options().dtype(at::kBool))
          .triu(keys - queries + 1);
  scores = scores.masked_fill(hidden, -INFINITY);
  return at::matmul(at::softmax(scores, -1, at::kFloat).to(v.scalar_type()), v);
}

// The same for as many keys as queries.
inline at::Tensor CausalSdpa(const at::Tensor& q, const at::Tensor& k,
                             const at::Tensor& v) {
#if TORCH_VERSION_MAJOR >= 2
  if (q.is_cuda()) {
    return at::scaled_dot_product_attention(q, k, v, {}, 0.0, true);
  }
#endif
  return CausalAttentionWithPast(q, k, v);
}

inline bool CudaAvailable() { return at::hasCUDA(); }

}  // namespace choir::model::compat

#endif  // CHOIR_MODEL_TORCH_COMPAT_H_
