// adapter_config.json: what kind of adapter a folder holds, as Hugging Face
// PEFT writes and reads it.
//
// LoRA, rsLoRA and DoRA have peft_type LORA, (IA)^3 has IA3. LoFiT, which PEFT
// does not have, is written as peft_type LOFIT with the keys lofit_heads and
// lofit_l1. A frozen A is stored beside B, as plain LoRA; only the files of a
// running job leave it out, and say in the key "choir" what it is drawn from.
#ifndef CHOIR_MODEL_ADAPTER_ADAPTER_CONFIG_H_
#define CHOIR_MODEL_ADAPTER_ADAPTER_CONFIG_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/adapter/target_rules.h"
#include "model/checkpoint/model_config.h"
#include "proto/config/job_options.h"

namespace choir::model {

inline constexpr char kAdapterConfigName[] = "adapter_config.json";

// adapter_config.json of a folder; `base_model` becomes
// base_model_name_or_path.
std::string AdapterConfigJson(const config::AdapterOptions& options,
                              absl::string_view base_model);

// adapter_config.json of a job's files, which hold AdapterLayout(): for a
// frozen A with what CompletePeftFolder() needs to draw it.
// Errors: those of AdaptedLayers.
absl::StatusOr<std::string> JobAdapterConfigJson(
    const config::AdapterOptions& options, const ModelConfig& config,
    absl::string_view base_model);

// "model.layers.*.self_attn.q_proj" for every layer's: all have one shape.
std::string NumberlessPath(absl::string_view module);

struct AdapterConfigFile {
  // Without what `rules` say once the model is known (ApplyTargetRules()):
  // target_modules holds the names that are listed.
  config::AdapterOptions options;
  TargetRules rules;       // of LoRA and (IA)^3
  bool has_head = false;   // modules_to_save is ["score"]: a classifier
  std::string base_model;  // base_model_name_or_path; may be empty
  // Of a job's frozen A (options.kind is kFrozenA then): in_features by
  // NumberlessPath() of the module.
  std::map<std::string, int64_t> frozen_inputs;
};

// Errors: INVALID_ARGUMENT naming `source` and everything in it that Choir
// does not compute (trained biases, other kinds of adapters, initial weights
// that changed the base, such as PiSSA's) or that is missing.
absl::StatusOr<AdapterConfigFile> ParseAdapterConfig(absl::string_view text,
                                                     absl::string_view source);

}  // namespace choir::model

#endif  // CHOIR_MODEL_ADAPTER_ADAPTER_CONFIG_H_
