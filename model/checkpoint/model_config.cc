#include "model/checkpoint/model_config.h"

#include <cmath>
#include <initializer_list>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "model/checkpoint/json_text.h"

namespace choir::model {
namespace {

using nlohmann::json;

constexpr int64_t kLargestSize = int64_t{1} << 24;
constexpr int64_t kMostLayers = 4096;

// Reads values and collects everything that is wrong with them.
class Reader {
 public:
  explicit Reader(const json& document, std::string prefix = "")
      : document_(document), prefix_(std::move(prefix)) {}

  bool Has(const char* key) const {
    const auto found = document_.find(key);
    return found != document_.end() && !found->is_null();
  }

  int64_t Size(const char* key, int64_t most) {
    if (!Has(key)) {
      Complain(key, "is missing");
      return 1;
    }
    return OptionalSize(key, 1, most);
  }

  int64_t OptionalSize(const char* key, int64_t fallback, int64_t most) {
    if (!Has(key)) return fallback;
    const json& value = document_[key];
    if (!value.is_number_unsigned() || value.get<uint64_t>() < 1 ||
        value.get<uint64_t>() > static_cast<uint64_t>(most)) {
      Complain(key, absl::StrCat("is ", Short(value),
                                 ", not a whole number from 1 to ", most));
      return 1;
    }
    return value.get<int64_t>();
  }

  double Positive(const char* key, double fallback) {
    if (!Has(key)) return fallback;
    const json& value = document_[key];
    if (!value.is_number() || !std::isfinite(value.get<double>()) ||
        !(value.get<double>() > 0)) {
      Complain(key, absl::StrCat("is ", Short(value),
                                 ", not a positive finite number"));
      return fallback;
    }
    return value.get<double>();
  }

  bool Flag(const char* key, bool fallback) {
    if (!Has(key)) return fallback;
    if (!document_[key].is_boolean()) {
      Complain(key, absl::StrCat("is ", Short(document_[key]),
                                 ", not true or false"));
      return fallback;
    }
    return document_[key].get<bool>();
  }

  std::string Text(const char* key, const char* fallback) {
    if (!Has(key)) return fallback;
    if (!document_[key].is_string()) {
      Complain(key, absl::StrCat("is ", Short(document_[key]), ", not text"));
      return fallback;
    }
    return document_[key].get<std::string>();
  }

  // One id or a list of ids.
  std::vector<int32_t> TokenIds(const char* key) {
    std::vector<int32_t> ids;
    if (!Has(key)) return ids;
    const json& value = document_[key];
    const json list = value.is_array() ? value : json::array({value});
    for (const json& id : list) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() > kLargestSize) {
        Complain(key, absl::StrCat("is ", Short(value), ", not a token id"));
        return {};
      }
      ids.push_back(id.get<int32_t>());
    }
    return ids;
  }

  void Complain(const char* key, absl::string_view problem) {
    problems_.push_back(absl::StrCat(prefix_, key, " ", problem));
  }
  void Adopt(Reader& other) {
    for (std::string& problem : other.problems_) {
      problems_.push_back(std::move(problem));
    }
  }
  const std::vector<std::string>& problems() const { return problems_; }

 private:
  static std::string Short(const json& value) {
    std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
    if (text.size() > 60) text = absl::StrCat(text.substr(0, 57), "...");
    return text;
  }

  const json& document_;
  std::string prefix_;
  std::vector<std::string> problems_;
};

void ReadRopeScaling(const json& object, const char* name,
                     const ModelConfig& config, Reader& reader,
                     RopeScaling& scaling) {
  if (!object.is_object()) {
    reader.Complain(name, "is not a JSON object");
    return;
  }
  Reader rope(object, absl::StrCat(name, "."));
  const char* key = rope.Has("rope_type") ? "rope_type" : "type";
  const std::string type = rope.Text(key, "default");
  if (type == "linear") {
    scaling.kind = RopeScalingKind::kLinear;
    scaling.factor = rope.Positive("factor", 1.0);
  } else if (type == "llama3") {
    scaling.kind = RopeScalingKind::kLlama3;
    scaling.factor = rope.Positive("factor", 1.0);
    scaling.low_freq_factor = rope.Positive("low_freq_factor", 1.0);
    scaling.high_freq_factor = rope.Positive("high_freq_factor", 4.0);
    scaling.original_max_positions =
        rope.OptionalSize("original_max_position_embeddings",
                          config.max_positions, kLargestSize);
    if (scaling.high_freq_factor <= scaling.low_freq_factor) {
      rope.Complain("high_freq_factor", "must be above low_freq_factor");
    }
  } else if (type != "default") {
    rope.Complain(key, absl::StrCat("is '", type,
                                    "'; known are default, linear, llama3"));
  }
  if (type != "default" && !rope.Has("factor")) {
    rope.Complain("factor", "is missing");
  }
  reader.Adopt(rope);
}

void ReadRope(const json& document, Reader& reader, ModelConfig& config) {
  config.rope_theta = reader.Positive("rope_theta", config.rope_theta);
  // Newer files keep theta and scaling together in rope_parameters.
  if (reader.Has("rope_parameters")) {
    const json& parameters = document["rope_parameters"];
    ReadRopeScaling(parameters, "rope_parameters", config, reader,
                    config.rope_scaling);
    if (parameters.is_object()) {
      Reader rope(parameters, "rope_parameters.");
      config.rope_theta = rope.Positive("rope_theta", config.rope_theta);
      reader.Adopt(rope);
    }
  } else if (reader.Has("rope_scaling")) {
    ReadRopeScaling(document["rope_scaling"], "rope_scaling", config, reader,
                    config.rope_scaling);
  }
}

void CheckArchitecture(const json& document, Reader& reader) {
  const auto list = document.find("architectures");
  if (list != document.end() && list->is_array() && list->size() == 1 &&
      (*list)[0].is_string()) {
    const std::string name = (*list)[0].get<std::string>();
    if (name != "LlamaForCausalLM") {
      reader.Complain("architectures", absl::StrCat("is '", name,
                                                    "'; known is "
                                                    "LlamaForCausalLM"));
    }
    return;
  }
  // Without it, the model type decides.
  const std::string type = reader.Text("model_type", "");
  if (type != "llama") {
    reader.Complain("architectures",
                    "does not name one architecture; known is "
                    "LlamaForCausalLM");
  }
}

void CheckShape(const ModelConfig& config, Reader& reader) {
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
  if (config.hidden_act != "silu") {
    reader.Complain("hidden_act", absl::StrCat("is '", config.hidden_act,
                                               "'; known is silu"));
  }
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view json_text,
                                             absl::string_view source) {
  CHOIR_ASSIGN_OR_RETURN(const json document,
                         ParseJsonObject(json_text, source, JsonLimits()));
  Reader reader(document);
  CheckArchitecture(document, reader);
  ModelConfig config;
  config.vocab_size = reader.Size("vocab_size", kLargestSize);
  config.hidden_size = reader.Size("hidden_size", kLargestSize);
  config.intermediate_size = reader.Size("intermediate_size", kLargestSize);
  config.num_layers = reader.Size("num_hidden_layers", kMostLayers);
  config.num_heads = reader.Size("num_attention_heads", kLargestSize);
  config.num_kv_heads = reader.OptionalSize("num_key_value_heads",
                                            config.num_heads, kLargestSize);
  config.max_positions =
      reader.OptionalSize("max_position_embeddings", 2048, kLargestSize);
  if (!reader.Has("head_dim") && config.hidden_size % config.num_heads != 0) {
    reader.Complain("hidden_size",
                    absl::StrCat("is ", config.hidden_size,
                                 ", not a multiple of num_attention_heads ",
                                 config.num_heads));
  }
  config.head_dim = reader.OptionalSize(
      "head_dim", config.hidden_size / config.num_heads, kLargestSize);
  config.rms_norm_eps = reader.Positive("rms_norm_eps", config.rms_norm_eps);
  ReadRope(document, reader, config);
  config.tie_word_embeddings = reader.Flag("tie_word_embeddings", false);
  config.attention_bias = reader.Flag("attention_bias", false);
  config.mlp_bias = reader.Flag("mlp_bias", false);
  config.hidden_act = reader.Text("hidden_act", "silu");
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

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& path) {
  CHOIR_ASSIGN_OR_RETURN(const std::string text,
                         base::ReadFile(path, JsonLimits().max_bytes));
  return ParseModelConfig(text, path);
}

std::string ModelConfigJson(const ModelConfig& config) {
  nlohmann::ordered_json out;
  out["architectures"] = {config.architecture};
  out["model_type"] = "llama";
  out["vocab_size"] = config.vocab_size;
  out["hidden_size"] = config.hidden_size;
  out["intermediate_size"] = config.intermediate_size;
  out["num_hidden_layers"] = config.num_layers;
  out["num_attention_heads"] = config.num_heads;
  out["num_key_value_heads"] = config.num_kv_heads;
  out["head_dim"] = config.head_dim;
  out["max_position_embeddings"] = config.max_positions;
  out["rms_norm_eps"] = config.rms_norm_eps;
  out["rope_theta"] = config.rope_theta;
  const RopeScaling& scaling = config.rope_scaling;
  switch (scaling.kind) {
    case RopeScalingKind::kNone:
      out["rope_scaling"] = nullptr;
      break;
    case RopeScalingKind::kLinear:
      out["rope_scaling"] = {{"rope_type", "linear"},
                             {"factor", scaling.factor}};
      break;
    case RopeScalingKind::kLlama3:
      out["rope_scaling"] = {
          {"rope_type", "llama3"},
          {"factor", scaling.factor},
          {"low_freq_factor", scaling.low_freq_factor},
          {"high_freq_factor", scaling.high_freq_factor},
          {"original_max_position_embeddings",
           scaling.original_max_positions}};
      break;
  }
  out["hidden_act"] = config.hidden_act;
  out["tie_word_embeddings"] = config.tie_word_embeddings;
  out["attention_bias"] = config.attention_bias;
  out["mlp_bias"] = config.mlp_bias;
  if (config.bos_token_id >= 0) out["bos_token_id"] = config.bos_token_id;
  if (config.eos_token_ids.size() == 1) {
    out["eos_token_id"] = config.eos_token_ids[0];
  } else if (!config.eos_token_ids.empty()) {
    out["eos_token_id"] = config.eos_token_ids;
  }
  out["torch_dtype"] = config.torch_dtype;
  return out.dump(2) + "\n";
}

std::vector<LinearSpec> LinearLayers(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t queries = config.num_heads * config.head_dim;
  const int64_t keys = config.num_kv_heads * config.head_dim;
  const int64_t inner = config.intermediate_size;
  struct Kind {
    const char* folder;
    const char* name;
    int64_t in;
    int64_t out;
    bool bias;
  };
  const Kind kinds[] = {
      {"self_attn", "q_proj", hidden, queries, config.attention_bias},
      {"self_attn", "k_proj", hidden, keys, config.attention_bias},
      {"self_attn", "v_proj", hidden, keys, config.attention_bias},
      {"self_attn", "o_proj", queries, hidden, config.attention_bias},
      {"mlp", "gate_proj", hidden, inner, config.mlp_bias},
      {"mlp", "up_proj", hidden, inner, config.mlp_bias},
      {"mlp", "down_proj", inner, hidden, config.mlp_bias},
  };
  std::vector<LinearSpec> layers;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    for (const Kind& kind : kinds) {
      layers.push_back({absl::StrCat("model.layers.", layer, ".", kind.folder,
                                     ".", kind.name),
                        kind.name, layer, kind.in, kind.out, kind.bias});
    }
  }
  return layers;
}

const std::vector<std::string>& LinearKinds() {
  static const auto* const kinds = new std::vector<std::string>{
      "down_proj", "gate_proj", "k_proj", "o_proj",
      "q_proj",    "up_proj",   "v_proj"};
  return *kinds;
}

int64_t ModelConfig::num_parameters() const {
  int64_t count = vocab_size * hidden_size * (tie_word_embeddings ? 1 : 2);
  count += hidden_size;  // the last norm
  count += num_layers * 2 * hidden_size;
  for (const LinearSpec& linear : LinearLayers(*this)) {
    count += linear.in_features * linear.out_features;
    if (linear.bias) count += linear.out_features;
  }
  return count;
}

}  // namespace choir::model
