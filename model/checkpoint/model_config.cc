#include "model/checkpoint/model_config.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/files.h"
#include "base/json_text.h"
#include "base/status_macros.h"
#include "model/checkpoint/config_reader.h"
#include "model/checkpoint/rope_config.h"

namespace choir::model {
namespace {

using nlohmann::json;

struct FamilyFacts {
  Family family;
  const char* type;
  const char* architecture;
  // What Hugging Face assumes where config.json is silent.
  int64_t max_positions;
  int64_t kv_heads;  // 0: as many as heads
  double norm_eps;
  double rope_theta;
  int64_t num_experts;  // 0: no experts
};

constexpr FamilyFacts kFamilies[] = {
    {Family::kGpt2, "gpt2", "GPT2LMHeadModel", 1024, 0, 1e-5, 1e4, 0},
    {Family::kLlama, "llama", "LlamaForCausalLM", 2048, 0, 1e-6, 1e4, 0},
    {Family::kMistral, "mistral", "MistralForCausalLM", 131072, 8, 1e-6, 1e4,
     0},
    {Family::kQwen2, "qwen2", "Qwen2ForCausalLM", 32768, 32, 1e-6, 1e4, 0},
    {Family::kQwen3, "qwen3", "Qwen3ForCausalLM", 32768, 32, 1e-6, 1e4, 0},
    {Family::kMixtral, "mixtral", "MixtralForCausalLM", 131072, 8, 1e-5, 1e6,
     8},
    {Family::kOlmoe, "olmoe", "OlmoeForCausalLM", 4096, 0, 1e-5, 1e4, 64},
    {Family::kQwen3Moe, "qwen3_moe", "Qwen3MoeForCausalLM", 32768, 4, 1e-6, 1e4,
     128},
};

const FamilyFacts& FactsOf(Family family) {
  return kFamilies[static_cast<int>(family)];
}

std::string KnownArchitectures() {
  return absl::StrJoin(kFamilies, ", ",
                       [](std::string* out, const FamilyFacts& facts) {
                         absl::StrAppend(out, facts.architecture);
                       });
}

// "LlamaModel": a model that was saved without its language-model head.
std::string HeadlessName(absl::string_view architecture) {
  if (!absl::ConsumeSuffix(&architecture, "LMHeadModel")) {
    absl::ConsumeSuffix(&architecture, "ForCausalLM");
  }
  return absl::StrCat(architecture, "Model");
}

// "LlamaForSequenceClassification": a model with a classifier's head.
constexpr int64_t kMostLabels = 1 << 20;
constexpr char kClassifierSuffix[] = "ForSequenceClassification";

std::string ClassifierName(absl::string_view architecture) {
  if (!absl::ConsumeSuffix(&architecture, "LMHeadModel")) {
    absl::ConsumeSuffix(&architecture, "ForCausalLM");
  }
  return absl::StrCat(architecture, kClassifierSuffix);
}

bool IsClassifier(const json& document) {
  const auto list = document.find("architectures");
  return list != document.end() && list->is_array() && list->size() == 1 &&
         (*list)[0].is_string() &&
         absl::EndsWith((*list)[0].get<std::string>(), kClassifierSuffix);
}

// {"0": "bad", "1": "good"}; Hugging Face leaves out two labels without names.
void ReadLabels(const json& document, ConfigReader& reader,
                ModelConfig& config) {
  const std::string type = reader.Text("problem_type", "");
  if (!type.empty() && type != "single_label_classification") {
    reader.Complain(
        "problem_type",
        absl::StrCat("is '", type, "'; known is single_label_classification"));
  }
  config.tie_word_embeddings = true;
  config.num_labels = reader.OptionalSize("num_labels", 2, kMostLabels);
  const auto found = document.find("id2label");
  if (found == document.end() || found->is_null()) return;
  bool good = found->is_object() && !found->empty() &&
              found->size() <= static_cast<size_t>(kMostLabels);
  for (size_t i = 0; good && i < found->size(); ++i) {
    const auto label = found->find(std::to_string(i));
    good = label != found->end() && label->is_string();
    if (good) config.labels.push_back(label->get<std::string>());
  }
  if (!good) {
    reader.Complain("id2label", "does not name the labels 0, 1, ..");
    return;
  }
  config.num_labels = static_cast<int64_t>(config.labels.size());
}

// transformers goes by the model type where it has both: a folder whose two
// names disagree is another model there.
void CheckModelType(const FamilyFacts& facts, const std::string& architecture,
                    ConfigReader& reader) {
  const std::string type = reader.Text("model_type", facts.type);
  if (type.empty() || type == facts.type) return;
  std::string other;
  for (const FamilyFacts& one : kFamilies) {
    if (type == one.type) {
      other = absl::StrCat(", or architectures to ", one.architecture);
    }
  }
  reader.Complain(
      "model_type",
      absl::StrCat("is '", type, "', but architectures names ", architecture,
                   ", which is of model_type '", facts.type,
                   "'; correct the one that is wrong (model_type to ",
                   facts.type, other, ")"));
}

// The family, or null after a complaint.
const FamilyFacts* FindFamily(const json& document, ConfigReader& reader) {
  const auto list = document.find("architectures");
  if (list != document.end() && list->is_array() && list->size() == 1 &&
      (*list)[0].is_string()) {
    const std::string name = (*list)[0].get<std::string>();
    for (const FamilyFacts& facts : kFamilies) {
      if (name == facts.architecture ||
          name == HeadlessName(facts.architecture) ||
          name == ClassifierName(facts.architecture)) {
        CheckModelType(facts, name, reader);
        return &facts;
      }
    }
    reader.Complain("architectures", absl::StrCat("is '", name, "'; known are ",
                                                  KnownArchitectures()));
    return nullptr;
  }
  // Without it, the model type decides.
  const std::string type = reader.Text("model_type", "");
  for (const FamilyFacts& facts : kFamilies) {
    if (type == facts.type) return &facts;
  }
  reader.Complain("architectures",
                  absl::StrCat("does not name one architecture; known are ",
                               KnownArchitectures()));
  return nullptr;
}

Activation ReadActivation(ConfigReader& reader, const char* key,
                          const char* fallback, bool gated) {
  const std::string name = reader.Text(key, fallback);
  if (gated) {
    if (name != "silu" && name != "swish") {
      reader.Complain(key, absl::StrCat("is '", name, "'; known is silu"));
    }
    return Activation::kSilu;
  }
  for (const char* tanh : {"gelu_new", "gelu_pytorch_tanh", "gelu_fast",
                           "gelu_accurate", "gelu_python_tanh"}) {
    if (name == tanh) return Activation::kGeluTanh;
  }
  if (name == "gelu" || name == "gelu_python") return Activation::kGelu;
  if (name == "relu") return Activation::kRelu;
  if (name == "silu" || name == "swish") return Activation::kSilu;
  reader.Complain(key, absl::StrCat("is '", name,
                                    "'; known are gelu_new, gelu, relu, silu"));
  return Activation::kGeluTanh;
}

// Hugging Face's layer_types, or `first` and later blocks.
void ReadSlidingLayers(const json& document, ConfigReader& reader,
                       int64_t first, ModelConfig& config) {
  config.sliding_layers.assign(config.num_layers, false);
  for (int64_t i = first; i < config.num_layers; ++i) {
    config.sliding_layers[i] = true;
  }
  if (reader.Has("layer_types") && reader.sizes_known()) {
    const json& types = document["layer_types"];
    bool good = types.is_array() &&
                static_cast<int64_t>(types.size()) == config.num_layers;
    for (size_t i = 0; good && i < types.size(); ++i) {
      good = types[i] == "sliding_attention" || types[i] == "full_attention";
      config.sliding_layers[i] = good && types[i] == "sliding_attention";
    }
    if (!good) {
      reader.Complain("layer_types",
                      "is not a list of sliding_attention and full_attention, "
                      "one for each layer");
    }
  }
  const auto& layers = config.sliding_layers;
  const bool any =
      std::find(layers.begin(), layers.end(), true) != layers.end();
  const bool all =
      std::find(layers.begin(), layers.end(), false) == layers.end();
  if (!any) config.sliding_window = 0;
  if (!any || all) config.sliding_layers.clear();
}

void ReadWindow(const json& document, ConfigReader& reader,
                ModelConfig& config) {
  const bool qwen = config.family == Family::kQwen2 ||
                    config.family == Family::kQwen3 ||
                    config.family == Family::kQwen3Moe;
  if (qwen) {
    if (!reader.Flag("use_sliding_window", false)) return;
    // null means none; an absent one is Hugging Face's default.
    if (document.contains("sliding_window") && !reader.Has("sliding_window")) {
      return;
    }
    config.sliding_window = reader.OptionalSize("sliding_window", 4096);
    if (config.family == Family::kQwen3Moe) return;  // all its blocks slide
    ReadSlidingLayers(
        document, reader,
        reader.OptionalCount("max_window_layers", 28, kLargestSize), config);
  } else if (config.family == Family::kMistral) {
    if (document.contains("sliding_window") && !reader.Has("sliding_window")) {
      return;
    }
    config.sliding_window = reader.OptionalSize("sliding_window", 4096);
  } else if (config.family == Family::kMixtral) {
    config.sliding_window = reader.OptionalSize("sliding_window", 0);
  }
}

void ReadMoe(const FamilyFacts& facts, ConfigReader& reader,
             ModelConfig& config) {
  MoeConfig& moe = config.moe;
  const bool mixtral = config.family == Family::kMixtral;
  const char* count = "num_experts";
  if (mixtral || !reader.Has(count)) count = "num_local_experts";
  if (!mixtral && !reader.Has(count)) count = "num_experts";
  moe.num_experts = reader.OptionalSize(count, facts.num_experts, 1 << 12);
  moe.experts_per_token =
      reader.OptionalSize("num_experts_per_tok", mixtral ? 2 : 8, kLargestSize);
  if (reader.sizes_known() && moe.experts_per_token > moe.num_experts) {
    reader.Complain(
        "num_experts_per_tok",
        absl::StrCat("is ", moe.experts_per_token,
                     ", above the number of experts ", moe.num_experts));
  }
  moe.intermediate_size = config.intermediate_size;
  moe.aux_loss = reader.Flag("output_router_logits", false);
  const double coefficient = config.family == Family::kOlmoe ? 0.01 : 0.001;
  moe.aux_loss_coefficient =
      reader.NotNegative("router_aux_loss_coef", coefficient);
  if (mixtral) return;
  moe.renormalise = reader.Flag("norm_topk_prob", false);
  if (config.family != Family::kQwen3Moe) return;
  moe.intermediate_size = reader.OptionalSize("moe_intermediate_size", 768);
  const int64_t step =
      reader.OptionalSize("decoder_sparse_step", 1, kLargestSize);
  std::vector<bool> dense(config.num_layers, false);
  for (int64_t i = 0; i < config.num_layers; ++i) {
    dense[i] = (i + 1) % step != 0;
  }
  if (reader.sizes_known()) {
    for (const int64_t i :
         reader.Indices("mlp_only_layers", config.num_layers)) {
      dense[i] = true;
    }
  }
  if (std::find(dense.begin(), dense.end(), true) != dense.end()) {
    config.dense_layers = std::move(dense);
  }
}

void CheckShape(const ModelConfig& config, ConfigReader& reader) {
  if (!reader.sizes_known()) return;
  if (config.num_heads % config.num_kv_heads != 0) {
    reader.Complain("num_attention_heads",
                    absl::StrCat("is ", config.num_heads,
                                 ", not a multiple of num_key_value_heads ",
                                 config.num_kv_heads));
  }
  if (config.head_dim % 2 != 0) {
    reader.Complain("head_dim",
                    absl::StrCat("is ", config.head_dim,
                                 "; rotary positions need an even one"));
  }
}

void CheckHeads(ConfigReader& reader, const char* width, const char* heads,
                const ModelConfig& config) {
  if (!reader.sizes_known() || config.hidden_size % config.num_heads == 0) {
    return;
  }
  reader.Complain(
      width, absl::StrCat("is ", config.hidden_size, ", not a multiple of ",
                          heads, " ", config.num_heads));
}

void ReadGpt2(ConfigReader& reader, ModelConfig& config) {
  config.hidden_size =
      reader.Size(reader.Has("hidden_size") ? "hidden_size" : "n_embd");
  config.num_layers = reader.Size(
      reader.Has("num_hidden_layers") ? "num_hidden_layers" : "n_layer",
      kMostLayers);
  config.num_heads = reader.Size(
      reader.Has("num_attention_heads") ? "num_attention_heads" : "n_head");
  config.num_kv_heads = config.num_heads;
  config.intermediate_size =
      reader.OptionalSize("n_inner", 4 * config.hidden_size);
  config.max_positions = reader.OptionalSize(
      reader.Has("n_positions") ? "n_positions" : "max_position_embeddings",
      config.max_positions);
  CheckHeads(reader, "n_embd", "n_head", config);
  config.head_dim = std::max<int64_t>(1, config.hidden_size / config.num_heads);
  config.norm = NormKind::kLayer;
  config.norm_eps = reader.Positive("layer_norm_epsilon", config.norm_eps);
  config.positions = Positions::kLearned;
  config.qkv_bias = config.output_bias = config.mlp_bias = true;
  config.fused_qkv = true;
  config.gated_mlp = false;
  config.activation =
      ReadActivation(reader, "activation_function", "gelu_new", false);
  config.scale_attention = reader.Flag("scale_attn_weights", true);
  config.scale_by_layer = reader.Flag("scale_attn_by_inverse_layer_idx", false);
  if (reader.Flag("add_cross_attention", false)) {
    reader.Complain("add_cross_attention", "is true; known is false");
  }
}

void ReadLlamaLike(const json& document, const FamilyFacts& facts,
                   ConfigReader& reader, ModelConfig& config) {
  config.hidden_size = reader.Size("hidden_size");
  config.intermediate_size = reader.Size("intermediate_size");
  config.num_layers = reader.Size("num_hidden_layers", kMostLayers);
  config.num_heads = reader.Size("num_attention_heads");
  config.num_kv_heads = reader.OptionalSize(
      "num_key_value_heads",
      facts.kv_heads > 0 && !document.contains("num_key_value_heads")
          ? facts.kv_heads
          : config.num_heads);
  config.max_positions =
      reader.OptionalSize("max_position_embeddings", config.max_positions);
  int64_t head_dim = config.hidden_size / config.num_heads;
  if (config.family == Family::kQwen3 && !document.contains("head_dim")) {
    head_dim = 128;
  } else if (!reader.Has("head_dim")) {
    CheckHeads(reader, "hidden_size", "num_attention_heads", config);
  }
  config.head_dim =
      reader.OptionalSize("head_dim", std::max<int64_t>(1, head_dim));
  config.norm_eps = reader.Positive("rms_norm_eps", config.norm_eps);
  ReadRope(document, reader, config);
  ReadActivation(reader, "hidden_act", "silu", true);
  switch (config.family) {
    case Family::kQwen2:
      config.qkv_bias = true;
      break;
    case Family::kMistral:
    case Family::kMixtral:
      break;
    default:
      config.qkv_bias = config.output_bias =
          reader.Flag("attention_bias", false);
  }
  if (config.family == Family::kLlama) {
    config.mlp_bias = reader.Flag("mlp_bias", false);
  }
  if (config.family == Family::kQwen3 || config.family == Family::kQwen3Moe) {
    config.qk_norm = QkNorm::kPerHead;
  } else if (config.family == Family::kOlmoe) {
    config.qk_norm = QkNorm::kWhole;
    config.clip_qkv = reader.Positive("clip_qkv", 0.0);
  }
  ReadWindow(document, reader, config);
  if (config.family == Family::kMixtral || config.family == Family::kOlmoe ||
      config.family == Family::kQwen3Moe) {
    ReadMoe(facts, reader, config);
  }
}

// `missing` with what to do about a folder that has no config.json.
absl::Status NoModel(const std::string& path, const absl::Status& missing) {
  const std::string folder = path.substr(0, path.rfind('/') + 1);
  const char* remedy =
      "give the folder of a Hugging Face model, with config.json, "
      "tokenizer.json and *.safetensors";
  if (base::FileExists(base::JoinPath(folder, "adapter_config.json"))) {
    remedy =
        "the folder holds a PEFT adapter: give it as the adapter (--adapter) "
        "and its base model's folder as the model";
  }
  return absl::Status(missing.code(),
                      absl::StrCat(missing.message(), "; ", remedy));
}

}  // namespace

absl::string_view FamilyName(Family family) { return FactsOf(family).type; }

absl::string_view ArchitectureName(Family family) {
  return FactsOf(family).architecture;
}

std::string ArchitectureName(const ModelConfig& config) {
  const std::string name(ArchitectureName(config.family));
  return config.num_labels > 0 ? ClassifierName(name) : name;
}

std::vector<int64_t> MoeConfig::HeldExperts() const {
  if (!held.empty()) return held;
  std::vector<int64_t> all(num_experts);
  for (int64_t i = 0; i < num_experts; ++i) all[i] = i;
  return all;
}

int64_t ModelConfig::WindowOf(int64_t layer) const {
  if (!sliding_layers.empty() && !sliding_layers[layer]) return 0;
  return sliding_window;
}

double ModelConfig::ScoreFactor(int64_t layer) const {
  const double base =
      scale_attention ? 1.0 : std::sqrt(static_cast<double>(head_dim));
  return scale_by_layer ? base / static_cast<double>(layer + 1) : base;
}

bool ModelConfig::IsMoe(int64_t layer) const {
  return moe.num_experts > 0 && (dense_layers.empty() || !dense_layers[layer]);
}

absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view json_text,
                                             absl::string_view source) {
  CHOIR_ASSIGN_OR_RETURN(
      const json document,
      base::ParseJsonObject(json_text, source, base::JsonLimits()));
  ConfigReader reader(document);
  const FamilyFacts* known = FindFamily(document, reader);
  // Of an unknown family, the values that most have are checked all the same.
  const FamilyFacts& facts =
      known != nullptr ? *known : FactsOf(Family::kLlama);
  ModelConfig config;
  config.family = facts.family;
  config.max_positions = facts.max_positions;
  config.norm_eps = facts.norm_eps;
  config.rope_theta = facts.rope_theta;
  config.vocab_size = reader.Size("vocab_size");
  if (config.family == Family::kGpt2) {
    ReadGpt2(reader, config);
  } else {
    ReadLlamaLike(document, facts, reader, config);
  }
  config.tie_word_embeddings =
      reader.Flag("tie_word_embeddings", config.family == Family::kGpt2);
  if (IsClassifier(document)) ReadLabels(document, reader, config);
  config.torch_dtype =
      reader.Text(reader.Has("dtype") ? "dtype" : "torch_dtype", "float32");
  const std::vector<int32_t> bos = reader.TokenIds("bos_token_id");
  if (!bos.empty()) config.bos_token_id = bos.front();
  config.eos_token_ids = reader.TokenIds("eos_token_id");
  CheckShape(config, reader);
  if (!reader.problems().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": ", absl::StrJoin(reader.problems(), "; ")));
  }
  return config;
}

absl::Status ApplyGenerationConfig(absl::string_view json_text,
                                   absl::string_view source,
                                   ModelConfig& config) {
  CHOIR_ASSIGN_OR_RETURN(
      const json document,
      base::ParseJsonObject(json_text, source, base::JsonLimits()));
  ConfigReader reader(document);
  const std::vector<int32_t> eos = reader.TokenIds("eos_token_id");
  if (!reader.problems().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": ", absl::StrJoin(reader.problems(), "; ")));
  }
  if (reader.Has("eos_token_id")) config.eos_token_ids = eos;
  return absl::OkStatus();
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& path) {
  const absl::StatusOr<std::string> read =
      base::ReadFile(path, base::JsonLimits().max_bytes);
  if (absl::IsNotFound(read.status())) return NoModel(path, read.status());
  CHOIR_ASSIGN_OR_RETURN(const std::string text, read);
  CHOIR_ASSIGN_OR_RETURN(ModelConfig config, ParseModelConfig(text, path));
  const std::string beside = base::JoinPath(path.substr(0, path.rfind('/') + 1),
                                            "generation_config.json");
  if (!base::FileExists(beside)) return config;
  CHOIR_ASSIGN_OR_RETURN(const std::string generation,
                         base::ReadFile(beside, base::JsonLimits().max_bytes));
  CHOIR_RETURN_IF_ERROR(ApplyGenerationConfig(generation, beside, config));
  return config;
}

absl::Status HoldExperts(const std::vector<int64_t>& experts,
                         ModelConfig& config) {
  if (experts.empty()) {
    config.moe.held.clear();
    return absl::OkStatus();
  }
  if (config.moe.num_experts == 0) {
    return absl::InvalidArgumentError(
        "the model has no experts to hold a part of");
  }
  std::vector<int64_t> sorted = experts;
  std::sort(sorted.begin(), sorted.end());
  for (size_t i = 0; i < sorted.size(); ++i) {
    if (sorted[i] < 0 || sorted[i] >= config.moe.num_experts) {
      return absl::InvalidArgumentError(
          absl::StrCat("expert ", sorted[i], " does not exist; the model has ",
                       config.moe.num_experts, ", counted from 0"));
    }
    if (i > 0 && sorted[i] == sorted[i - 1]) {
      return absl::InvalidArgumentError(
          absl::StrCat("expert ", sorted[i], " is named twice"));
    }
  }
  if (static_cast<int64_t>(sorted.size()) == config.moe.num_experts) {
    sorted.clear();
  }
  config.moe.held = std::move(sorted);
  return absl::OkStatus();
}

}  // namespace choir::model
