// Which tensors a checkpoint of each family has: names, shapes, and what each
// linear layer is for. No LibTorch, no weights.
#ifndef CHOIR_MODEL_CHECKPOINT_FAMILIES_H_
#define CHOIR_MODEL_CHECKPOINT_FAMILIES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "model/checkpoint/model_config.h"
#include "proto/codec/layout.h"

namespace choir::model {

// What a linear layer does in its block.
enum class LinearRole {
  kQuery,
  kKey,
  kValue,
  kQkv,  // queries, keys, values in one (GPT-2)
  kOutput,
  kGate,
  kUp,  // also a plain MLP's first layer
  kDown,
};

// One adaptable linear layer: y = W x (+ b), W of shape [out, in].
struct LinearSpec {
  std::string module;  // "model.layers.0.self_attn.q_proj"
  std::string kind;    // last part: "q_proj"
  int64_t layer = 0;
  LinearRole role = LinearRole::kQuery;
  int64_t expert = -1;  // -1: not an expert's
  int64_t in_features = 0;
  int64_t out_features = 0;
  bool bias = false;
  bool transposed = false;  // a checkpoint stores [in, out] (GPT-2's Conv1D)
};

// Every linear layer inside the decoder blocks, block by block: q, k, v (or
// qkv), output, then (gate,) up, down, or those of one held expert after the
// other.
std::vector<LinearSpec> LinearLayers(const ModelConfig& config);
// The kinds that this model has, "down_proj", "gate_proj", ...: sorted.
std::vector<std::string> LinearKinds(const ModelConfig& config);
// Whether an adapter's target names this module: by its whole path or by the
// path's last parts ("q_proj", "attn.c_proj"), as PEFT matches.
bool TargetMatches(absl::string_view target, absl::string_view module);

// Names of the tensors that are not linear layers. A block's names take its
// number; those that the model does not have are empty.
struct TensorNames {
  std::string embedding, positions, norm, norm_bias, head;
  std::string score;  // a classifier's head
};
struct BlockTensorNames {
  std::string input_norm, input_norm_bias, post_norm, post_norm_bias;
  std::string q_norm, k_norm, router;
};
TensorNames ModelTensorNames(const ModelConfig& config);
BlockTensorNames BlockNames(const ModelConfig& config, int64_t layer);

// Every tensor of a model: name (Hugging Face's) and shape as a checkpoint
// stores it, sorted by name; a tied head is left out. With moe.held, only the
// held experts'.
std::vector<codec::TensorSpec> ModelTensors(const ModelConfig& config);

// A tensor that a checkpoint has.
struct StoredTensor {
  std::string name;
  std::vector<int64_t> shape;
};

// Compares what a checkpoint has with what the model needs.
//
// Accepted though not needed: what Hugging Face writes besides (rotary
// inv_freq and its like, GPT-2's attention masks, a tied head's copy), tensors
// of experts that are not held, and one missing prefix ("model." or
// "transformer.") of a headless checkpoint. Errors: INVALID_ARGUMENT naming
// `source`, one message that lists all missing, unexpected and misshaped
// tensors.
absl::Status CheckTensorTable(const ModelConfig& config,
                              absl::Span<const StoredTensor> stored,
                              absl::string_view source);

// "model." or "transformer.": what a checkpoint saved without its language
// model head leaves away from names.
absl::string_view NamePrefix(const ModelConfig& config);

}  // namespace choir::model

#endif  // CHOIR_MODEL_CHECKPOINT_FAMILIES_H_
