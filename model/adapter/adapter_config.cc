#include "model/adapter/adapter_config.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/json_text.h"
#include "base/status_macros.h"
#include "model/adapter/lora_layout.h"
#include "model/adapter/targets.h"

namespace choir::model {
namespace {

using config::AdapterKind;
using nlohmann::json;
using nlohmann::ordered_json;

constexpr int kMostRank = 1 << 16;
constexpr char kChoirKey[] = "choir";
constexpr char kCausalTask[] = "CAUSAL_LM";
constexpr char kClassifierTask[] = "SEQ_CLS";
constexpr char kHead[] = "score";

// True for what PEFT writes when a setting is not used.
bool IsUnset(const json& value) {
  return value.is_null() || value == false ||
         ((value.is_array() || value.is_object()) && value.empty());
}

// Settings that change what an adapter computes and that Choir does not have.
// fan_in_fan_out is not among them: it says how the base stores a weight.
constexpr const char* kUnsupported[] = {
    "use_qalora",        "lora_bias",
    "layer_replication", "trainable_token_indices",
    "target_parameters", "alora_invocation_tokens",
    "megatron_config",
};

using Problems = std::vector<std::string>;

// What stands in the file under `key`, for messages: "is missing", "is 0.5".
std::string Stands(const json& document, const char* key) {
  const auto found = document.find(key);
  if (found == document.end()) return absl::StrCat(key, " is missing");
  std::string text = found->dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > 60) text = absl::StrCat(text.substr(0, 57), "...");
  return absl::StrCat(key, " is ", text);
}

// Sorted, without doubles.
std::vector<std::string> Names(const json& list, const char* key,
                               Problems& problems) {
  std::vector<std::string> names;
  for (const json& name : list) {
    if (!name.is_string()) {
      problems.push_back(
          absl::StrCat(key, " holds something that is not text"));
      return names;
    }
    names.push_back(name.get<std::string>());
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

void ReadFactors(const json& document, config::AdapterOptions& options,
                 Problems& problems) {
  const auto rank = document.find("r");
  if (rank == document.end() || !rank->is_number_unsigned() ||
      rank->get<uint64_t>() < 1 || rank->get<uint64_t>() > kMostRank) {
    problems.push_back(absl::StrCat(
        Stands(document, "r"), "; give a whole number from 1 to ", kMostRank));
  } else {
    options.rank = rank->get<int>();
  }
  const auto alpha = document.find("lora_alpha");
  if (alpha == document.end() || !alpha->is_number() ||
      !std::isfinite(alpha->get<double>()) || !(alpha->get<double>() > 0)) {
    problems.push_back(absl::StrCat(Stands(document, "lora_alpha"),
                                    "; give a positive number"));
  } else {
    options.alpha = alpha->get<double>();
  }
  const auto dropout = document.find("lora_dropout");
  if (dropout != document.end()) {
    if (!dropout->is_number() || !(dropout->get<double>() >= 0) ||
        !(dropout->get<double>() < 1)) {
      problems.push_back(absl::StrCat(Stands(document, "lora_dropout"),
                                      "; give a number from 0 to below 1"));
    } else {
      options.dropout = dropout->get<double>();
    }
  }
}

bool ReadFlag(const json& document, const char* key, Problems& problems) {
  const auto found = document.find(key);
  if (found == document.end() || found->is_null()) return false;
  if (!found->is_boolean()) {
    problems.push_back(
        absl::StrCat(Stands(document, key), "; give true or false"));
    return false;
  }
  return found->get<bool>();
}

// How A and B began does not matter, unless the base was changed with them:
// what the folder holds then belongs to a base that nobody has. Names that are
// not known are refused, since a newer PEFT may do the like.
// Source: PEFT, src/peft/tuners/lora/layer.py (update_layer).
void ReadInitialWeights(const json& document, Problems& problems) {
  const auto found = document.find("init_lora_weights");
  if (found == document.end() || found->is_null() || found->is_boolean()) {
    return;
  }
  if (!found->is_string()) {
    problems.push_back("init_lora_weights is not true, false or text");
    return;
  }
  const std::string name = found->get<std::string>();
  const std::string lower = absl::AsciiStrToLower(name);
  if (lower == "gaussian" || lower == "eva" || lower == "orthogonal") return;
  problems.push_back(absl::StrCat(
      "init_lora_weights is '", name.substr(0, 40),
      "', which changes the base model too; convert it to plain LoRA with PEFT "
      "first",
      lower == "loftq" ? " (merge it, and train again on the merged model)"
                       : " (save_pretrained with "
                         "path_initial_model_for_weight_conversion)"));
}

void ReadLora(const json& document, AdapterConfigFile& file,
              Problems& problems) {
  ReadFactors(document, file.options, problems);
  ReadInitialWeights(document, problems);
  file.options.rank_stabilized = ReadFlag(document, "use_rslora", problems);
  if (ReadFlag(document, "use_dora", problems)) {
    file.options.kind = AdapterKind::kDora;
    // Of training only; Choir's DoRA has none.
    file.options.dropout = 0.0;
  }
}

// PEFT lists "classifier", too, for classifiers of other families.
void ReadHead(const json& document, AdapterConfigFile& file,
              Problems& problems) {
  const auto saved = document.find("modules_to_save");
  if (saved == document.end() || IsUnset(*saved)) return;
  for (const std::string& name : Names(*saved, "modules_to_save", problems)) {
    if (name == kHead) {
      file.has_head = true;
    } else if (name != "classifier") {
      problems.push_back(absl::StrCat("modules_to_save names '", name,
                                      "'; only score can be saved whole"));
    }
  }
}

void ReadLofit(const json& document, AdapterConfigFile& file,
               Problems& problems) {
  file.options.kind = AdapterKind::kLofit;
  const auto heads = document.find("lofit_heads");
  if (heads == document.end() || !heads->is_number_unsigned() ||
      heads->get<uint64_t>() > 1000000) {
    problems.push_back(absl::StrCat(Stands(document, "lofit_heads"),
                                    "; give a whole number from 0 to 1000000"));
  } else {
    file.options.lofit_heads = heads->get<int>();
  }
  const auto l1 = document.find("lofit_l1");
  if (l1 == document.end() || !l1->is_number() || !(l1->get<double>() >= 0) ||
      !(l1->get<double>() <= 1e3)) {
    problems.push_back(absl::StrCat(Stands(document, "lofit_l1"),
                                    "; give a number from 0 to 1000"));
  } else {
    file.options.lofit_l1 = l1->get<double>();
  }
}

// What a running job's folder says of its frozen A.
void ReadFrozen(const json& choir, AdapterConfigFile& file,
                Problems& problems) {
  const auto seed = choir.find("frozen_seed");
  const auto inputs = choir.find("in_features");
  if (!choir.is_object() || seed == choir.end() ||
      !seed->is_number_unsigned() || inputs == choir.end() ||
      !inputs->is_object()) {
    problems.push_back(
        "choir is not {\"frozen_seed\":..,\"in_features\":{..}}");
    return;
  }
  file.options.kind = AdapterKind::kFrozenA;
  file.options.frozen_seed = seed->get<uint64_t>();
  for (const auto& [module, size] : inputs->items()) {
    if (!size.is_number_unsigned() || size.get<uint64_t>() < 1 ||
        size.get<uint64_t>() > (1u << 24)) {
      problems.push_back(
          absl::StrCat("choir.in_features of ", module, " is impossible"));
      return;
    }
    file.frozen_inputs[module] = size.get<int64_t>();
  }
}

// "" if absent or null.
std::string Text(const json& document, const char* key, Problems& problems) {
  const auto found = document.find(key);
  if (found == document.end() || found->is_null()) return "";
  if (!found->is_string()) {
    problems.push_back(absl::StrCat(Stands(document, key), "; give text"));
    return "";
  }
  return found->get<std::string>();
}

// A whole number where it is one, as PEFT writes lora_alpha.
ordered_json Number(double value) {
  if (std::floor(value) == value && std::fabs(value) < 1e15) {
    return static_cast<int64_t>(value);
  }
  return value;
}

// Beside the adapter, a classifier's head is trained whole.
ordered_json ModulesToSave(const config::AdapterOptions& options) {
  if (options.num_labels == 0) return nullptr;
  return ordered_json::array({kHead});
}

const char* TaskType(const config::AdapterOptions& options) {
  return options.num_labels == 0 ? kCausalTask : kClassifierTask;
}

// GPT-2's layers, which store [in, out]; PEFT wants to be told.
bool AdaptsConv1D(const config::AdapterOptions& options) {
  return std::any_of(options.target_modules.begin(),
                     options.target_modules.end(), [](const std::string& name) {
                       return absl::EndsWith(name, "c_attn") ||
                              absl::EndsWith(name, "c_fc") ||
                              absl::EndsWith(name, "c_proj");
                     });
}

void WriteLora(const config::AdapterOptions& options, ordered_json& out) {
  out["bias"] = "none";
  out["fan_in_fan_out"] = AdaptsConv1D(options);
  out["inference_mode"] = true;
  out["init_lora_weights"] = true;
  out["layers_pattern"] = nullptr;
  out["layers_to_transform"] = nullptr;
  out["lora_alpha"] = Number(options.alpha);
  out["lora_dropout"] = options.dropout;
  out["modules_to_save"] = ModulesToSave(options);
  out["peft_type"] = "LORA";
  out["r"] = options.rank;
  out["rank_pattern"] = ordered_json::object();
  for (const auto& [module, rank] : options.layer_ranks) {
    out["rank_pattern"][module] = rank;
  }
  out["alpha_pattern"] = ordered_json::object();
  for (const auto& [module, alpha] : options.layer_alphas) {
    out["alpha_pattern"][module] = Number(alpha);
  }
  out["revision"] = nullptr;
  out["target_modules"] = options.target_modules;
  out["task_type"] = TaskType(options);
  out["use_dora"] = options.kind == AdapterKind::kDora;
  out["use_rslora"] = options.rank_stabilized;
}

void WriteIa3(const config::AdapterOptions& options, ordered_json& out) {
  out["exclude_modules"] = nullptr;
  out["fan_in_fan_out"] = AdaptsConv1D(options);
  out["feedforward_modules"] = options.feedforward_modules;
  out["inference_mode"] = true;
  out["init_ia3_weights"] = true;
  out["modules_to_save"] = ModulesToSave(options);
  out["peft_type"] = "IA3";
  out["revision"] = nullptr;
  out["target_modules"] = options.target_modules;
  out["task_type"] = TaskType(options);
}

ordered_json Document(const config::AdapterOptions& options,
                      absl::string_view base_model) {
  config::AdapterOptions sorted = options;
  std::sort(sorted.target_modules.begin(), sorted.target_modules.end());
  std::sort(sorted.feedforward_modules.begin(),
            sorted.feedforward_modules.end());
  ordered_json out;
  out["auto_mapping"] = nullptr;
  out["base_model_name_or_path"] = std::string(base_model);
  if (sorted.has_lora()) {
    WriteLora(sorted, out);
  } else if (sorted.kind == AdapterKind::kIa3) {
    WriteIa3(sorted, out);
  } else {
    out["lofit_heads"] = sorted.lofit_heads;
    out["lofit_l1"] = Number(sorted.lofit_l1);
    out["peft_type"] = "LOFIT";
    if (sorted.num_labels > 0) out["modules_to_save"] = ModulesToSave(sorted);
    out["task_type"] = TaskType(sorted);
  }
  return out;
}

std::string Dump(const ordered_json& document) {
  return document.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace

std::string NumberlessPath(absl::string_view module) {
  std::vector<std::string> parts = absl::StrSplit(module, '.');
  for (std::string& part : parts) {
    if (std::all_of(part.begin(), part.end(), [](char c) {
          return absl::ascii_isdigit(static_cast<unsigned char>(c));
        })) {
      part.assign(1, '*');
    }
  }
  return absl::StrJoin(parts, ".");
}

std::string AdapterConfigJson(const config::AdapterOptions& options,
                              absl::string_view base_model) {
  return Dump(Document(options, base_model));
}

absl::StatusOr<std::string> JobAdapterConfigJson(
    const config::AdapterOptions& given, const ModelConfig& config,
    absl::string_view base_model) {
  const config::AdapterOptions options = WithTargets(config, given);
  ordered_json out = Document(options, base_model);
  if (options.kind == AdapterKind::kFrozenA) {
    CHOIR_ASSIGN_OR_RETURN(const std::vector<LinearSpec> layers,
                           AdaptedLayers(config, options));
    ordered_json inputs = ordered_json::object();
    for (const LinearSpec& layer : layers) {
      inputs[NumberlessPath(layer.module)] = layer.in_features;
    }
    out[kChoirKey] = {{"frozen_seed", options.frozen_seed},
                      {"in_features", std::move(inputs)}};
  }
  return Dump(out);
}

absl::StatusOr<AdapterConfigFile> ParseAdapterConfig(absl::string_view text,
                                                     absl::string_view source) {
  CHOIR_ASSIGN_OR_RETURN(
      const json document,
      base::ParseJsonObject(text, source, base::JsonLimits()));
  Problems problems;
  AdapterConfigFile file;
  const std::string type = Text(document, "peft_type", problems);
  const std::string task = Text(document, "task_type", problems);
  if (!task.empty() && task != kCausalTask && task != kClassifierTask) {
    problems.push_back(
        absl::StrCat("task_type is '", task, "', not CAUSAL_LM or SEQ_CLS"));
  }
  ReadHead(document, file, problems);
  const std::string bias = Text(document, "bias", problems);
  if (!bias.empty() && bias != "none") {
    problems.push_back(
        absl::StrCat("bias is '", bias, "'; trained biases are not supported"));
  }
  for (const char* key : kUnsupported) {
    const auto found = document.find(key);
    if (found != document.end() && !IsUnset(*found)) {
      problems.push_back(absl::StrCat(key, " is set, which is not supported"));
    }
  }
  if (type == "LORA") {
    ReadLora(document, file, problems);
    const auto choir = document.find(kChoirKey);
    if (choir != document.end()) ReadFrozen(*choir, file, problems);
  } else if (type == "IA3") {
    file.options.kind = AdapterKind::kIa3;
  } else if (type == "LOFIT") {
    ReadLofit(document, file, problems);
  } else {
    problems.push_back(
        absl::StrCat("peft_type is '", type, "', not LORA, IA3 or LOFIT"));
  }
  if (type == "LORA" || type == "IA3") {
    // Which pattern comes first matters.
    file.rules = ReadTargetRules(
        ordered_json::parse(text.begin(), text.end(), nullptr, false),
        problems);
    file.options.target_modules = file.rules.targets.names;
    file.options.feedforward_modules = file.rules.feedforward.names;
  }
  file.base_model = Text(document, "base_model_name_or_path", problems);
  if (!problems.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": ", absl::StrJoin(problems, "; ")));
  }
  return file;
}

}  // namespace choir::model
