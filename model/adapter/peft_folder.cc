#include "model/adapter/peft_folder.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "model/adapter/lora_layout.h"
#include "model/checkpoint/json_text.h"
#include "model/checkpoint/safetensors.h"

namespace choir::model {
namespace {

using nlohmann::json;

constexpr int kMostRank = 1 << 16;

// True for what PEFT writes when a setting is not used.
bool IsUnset(const json& value) {
  return value.is_null() || value == false ||
         ((value.is_array() || value.is_object()) && value.empty());
}

// Settings that change what an adapter computes and that Choir does not have.
constexpr const char* kUnsupported[] = {
    "use_dora",          "use_qalora",      "lora_bias",
    "fan_in_fan_out",    "modules_to_save", "layers_to_transform",
    "rank_pattern",      "alpha_pattern",   "layer_replication",
    "trainable_token_indices", "exclude_modules", "target_parameters",
    "alora_invocation_tokens", "layers_pattern", "megatron_config",
};

void ReadTargets(const json& document, config::AdapterOptions& options,
                 std::vector<std::string>& problems) {
  const auto targets = document.find("target_modules");
  if (targets != document.end() && *targets == "all-linear") {
    options.target_modules = LinearKinds();
    return;
  }
  if (targets == document.end() || !targets->is_array() || targets->empty()) {
    problems.push_back(
        "target_modules is not a list of names (patterns are not read)");
    return;
  }
  for (const json& target : *targets) {
    if (!target.is_string()) {
      problems.push_back("target_modules holds something that is not text");
      return;
    }
    options.target_modules.push_back(target.get<std::string>());
  }
  std::vector<std::string>& names = options.target_modules;
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
}

void ReadNumbers(const json& document, config::AdapterOptions& options,
                 std::vector<std::string>& problems) {
  const auto rank = document.find("r");
  if (rank == document.end() || !rank->is_number_unsigned() ||
      rank->get<uint64_t>() < 1 || rank->get<uint64_t>() > kMostRank) {
    problems.push_back(
        absl::StrCat("r is not a whole number from 1 to ", kMostRank));
  } else {
    options.rank = rank->get<int>();
  }
  const auto alpha = document.find("lora_alpha");
  if (alpha == document.end() || !alpha->is_number() ||
      !std::isfinite(alpha->get<double>()) || !(alpha->get<double>() > 0)) {
    problems.push_back("lora_alpha is not a positive number");
  } else {
    options.alpha = alpha->get<double>();
  }
  const auto dropout = document.find("lora_dropout");
  if (dropout != document.end()) {
    if (!dropout->is_number() || !(dropout->get<double>() >= 0) ||
        !(dropout->get<double>() < 1)) {
      problems.push_back("lora_dropout is not a number in [0, 1)");
    } else {
      options.dropout = dropout->get<double>();
    }
  }
  const auto stabilized = document.find("use_rslora");
  if (stabilized != document.end() && !stabilized->is_null()) {
    if (!stabilized->is_boolean()) {
      problems.push_back("use_rslora is not true or false");
    } else {
      options.rank_stabilized = stabilized->get<bool>();
    }
  }
}

// "" if absent or null.
std::string Text(const json& document, const char* key,
                 std::vector<std::string>& problems) {
  const auto found = document.find(key);
  if (found == document.end() || found->is_null()) return "";
  if (!found->is_string()) {
    problems.push_back(absl::StrCat(key, " is not text"));
    return "";
  }
  return found->get<std::string>();
}

// A whole number where it is one, as PEFT writes lora_alpha.
nlohmann::ordered_json Number(double value) {
  if (std::floor(value) == value && std::fabs(value) < 1e15) {
    return static_cast<int64_t>(value);
  }
  return value;
}

}  // namespace

std::string EncodeAdapterFile(const codec::Layout& layout,
                              absl::Span<const float> values) {
  CHOIR_CHECK(static_cast<int64_t>(values.size()) == layout.num_elements());
  const std::string bytes = FloatsToBytes(values, DType::kF32);
  std::vector<TensorView> tensors;
  for (size_t i = 0; i < layout.tensors().size(); ++i) {
    const codec::TensorSpec& spec = layout.tensors()[i];
    TensorView tensor;
    tensor.name = spec.name;
    tensor.shape = spec.shape;
    tensor.bytes = absl::string_view(bytes).substr(
        4 * layout.offset(i), 4 * spec.num_elements());
    tensors.push_back(std::move(tensor));
  }
  return EncodeSafetensors(std::move(tensors));
}

absl::StatusOr<std::vector<float>> DecodeAdapterFile(
    absl::string_view bytes, const codec::Layout& layout,
    absl::string_view source) {
  CHOIR_ASSIGN_OR_RETURN(const SafetensorsFile file,
                         ParseSafetensors(bytes, source));
  std::vector<float> values(layout.num_elements());
  for (size_t i = 0; i < layout.tensors().size(); ++i) {
    const codec::TensorSpec& spec = layout.tensors()[i];
    CHOIR_ASSIGN_OR_RETURN(const TensorView* tensor,
                           file.Get(spec.name, spec.shape));
    const absl::Span<float> out =
        absl::MakeSpan(values).subspan(layout.offset(i), spec.num_elements());
    CHOIR_RETURN_IF_ERROR(ReadFloatsInto(*tensor, out));
    for (const float value : out) {
      if (!std::isfinite(value)) {
        return absl::InvalidArgumentError(
            absl::StrCat(source, ": tensor '", spec.name,
                         "' holds values that are not finite"));
      }
    }
  }
  if (file.tensors().size() != layout.tensors().size()) {
    for (const TensorView& tensor : file.tensors()) {
      const auto& expected = layout.tensors();
      if (std::none_of(expected.begin(), expected.end(), [&](const auto& spec) {
            return spec.name == tensor.name;
          })) {
        return absl::InvalidArgumentError(
            absl::StrCat(source, ": tensor '", tensor.name,
                         "' is not one of this adapter's ", expected.size()));
      }
    }
  }
  return values;
}

std::string AdapterConfigJson(const config::AdapterOptions& options,
                              absl::string_view base_model) {
  std::vector<std::string> targets = options.target_modules;
  std::sort(targets.begin(), targets.end());
  nlohmann::ordered_json out;
  out["auto_mapping"] = nullptr;
  out["base_model_name_or_path"] = std::string(base_model);
  out["bias"] = "none";
  out["fan_in_fan_out"] = false;
  out["inference_mode"] = true;
  out["init_lora_weights"] = true;
  out["layers_pattern"] = nullptr;
  out["layers_to_transform"] = nullptr;
  out["lora_alpha"] = Number(options.alpha);
  out["lora_dropout"] = options.dropout;
  out["modules_to_save"] = nullptr;
  out["peft_type"] = "LORA";
  out["r"] = options.rank;
  out["rank_pattern"] = nlohmann::ordered_json::object();
  out["alpha_pattern"] = nlohmann::ordered_json::object();
  out["revision"] = nullptr;
  out["target_modules"] = targets;
  out["task_type"] = "CAUSAL_LM";
  out["use_dora"] = false;
  out["use_rslora"] = options.rank_stabilized;
  return out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) +
         "\n";
}

absl::StatusOr<AdapterConfigFile> ParseAdapterConfig(absl::string_view text,
                                                     absl::string_view source) {
  CHOIR_ASSIGN_OR_RETURN(const json document,
                         ParseJsonObject(text, source, JsonLimits()));
  std::vector<std::string> problems;
  AdapterConfigFile file;
  const std::string type = Text(document, "peft_type", problems);
  if (type != "LORA") {
    problems.push_back(absl::StrCat("peft_type is '", type, "', not LORA"));
  }
  const std::string task = Text(document, "task_type", problems);
  if (!task.empty() && task != "CAUSAL_LM") {
    problems.push_back(absl::StrCat("task_type is '", task,
                                    "', not CAUSAL_LM"));
  }
  const std::string bias = Text(document, "bias", problems);
  if (!bias.empty() && bias != "none") {
    problems.push_back(absl::StrCat("bias is '", bias,
                                    "'; trained biases are not supported"));
  }
  for (const char* key : kUnsupported) {
    const auto found = document.find(key);
    if (found != document.end() && !IsUnset(*found)) {
      problems.push_back(absl::StrCat(key, " is set, which is not supported"));
    }
  }
  ReadNumbers(document, file.options, problems);
  ReadTargets(document, file.options, problems);
  file.base_model = Text(document, "base_model_name_or_path", problems);
  if (!problems.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": ", absl::StrJoin(problems, "; ")));
  }
  return file;
}

absl::Status WritePeftFolder(const std::string& directory,
                             const config::AdapterOptions& options,
                             const codec::Layout& layout,
                             absl::Span<const float> values,
                             absl::string_view base_model) {
  CHOIR_RETURN_IF_ERROR(base::MakeDirectories(directory));
  CHOIR_RETURN_IF_ERROR(
      base::WriteFileAtomic(base::JoinPath(directory, kAdapterModelName),
                            EncodeAdapterFile(layout, values)));
  return base::WriteFileAtomic(base::JoinPath(directory, kAdapterConfigName),
                               AdapterConfigJson(options, base_model));
}

absl::StatusOr<PeftAdapter> ReadPeftFolder(const std::string& directory,
                                           const ModelConfig& config) {
  const std::string config_path = base::JoinPath(directory, kAdapterConfigName);
  CHOIR_ASSIGN_OR_RETURN(
      const std::string text,
      base::ReadFile(config_path, JsonLimits().max_bytes));
  CHOIR_ASSIGN_OR_RETURN(AdapterConfigFile file,
                         ParseAdapterConfig(text, config_path));
  PeftAdapter adapter;
  adapter.options = std::move(file.options);
  adapter.base_model = std::move(file.base_model);
  absl::StatusOr<codec::Layout> layout = AdapterLayout(config, adapter.options);
  if (!layout.ok()) {
    return absl::Status(layout.status().code(),
                        absl::StrCat(config_path,
                                     " does not fit the model: ",
                                     layout.status().message()));
  }
  adapter.layout = *std::move(layout);
  const std::string path = base::JoinPath(directory, kAdapterModelName);
  CHOIR_ASSIGN_OR_RETURN(const std::shared_ptr<const base::MappedFile> mapping,
                         base::MappedFile::Open(path));
  CHOIR_ASSIGN_OR_RETURN(
      adapter.values,
      DecodeAdapterFile(mapping->bytes(), adapter.layout, path));
  return adapter;
}

}  // namespace choir::model
