// A decoder-only Transformer of any family that model_config.h describes, with
// adapters on any of its linear layers.
#ifndef CHOIR_MODEL_TRANSFORMER_DECODER_H_
#define CHOIR_MODEL_TRANSFORMER_DECODER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/checkpoint/families.h"
#include "model/checkpoint/model_config.h"
#include "model/torch/compat.h"
#include "model/transformer/linear.h"
#include "model/transformer/lora_runs.h"
#include "model/transformer/mlp_channels.h"
#include "model/transformer/moe.h"
#include "model/transformer/ops.h"
#include "model/transformer/rotary.h"
#include "proto/codec/layout.h"

namespace choir::model {

struct NormWeights {
  at::Tensor weight;  // [width]
  at::Tensor bias;    // [width]; undefined for an RMS norm
};

struct BlockWeights {
  NormWeights input_norm, post_norm;
  at::Tensor q_norm, k_norm;  // undefined without them
  at::Tensor router;          // [experts held, hidden]; undefined if dense
  // In the order of LinearLayers(config).
  std::vector<Linear> linear;
};

struct DecoderWeights {
  // [vocabulary, hidden]; may be bfloat16 on the CPU too, where the model
  // computes in float32 all the same.
  at::Tensor embedding;
  at::Tensor positions;  // [max_positions, hidden]; undefined if rotary
  std::vector<BlockWeights> blocks;
  NormWeights norm;
  at::Tensor head;   // [vocabulary, hidden]; may be the embedding itself
  at::Tensor score;  // a classifier's head [labels, hidden]; or undefined
};

// Collects the weights, block by block; `find` returns the tensor of one of
// ModelTensors(config), in the shape that a checkpoint stores.
using FindTensor =
    std::function<absl::StatusOr<at::Tensor>(const codec::TensorSpec& spec)>;
// `pack` returns the weight of a linear layer in few bits, or null for a dense
// one, which `find` is then asked for; unset: all are dense.
using PackLinear =
    std::function<absl::StatusOr<std::shared_ptr<const PackedWeight>>(
        const LinearSpec& linear)>;
absl::StatusOr<DecoderWeights> CollectWeights(const ModelConfig& config,
                                              const FindTensor& find,
                                              const PackLinear& pack = nullptr);

// Sequences side by side without padding, and what is to be predicted.
struct PackedBatch {
  at::Tensor ids;         // int64 [tokens], where the model is
  SequenceStarts starts;  // num_sequences + 1
  at::Tensor rows;     // int64 [predictions]: token that predicts; undefined:
                       // all of them
  at::Tensor targets;  // int32 [predictions], CPU
  int64_t predictions = 0;
};

struct ForwardOptions {
  const LoraBank* lora = nullptr;
  // Many plain LoRA adapters in one pass, instead of `lora`; its seeds instead
  // of `dropout_seed`. Not for models with experts.
  const AdapterRows* bank = nullptr;
  double dropout = 0.0;  // on the adapters' inputs
  uint64_t dropout_seed = 0;
  Kernels kernels = Kernels::kFused;
  AttentionMethod attention;
  // Mixture of experts; each may be null. The log is filled anew.
  RouterLog* router_log = nullptr;
  const RouterBias* router_bias = nullptr;
  // Of dense feed-forward layers; each may be null. Activity is added to.
  const MlpChannels* channels = nullptr;
  ChannelActivity* activity = nullptr;
  // Keep only what enters each block and compute it again for the gradient.
  // What the pointers above point at must then live until the gradients have
  // been computed.
  bool checkpointing = false;
  // Make normed inputs and activations of the MLP again for the gradient
  // instead of keeping them: about a third less is kept for about a twentieth
  // more time. Fused kernels only; elsewhere they are kept.
  bool lean = false;
};

// Keys and values of the tokens so far, one sequence.
struct KvCache {
  std::vector<at::Tensor> keys, values;  // [capacity, kv_heads * head_dim]
  int64_t length = 0;
};

// Threads: safe; the weights are shared and never written.
class Decoder {
 public:
  Decoder(const ModelConfig& config, DecoderWeights weights);

  const ModelConfig& config() const { return config_; }
  const DecoderWeights& weights() const { return weights_; }
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
  at::Tensor Decode(absl::Span<const int32_t> ids,
                    const ForwardOptions& options, KvCache& cache) const;

 private:
  using Attend =
      std::function<at::Tensor(size_t block, const at::Tensor& q,
                               const at::Tensor& k, const at::Tensor& v)>;
  // What one pass shares among its blocks.
  struct Pass {
    ForwardOptions options;
    Attend attend;
    at::Tensor rows;  // to go on with after the last attention; or undefined
    // With a bank: the adapters of all tokens, and those of `rows`.
    std::vector<AdapterRun> token_runs, row_runs;
  };
  // The residual stream is x + delta; delta is undefined before block 0.
  struct Stream {
    at::Tensor x, delta;
  };

  at::Tensor Blocks(const at::Tensor& ids, const at::Tensor& positions,
                    const at::Tensor& rows, const ForwardOptions& options,
                    const Attend& attend) const;
  Stream Block(size_t b, Stream in, const Pass& pass) const;
  Stream CheckpointedBlock(size_t b, Stream in,
                           const std::shared_ptr<const Pass>& pass) const;
  // Lets `normed`, which `output` was computed from, be made again from the
  // residual stream's `sum` for the gradient instead of being kept, if
  // options.lean.
  at::Tensor ForgetNormed(const at::Tensor& normed, const at::Tensor& sum,
                          const NormWeights& norm, const at::Tensor& output,
                          const Pass& pass) const;
  at::Tensor Attention(size_t b, const at::Tensor& sum,
                       const at::Tensor& normed, const Pass& pass) const;
  at::Tensor Mlp(size_t b, const at::Tensor& sum, const at::Tensor& normed,
                 const Pass& pass) const;
  at::Tensor Experts(size_t b, const at::Tensor& normed,
                     const Pass& pass) const;
  // Outputs of `count` linear layers of block b from the `first` on.
  std::vector<at::Tensor> Apply(size_t b, size_t first, size_t count,
                                const at::Tensor& x, int group,
                                const Pass& pass) const;
  // The same for layers of block b wherever they are.
  std::vector<at::Tensor> ApplyUses(size_t b,
                                    absl::Span<const LinearUse> layers,
                                    const at::Tensor& x, int group,
                                    const Pass& pass) const;
  // The same with options.bank's adapters.
  std::vector<at::Tensor> ApplyRuns(size_t b,
                                    absl::Span<const LinearUse> layers,
                                    const at::Tensor& x, int group,
                                    const Pass& pass) const;
  std::pair<at::Tensor, at::Tensor> AddNorm(const Stream& in,
                                            const NormWeights& norm,
                                            Kernels kernels) const;
  at::Tensor CachedAttention(size_t block, const at::Tensor& q,
                             const at::Tensor& k, const at::Tensor& v,
                             const ForwardOptions& options,
                             KvCache& cache) const;
  AttentionSizes SizesOf(size_t block) const;

  const ModelConfig config_;
  const DecoderWeights weights_;
  const RotaryTable rotary_;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRANSFORMER_DECODER_H_
