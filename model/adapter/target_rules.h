// Which layers a PEFT folder adapts, and with which rank and alpha, where that
// is said by rules that need the model to be understood: "all-linear", regular
// expressions, numbers of layers, exclusions, rank_pattern, alpha_pattern.
#ifndef CHOIR_MODEL_ADAPTER_TARGET_RULES_H_
#define CHOIR_MODEL_ADAPTER_TARGET_RULES_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "model/checkpoint/model_config.h"
#include "nlohmann/json.hpp"
#include "proto/config/job_options.h"

namespace choir::model {

// Names by the last parts of a layer's path, or one expression of whole paths.
struct NameRule {
  std::vector<std::string> names;
  std::string pattern;
  bool empty() const { return names.empty() && pattern.empty(); }
};

struct TargetRules {
  bool all_linear = false;
  NameRule targets;                      // unless all_linear
  NameRule feedforward;                  // of (IA)^3
  NameRule excluded;                     // exclude_modules
  std::vector<int64_t> layers;           // layers_to_transform; empty: all
  std::vector<std::string> layer_lists;  // layers_pattern
  // rank_pattern and alpha_pattern: the first key that matches counts. A key
  // matches a path whose end, from the beginning or after a dot, it describes.
  std::vector<std::pair<std::string, int>> ranks;
  std::vector<std::pair<std::string, double>> alphas;
};

// The rules of an adapter_config.json, keys in their order; what is wrong with
// them is added to `problems`, naming the key.
TargetRules ReadTargetRules(const nlohmann::ordered_json& document,
                            std::vector<std::string>& problems);

// Sets target_modules, feedforward_modules, layer_ranks and layer_alphas. Names
// stay names where they say the same; else they become whole paths.
//
// Errors: INVALID_ARGUMENT naming the key for an expression that cannot be
//   read, and if no layer is left; those of AdaptedLayers.
// Cost: one pass over the layers for each rule.
// Source: what peft.tuners.tuners_utils.check_target_module_exists and
//   peft.utils.other.get_pattern_key match.
absl::Status ApplyTargetRules(const ModelConfig& config,
                              const TargetRules& rules,
                              config::AdapterOptions& options);

}  // namespace choir::model

#endif  // CHOIR_MODEL_ADAPTER_TARGET_RULES_H_
