// What config.json of a Hugging Face model folder says about a model's shape.
//
// One structure describes every family: a decoder block is a norm, attention,
// a norm and an MLP (or experts), and the families differ in the values below.
// families.h says which tensors follow from them.
#ifndef CHOIR_MODEL_CHECKPOINT_MODEL_CONFIG_H_
#define CHOIR_MODEL_CHECKPOINT_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace choir::model {

enum class Family {
  kGpt2,
  kLlama,
  kMistral,
  kQwen2,
  kQwen3,
  kMixtral,
  kOlmoe,
  kQwen3Moe,
};

// As model_type of config.json has it: "gpt2", "llama", ..., "qwen3_moe".
absl::string_view FamilyName(Family family);
// "GPT2LMHeadModel", "LlamaForCausalLM", ...
absl::string_view ArchitectureName(Family family);

enum class NormKind {
  kRms,    // x / rms(x) * weight
  kLayer,  // (x - mean) / stddev * weight + bias
};

enum class Positions {
  kRotary,   // queries and keys are rotated
  kLearned,  // a table is added to the embeddings
};

// A norm of queries and keys before their rotation.
enum class QkNorm {
  kNone,
  kPerHead,  // over head_dim, one weight for all heads (Qwen3)
  kWhole,    // over all heads together (OLMoE)
};

enum class Activation { kSilu, kGeluTanh, kGelu, kRelu };

enum class RopeScalingKind { kNone, kLinear, kLlama3 };

struct RopeScaling {
  RopeScalingKind kind = RopeScalingKind::kNone;
  double factor = 1.0;
  // Only kLlama3:
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  int64_t original_max_positions = 0;
};

// Mixture of experts in place of a block's MLP.
struct MoeConfig {
  int64_t num_experts = 0;  // 0: every block is dense
  int64_t experts_per_token = 0;
  int64_t intermediate_size = 0;  // of one expert
  // A token's weights are the softmax over all experts, of which the largest
  // experts_per_token are kept; true: made to sum to 1 (which equals a softmax
  // over the kept ones).
  bool renormalise = true;
  // config.json's own wish for the load-balancing loss in training, and its
  // coefficient; the training options may say otherwise.
  bool aux_loss = false;
  double aux_loss_coefficient = 0.001;
  // Experts that this process holds, ascending; empty: all. Set by who loads a
  // model, never by config.json: routing is then restricted to them.
  std::vector<int64_t> held;

  // Experts held, their ids in order.
  std::vector<int64_t> HeldExperts() const;
};

// A decoder-only Transformer. An object from ParseModelConfig is valid: every
// size is positive and they fit each other. The defaults are a Llama's.
struct ModelConfig {
  Family family = Family::kLlama;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;  // of a dense MLP
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;  // usually hidden_size / num_heads
  int64_t max_positions = 0;

  NormKind norm = NormKind::kRms;
  double norm_eps = 1e-6;
  Positions positions = Positions::kRotary;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  QkNorm qk_norm = QkNorm::kNone;
  double clip_qkv = 0.0;     // queries, keys, values within +-this; 0: off
  bool qkv_bias = false;     // q, k, v have biases
  bool output_bias = false;  // the attention's output layer has one
  bool fused_qkv = false;    // one layer makes q, k and v (GPT-2's c_attn)
  // Attention scores are divided by sqrt(head_dim), and by a block's number
  // (from 1) as well; GPT-2 has switches for both.
  bool scale_attention = true;
  bool scale_by_layer = false;
  bool mlp_bias = false;  // the MLP's layers have biases
  bool gated_mlp = true;  // act(gate(x)) * up(x); else act(up(x))
  Activation activation = Activation::kSilu;
  // A token sees so many tokens, itself included; 0: all before it.
  int64_t sliding_window = 0;
  // Blocks whose attention slides, one bool a block; empty: all of them if
  // sliding_window is set.
  std::vector<bool> sliding_layers;
  MoeConfig moe;
  // Blocks that are dense in a model with experts, one bool a block; empty:
  // none is.
  std::vector<bool> dense_layers;
  bool tie_word_embeddings = false;
  // Of a ...ForSequenceClassification: outputs of its head "score", which is
  // there instead of the language model's (that one is then called tied), and
  // their names (config.json's id2label). 0: a language model.
  int64_t num_labels = 0;
  std::vector<std::string> labels;

  int32_t bos_token_id = -1;  // -1: not given
  std::vector<int32_t> eos_token_ids;
  std::string torch_dtype = "float32";  // "bfloat16", ...: as stored

  // The window of one block; 0: none.
  int64_t WindowOf(int64_t layer) const;
  // What one block's attention scores are multiplied with beside
  // 1 / sqrt(head_dim); mostly 1.
  double ScoreFactor(int64_t layer) const;
  // True if the block has experts.
  bool IsMoe(int64_t layer) const;
  // Number of parameters, with a tied head counted once (and, with
  // moe.held, those held).
  int64_t num_parameters() const;
  // Of these, the ones a token passes through: experts_per_token experts.
  int64_t num_active_parameters() const;
};

// The name in config.json: a classifier's is not the family's.
std::string ArchitectureName(const ModelConfig& config);

// Errors: INVALID_ARGUMENT, one message that names `source` and lists
// everything that is wrong: a missing or impossible value, another
// architecture (with those known), an activation or rope scaling that Choir
// does not compute.
absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view json_text,
                                             absl::string_view source);
// Reads `path`, and generation_config.json beside it if it is there.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& path);
// What generation_config.json says over config.json: the tokens that end a
// text. Errors: INVALID_ARGUMENT naming `source`.
absl::Status ApplyGenerationConfig(absl::string_view json_text,
                                   absl::string_view source,
                                   ModelConfig& config);

// config.json text that ParseModelConfig and Hugging Face read back.
std::string ModelConfigJson(const ModelConfig& config);

// OK, or INVALID_ARGUMENT saying why this process cannot hold just `experts` of
// the model: one that does not exist or is named twice, or no experts at all.
// Sets config.moe.held.
absl::Status HoldExperts(const std::vector<int64_t>& experts,
                         ModelConfig& config);

}  // namespace choir::model

#endif  // CHOIR_MODEL_CHECKPOINT_MODEL_CONFIG_H_
