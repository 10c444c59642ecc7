// What config.json of a Hugging Face model folder says about a model's shape.
#ifndef CHOIR_MODEL_CHECKPOINT_MODEL_CONFIG_H_
#define CHOIR_MODEL_CHECKPOINT_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace choir::model {

enum class RopeScalingKind { kNone, kLinear, kLlama3 };

struct RopeScaling {
  RopeScalingKind kind = RopeScalingKind::kNone;
  double factor = 1.0;
  // Only kLlama3:
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  int64_t original_max_positions = 0;
};

// A decoder-only Transformer in the Llama shape. An object from
// ParseModelConfig is valid: every size is positive and they fit each other.
struct ModelConfig {
  std::string architecture = "LlamaForCausalLM";
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;  // usually hidden_size / num_heads
  int64_t max_positions = 0;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  bool tie_word_embeddings = false;
  bool attention_bias = false;  // q, k, v and o have biases
  bool mlp_bias = false;        // gate, up and down have biases
  std::string hidden_act = "silu";
  int32_t bos_token_id = -1;  // -1: not given
  std::vector<int32_t> eos_token_ids;
  std::string torch_dtype = "float32";  // "bfloat16", ...: as stored

  // Number of parameters, with a tied head counted once.
  int64_t num_parameters() const;
};

// Errors: INVALID_ARGUMENT, one message that names `source` and lists
// everything that is wrong: a missing or impossible value, another
// architecture, an activation or rope scaling that Choir does not compute.
absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view json_text,
                                             absl::string_view source);
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& path);

// config.json text that ParseModelConfig and Hugging Face read back.
std::string ModelConfigJson(const ModelConfig& config);

// One adaptable linear layer: y = W x (+ b), W of shape [out, in].
struct LinearSpec {
  std::string module;  // "model.layers.0.self_attn.q_proj"
  std::string kind;    // last part: "q_proj"
  int64_t layer = 0;
  int64_t in_features = 0;
  int64_t out_features = 0;
  bool bias = false;
};

// Every linear layer inside the decoder blocks, layer by layer, in the order
// q, k, v, o, gate, up, down.
std::vector<LinearSpec> LinearLayers(const ModelConfig& config);
// "down_proj", "gate_proj", ...: sorted.
const std::vector<std::string>& LinearKinds();

}  // namespace choir::model

#endif  // CHOIR_MODEL_CHECKPOINT_MODEL_CONFIG_H_
