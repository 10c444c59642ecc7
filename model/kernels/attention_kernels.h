// Causal attention on one CPU thread. Plain pointers, no LibTorch.
//
// Shapes: row-major float32; one sequence at a time.
// Threads: safe on distinct outputs. Results depend on the arguments alone, for
// one kind of processor.
#ifndef CHOIR_MODEL_KERNELS_ATTENTION_KERNELS_H_
#define CHOIR_MODEL_KERNELS_ATTENTION_KERNELS_H_

#include <cstdint>
#include <vector>

namespace choir::model {

struct AttentionShape {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t queries = 0;  // of one sequence
  int64_t keys = 0;     // >= queries; the last queries keys are their own
  int64_t window = 0;   // position i sees i - window + 1 to i; 0: 0 to i
};

// Causal grouped-query attention of one sequence. q, out: [queries, heads *
// head_dim]; k, v: [keys, kv_heads * head_dim]; log_sum [queries, heads] is the
// logarithm of the softmax's denominator. Scores are never kept: memory is one
// block of them, 64 rows of all keys.
// Source: Dao et al., "FlashAttention" (2022), for the backward recomputation.
void CausalAttention(const AttentionShape& shape, const float* q,
                     const float* k, const float* v, float* out,
                     float* log_sum);

// grad_q, grad_k and grad_v are added to. queries == keys.
void CausalAttentionBackward(const AttentionShape& shape, const float* grad_out,
                             const float* q, const float* k, const float* v,
                             const float* out, const float* log_sum,
                             float* grad_q, float* grad_k, float* grad_v);

// Which blocks of keys a block of queries looks at, besides what causality and
// the window hide. Sequences are cut into blocks of `block` positions; queries
// in block b see block c <= b if c < global_blocks (the beginning of the text),
// b - c < local_blocks (what is near), or c % stride == stride - 1 (a summary
// now and then; stride 0: none).
// Source: Child et al., "Generating Long Sequences with Sparse Transformers"
//         (2019), local and strided; Zaheer et al., "Big Bird" (2020), global.
struct BlockPattern {
  int64_t block = 64;
  int64_t local_blocks = 4;
  int64_t global_blocks = 1;
  int64_t stride = 8;
  bool Sees(int64_t query_block, int64_t key_block) const;
};

// Attention that takes keys a chunk at a time and keeps only the running
// maximum and sum of each row (online softmax), so that work space does not
// depend on the length of the sequence. `pattern` may be null: all keys.
// Source: Liu et al., "Ring Attention with Blockwise Transformers" (2023):
//         chunks of keys and values visit each block of queries in turn.
struct TiledAttentionPlan {
  int64_t key_chunk = 512;
  const BlockPattern* pattern = nullptr;
};
void TiledAttention(const AttentionShape& shape, const TiledAttentionPlan& plan,
                    const float* q, const float* k, const float* v, float* out,
                    float* log_sum);
void TiledAttentionBackward(const AttentionShape& shape,
                            const TiledAttentionPlan& plan,
                            const float* grad_out, const float* q,
                            const float* k, const float* v, const float* out,
                            const float* log_sum, float* grad_q, float* grad_k,
                            float* grad_v);

// Keys [begin, end) taken together.
struct KeyTile {
  int64_t begin = 0;
  int64_t end = 0;
};
// The tiles that queries at positions [first, first + rows) look at, in order;
// rows must lie within one block of the pattern.
std::vector<KeyTile> VisibleTiles(const TiledAttentionPlan& plan,
                                  int64_t window, int64_t first, int64_t rows);

}  // namespace choir::model

#endif  // CHOIR_MODEL_KERNELS_ATTENTION_KERNELS_H_
