// A decoder-only Transformer in the Llama shape: RMSNorm, rotary positions,
// grouped-query attention, SwiGLU; with LoRA on any of its linear layers.
//
// Source: Touvron et al., "LLaMA: Open and Efficient Foundation Language
//         Models" (2023); names and rotation as in Hugging Face.
#ifndef CHOIR_MODEL_TRANSFORMER_LLAMA_H_
#define CHOIR_MODEL_TRANSFORMER_LLAMA_H_

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "model/checkpoint/base_folder.h"
#include "model/checkpoint/model_config.h"
#include "model/torch_compat.h"
#include "model/transformer/ops.h"
#include "proto/codec/layout.h"

namespace choir::model {

// Order of the linear layers of a block, as in LinearLayers().
enum LinearSlot { kQ, kK, kV, kO, kGate, kUp, kDown, kNumSlots };

struct BlockWeights {
  at::Tensor input_norm, post_norm;
  std::array<LinearParts, kNumSlots> linear;  // without adapters
};

struct LlamaWeights {
  at::Tensor embedding;  // [vocabulary, hidden]
  std::vector<BlockWeights> blocks;
  at::Tensor norm;
  at::Tensor head;  // [vocabulary, hidden]; may be the embedding itself
};

// Collects the weights; `find` returns the tensor of a name.
using FindTensor =
    std::function<absl::StatusOr<at::Tensor>(const codec::TensorSpec& spec)>;
absl::StatusOr<LlamaWeights> CollectWeights(const ModelConfig& config,
                                            const FindTensor& find);

// A[rank, in] and B[out, rank] per block and slot; undefined: not adapted.
struct LoraBank {
  struct Pair {
    at::Tensor a, b;
  };
  std::vector<std::array<Pair, kNumSlots>> blocks;
  double scale = 0.0;
};

// Tensors of `layout` as detached views into `flat` (float32,
// layout.num_elements()): leaves that share its memory.
LoraBank BindLora(const ModelConfig& config, const codec::Layout& layout,
                  const at::Tensor& flat, double scale);

// Sequences side by side without padding, and what is to be predicted.
struct PackedBatch {
  at::Tensor ids;         // int64 [tokens], where the model is
  SequenceStarts starts;  // num_sequences + 1
  at::Tensor rows;        // int64 [predictions]: token that predicts; undefined:
                          // all of them
  at::Tensor targets;     // int32 [predictions], CPU
  int64_t predictions = 0;
};

struct ForwardOptions {
  const LoraBank* lora = nullptr;
  double dropout = 0.0;
  uint64_t dropout_seed = 0;
  Kernels kernels = Kernels::kFused;
};

// Keys and values of the tokens so far, one sequence.
struct KvCache {
  std::vector<at::Tensor> keys, values;  // [capacity, kv_heads * head_dim]
  int64_t length = 0;
};

// Threads: safe; the weights are shared and never written.
class Llama {
 public:
  Llama(const ModelConfig& config, LlamaWeights weights);

  const ModelConfig& config() const { return config_; }
  const LlamaWeights& weights() const { return weights_; }
  at::Device device() const { return weights_.embedding.device(); }

  // Final, normalised hidden states of the predicting tokens.
  at::Tensor Hidden(const PackedBatch& batch,
                    const ForwardOptions& options) const;
  // weight * sum of the losses of all predictions, float64 scalar.
  at::Tensor Loss(const PackedBatch& batch, const ForwardOptions& options,
                  double weight) const;
  // float32 [predicting tokens, vocabulary].
  at::Tensor Logits(const PackedBatch& batch,
                    const ForwardOptions& options) const;

  KvCache NewCache(int64_t capacity) const;
  // Appends `ids` to the cache and returns the logits after the last, float32
  // [vocabulary] on the CPU. No gradients.
  at::Tensor Decode(absl::Span<const int32_t> ids, const ForwardOptions& options,
                    KvCache& cache) const;

 private:
  using Attend = std::function<at::Tensor(size_t block, const at::Tensor& q,
                                          const at::Tensor& k,
                                          const at::Tensor& v)>;
  at::Tensor Blocks(const at::Tensor& ids, const at::Tensor& rows,
                    const ForwardOptions& options, const Attend& attend) const;
  at::Tensor CachedAttention(size_t block, const at::Tensor& q,
                             const at::Tensor& k, const at::Tensor& v,
                             Kernels kernels, KvCache& cache) const;

  ModelConfig config_;
  LlamaWeights weights_;
  AttentionSizes sizes_;
  at::Tensor cosine_, sine_;  // float32 [max_positions, head_dim / 2]
};

// Angular frequencies, head_dim / 2 of them, with the configured scaling.
std::vector<double> RotaryFrequencies(const ModelConfig& config);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRANSFORMER_LLAMA_H_
