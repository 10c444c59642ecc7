// config.json as Hugging Face writes it for each family.
#include "base/json_text.h"
#include "model/checkpoint/model_config.h"

namespace choir::model {
namespace {

using Json = nlohmann::ordered_json;

const char* ActivationName(Activation activation) {
  switch (activation) {
    case Activation::kSilu:
      return "silu";
    case Activation::kGeluTanh:
      return "gelu_new";
    case Activation::kGelu:
      return "gelu";
    case Activation::kRelu:
      return "relu";
  }
  return "";
}

Json RopeScalingJson(const RopeScaling& scaling) {
  switch (scaling.kind) {
    case RopeScalingKind::kNone:
      return nullptr;
    case RopeScalingKind::kLinear:
      return {{"rope_type", "linear"}, {"factor", scaling.factor}};
    case RopeScalingKind::kLlama3:
      return {
          {"rope_type", "llama3"},
          {"factor", scaling.factor},
          {"low_freq_factor", scaling.low_freq_factor},
          {"high_freq_factor", scaling.high_freq_factor},
          {"original_max_position_embeddings", scaling.original_max_positions}};
  }
  return nullptr;
}

void WriteGpt2(const ModelConfig& config, Json& out) {
  out["n_embd"] = config.hidden_size;
  out["n_inner"] = config.intermediate_size;
  out["n_layer"] = config.num_layers;
  out["n_head"] = config.num_heads;
  out["n_positions"] = config.max_positions;
  out["layer_norm_epsilon"] = config.norm_eps;
  out["activation_function"] = ActivationName(config.activation);
  if (!config.scale_attention) out["scale_attn_weights"] = false;
  if (config.scale_by_layer) out["scale_attn_by_inverse_layer_idx"] = true;
}

void WriteWindow(const ModelConfig& config, Json& out) {
  const Json window =
      config.sliding_window > 0 ? Json(config.sliding_window) : Json(nullptr);
  switch (config.family) {
    case Family::kMistral:
    case Family::kMixtral:
      out["sliding_window"] = window;
      return;
    case Family::kQwen2:
    case Family::kQwen3: {
      out["use_sliding_window"] = config.sliding_window > 0;
      out["sliding_window"] = window;
      if (config.sliding_window == 0) return;
      Json types = Json::array();
      for (int64_t i = 0; i < config.num_layers; ++i) {
        types.push_back(config.WindowOf(i) > 0 ? "sliding_attention"
                                               : "full_attention");
      }
      out["layer_types"] = types;
      return;
    }
    case Family::kQwen3Moe:
      out["use_sliding_window"] = config.sliding_window > 0;
      out["sliding_window"] = window;
      return;
    default:
      return;
  }
}

void WriteMoe(const ModelConfig& config, Json& out) {
  const MoeConfig& moe = config.moe;
  if (moe.num_experts == 0) return;
  out[config.family == Family::kMixtral ? "num_local_experts" : "num_experts"] =
      moe.num_experts;
  out["num_experts_per_tok"] = moe.experts_per_token;
  out["output_router_logits"] = moe.aux_loss;
  out["router_aux_loss_coef"] = moe.aux_loss_coefficient;
  if (config.family == Family::kMixtral) return;
  out["norm_topk_prob"] = moe.renormalise;
  if (config.family != Family::kQwen3Moe) return;
  out["moe_intermediate_size"] = moe.intermediate_size;
  out["decoder_sparse_step"] = 1;
  Json dense = Json::array();
  for (int64_t i = 0; i < config.num_layers; ++i) {
    if (!config.IsMoe(i)) dense.push_back(i);
  }
  out["mlp_only_layers"] = dense;
}

void WriteLlamaLike(const ModelConfig& config, Json& out) {
  out["hidden_size"] = config.hidden_size;
  out["intermediate_size"] = config.intermediate_size;
  out["num_hidden_layers"] = config.num_layers;
  out["num_attention_heads"] = config.num_heads;
  out["num_key_value_heads"] = config.num_kv_heads;
  out["head_dim"] = config.head_dim;
  out["max_position_embeddings"] = config.max_positions;
  out["rms_norm_eps"] = config.norm_eps;
  out["rope_theta"] = config.rope_theta;
  out["rope_scaling"] = RopeScalingJson(config.rope_scaling);
  out["hidden_act"] = ActivationName(config.activation);
  switch (config.family) {
    case Family::kQwen2:
    case Family::kMistral:
    case Family::kMixtral:
      break;
    default:
      out["attention_bias"] = config.output_bias;
  }
  if (config.family == Family::kLlama) out["mlp_bias"] = config.mlp_bias;
  if (config.family == Family::kOlmoe) {
    out["clip_qkv"] =
        config.clip_qkv > 0.0 ? Json(config.clip_qkv) : Json(nullptr);
  }
  WriteWindow(config, out);
  WriteMoe(config, out);
}

}  // namespace

std::string ModelConfigJson(const ModelConfig& config) {
  Json out;
  out["architectures"] = {ArchitectureName(config)};
  out["model_type"] = std::string(FamilyName(config.family));
  out["vocab_size"] = config.vocab_size;
  if (config.family == Family::kGpt2) {
    WriteGpt2(config, out);
  } else {
    WriteLlamaLike(config, out);
  }
  out["tie_word_embeddings"] = config.tie_word_embeddings;
  if (config.num_labels > 0) {
    for (int64_t i = 0; i < config.num_labels; ++i) {
      out["id2label"][std::to_string(i)] = config.labels.empty()
                                               ? "LABEL_" + std::to_string(i)
                                               : config.labels[i];
    }
  }
  if (config.bos_token_id >= 0) out["bos_token_id"] = config.bos_token_id;
  if (config.eos_token_ids.size() == 1) {
    out["eos_token_id"] = config.eos_token_ids[0];
  } else if (!config.eos_token_ids.empty()) {
    out["eos_token_id"] = config.eos_token_ids;
  }
  out["torch_dtype"] = config.torch_dtype;
  return out.dump(2) + "\n";
}

}  // namespace choir::model
