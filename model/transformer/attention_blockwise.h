// Attention by LibTorch's operations in memory that grows linearly with the
// length of a sequence, on every device and in every precision.
#ifndef CHOIR_MODEL_TRANSFORMER_ATTENTION_BLOCKWISE_H_
#define CHOIR_MODEL_TRANSFORMER_ATTENTION_BLOCKWISE_H_

#include <cstdint>

#include "model/kernels/attention_kernels.h"
#include "model/torch/compat.h"

namespace choir::model {

struct BlockwiseOptions {
  int64_t chunk = 512;  // queries taken at a time, and at most so many keys
  int64_t window = 0;   // as in AttentionSizes
  bool sparse = false;  // only what `pattern` sees
  BlockPattern pattern;
};

// Causal attention, differentiable. Each chunk of queries holds a running
// maximum, sum and output, and the chunks of keys and values that it sees visit
// it one after another; the backward pass computes the scores again, chunk by
// chunk. On one machine the ring is a loop.
//
// Shapes:  q [batch, heads, queries, head_dim]; k, v [batch, kv_heads, keys,
//          head_dim]; keys >= queries, and the last queries keys are the
//          queries' own (equal when gradients are wanted). The result is like
//          q. Sums are kept in float32.
// Source:  Liu et al., "Ring Attention with Blockwise Transformers" (2023);
//          Milakov and Gimelshein, "Online normalizer calculation" (2018).
at::Tensor BlockwiseAttention(const at::Tensor& q, const at::Tensor& k,
                              const at::Tensor& v,
                              const BlockwiseOptions& options);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRANSFORMER_ATTENTION_BLOCKWISE_H_
