// Causal self-attention over packed sequences, with and without rotary
// positions, in training and in decoding; and the choice of kernel for it.
//
// Shapes:  tokens of all sequences are packed: q is [tokens, heads * head_dim],
//          k and v are [tokens, kv_heads * head_dim].
// Threads: safe on distinct tensors.
#ifndef CHOIR_MODEL_TRANSFORMER_ATTENTION_H_
#define CHOIR_MODEL_TRANSFORMER_ATTENTION_H_

#include <cstdint>
#include <vector>

#include "model/kernels/attention_kernels.h"
#include "model/torch/compat.h"
#include "model/transformer/kernels.h"

namespace choir::model {

// Where sequences begin in the packed tokens: num_sequences + 1 values.
using SequenceStarts = std::vector<int64_t>;

struct AttentionSizes {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  // Position i sees positions i - window + 1 to i, as Hugging Face's sliding
  // window does; 0: all positions up to i.
  int64_t window = 0;
};

// kAuto: exact, unless its kernel here would keep all scores of a long
//   sequence; then blockwise, which gives the same numbers but for rounding.
// kExact: softmax over whole rows. On CUDA LibTorch's own fused kernel, where
//   its version has one; on the CPU in float32 Choir's.
// kBlockwise: chunks of keys with an online softmax; memory grows linearly
//   with the length of a sequence, for every device.
// kBlockSparse: `pattern` hides blocks of keys. Another function than the
//   others for sequences longer than its local blocks.
enum class AttentionKind { kAuto, kExact, kBlockwise, kBlockSparse };

struct AttentionMethod {
  AttentionKind kind = AttentionKind::kAuto;
  int64_t chunk = 512;   // of kBlockwise: queries and keys taken at a time
  BlockPattern pattern;  // of kBlockSparse
};

// What kAuto becomes for the longest of the sequences.
AttentionKind ChooseAttention(const AttentionMethod& method, Kernels kernels,
                              const at::Tensor& q, int64_t longest,
                              int64_t window);

// What attention by LibTorch's operations needs to know of the sequences, where
// the tokens are; the same for all blocks of a pass.
struct SequencePlan {
  int64_t batch = 0;
  int64_t longest = 0;
  bool whole = false;    // all are equally long: nothing to pad
  at::Tensor pad;        // int64 [batch * longest]: token in each slot
  at::Tensor unpad;      // int64 [tokens]: slot of each token
  at::Tensor positions;  // int64 [tokens]: of each in its sequence
  // Of each token, float32 [tokens, 1, head_dim / 2]; or undefined.
  at::Tensor cosine, sine;
};
SequencePlan PlanSequences(const SequenceStarts& starts,
                           const at::Tensor& cosine, const at::Tensor& sine,
                           at::Device device);

// Rotary position embedding, then causal attention within each sequence.
// cosine, sine: float32 [positions, head_dim / 2]; undefined: no rotation.
// `plan` may be null; then it is made, where it is needed.
at::Tensor RotaryAttention(Kernels kernels, const at::Tensor& q,
                           const at::Tensor& k, const at::Tensor& v,
                           const at::Tensor& cosine, const at::Tensor& sine,
                           const SequenceStarts& starts,
                           const AttentionSizes& sizes,
                           const AttentionMethod& method = {},
                           const SequencePlan* plan = nullptr);

// Keys (rotated) and values of one block, so far: [capacity, kv_heads *
// head_dim], of which `length` are filled.
struct KvSlot {
  at::Tensor keys, values;
  int64_t length = 0;
};

// Attention of the next tokens of one sequence, whose keys and values are
// appended to slot; length is left for the caller to move. No gradients.
// Computed exactly, but for kBlockSparse.
at::Tensor CachedRotaryAttention(Kernels kernels, const at::Tensor& q,
                                 const at::Tensor& k, const at::Tensor& v,
                                 const at::Tensor& cosine,
                                 const at::Tensor& sine, const KvSlot& slot,
                                 const AttentionSizes& sizes,
                                 const AttentionMethod& method = {});

// Rotation alone, for `x` [tokens, heads * head_dim] at the given positions
// (int64 [tokens]), by LibTorch's operations.
at::Tensor RotateReference(const at::Tensor& x, const at::Tensor& cosine,
                           const at::Tensor& sine, const at::Tensor& positions,
                           int64_t heads);

// RotaryAttention by LibTorch's operations. With Kernels::kFused the rotation
// is one autograd node.
at::Tensor RotaryAttentionReference(const at::Tensor& q, const at::Tensor& k,
                                    const at::Tensor& v,
                                    const SequencePlan& plan,
                                    const AttentionSizes& sizes,
                                    const AttentionMethod& method = {},
                                    Kernels kernels = Kernels::kReference);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRANSFORMER_ATTENTION_H_
