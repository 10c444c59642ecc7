#include "model/adapter/targets.h"

#include <algorithm>
#include <functional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "model/adapter/lora_layout.h"
#include "model/checkpoint/families.h"

namespace choir::model {
namespace {

using config::AdapterKind;
using config::AdapterOptions;
using Chosen = std::function<bool(const LinearSpec&)>;

// "attn.c_proj" of "transformer.h.0.attn.c_proj".
std::string LastTwoParts(const std::string& module) {
  const size_t last = module.rfind('.');
  const size_t before = module.rfind('.', last - 1);
  return module.substr(before + 1);
}

// Names that take in exactly the chosen layers: by the last part of their path
// where that takes in no others, else by the last two. Sorted.
std::vector<std::string> NamesOf(const std::vector<LinearSpec>& layers,
                                 const Chosen& chosen) {
  std::set<std::string> shared;
  for (const LinearSpec& layer : layers) {
    if (!chosen(layer)) shared.insert(layer.kind);
  }
  std::set<std::string> names;
  for (const LinearSpec& layer : layers) {
    if (!chosen(layer)) continue;
    names.insert(shared.count(layer.kind) == 0 ? layer.kind
                                               : LastTwoParts(layer.module));
  }
  return {names.begin(), names.end()};
}

bool IsDown(const LinearSpec& layer) { return layer.role == LinearRole::kDown; }

bool IsAttention(const LinearSpec& layer) {
  return layer.role != LinearRole::kGate && layer.role != LinearRole::kUp &&
         layer.role != LinearRole::kDown;
}

bool IsIa3Default(const LinearSpec& layer) {
  return layer.role == LinearRole::kKey || layer.role == LinearRole::kValue ||
         layer.role == LinearRole::kQkv || IsDown(layer);
}

Chosen DefaultOf(const ModelConfig& config, const AdapterOptions& options,
                 bool all) {
  if (all) return [](const LinearSpec&) { return true; };
  if (options.kind == AdapterKind::kIa3) return IsIa3Default;
  if (config.moe.num_experts > 0) return IsAttention;
  return [](const LinearSpec&) { return true; };
}

}  // namespace

AdapterOptions WithTargets(const ModelConfig& config, AdapterOptions options) {
  if (options.kind == AdapterKind::kLofit) return options;
  const bool all = options.all_linear();
  if (!all && !options.target_modules.empty()) return options;
  const std::vector<LinearSpec> layers = LinearLayers(config);
  const Chosen chosen = DefaultOf(config, options, all);
  if (options.kind != AdapterKind::kIa3) {
    options.target_modules = NamesOf(layers, chosen);
    return options;
  }
  // No name may take in both layers that scale inputs and ones that scale
  // outputs.
  options.target_modules = NamesOf(layers, [&](const LinearSpec& layer) {
    return chosen(layer) && !IsDown(layer);
  });
  options.feedforward_modules = NamesOf(layers, IsDown);
  options.target_modules.insert(options.target_modules.end(),
                                options.feedforward_modules.begin(),
                                options.feedforward_modules.end());
  std::sort(options.target_modules.begin(), options.target_modules.end());
  return options;
}

absl::Status HoldExpertsToTrain(const std::vector<int64_t>& experts,
                                const AdapterOptions& adapter,
                                ModelConfig& config) {
  CHOIR_RETURN_IF_ERROR(HoldExperts(experts, config));
  const MoeConfig& moe = config.moe;
  if (moe.held.empty()) return absl::OkStatus();
  if (static_cast<int64_t>(moe.held.size()) < moe.experts_per_token) {
    return absl::InvalidArgumentError(
        absl::StrCat("only experts ", absl::StrJoin(moe.held, ", "),
                     " are to be held, but each token passes ",
                     moe.experts_per_token, "; hold at least so many"));
  }
  CHOIR_ASSIGN_OR_RETURN(const std::vector<LinearSpec> layers,
                         AdaptedLayers(config, adapter));
  std::set<std::string> kinds;
  for (const LinearSpec& layer : layers) {
    if (layer.expert >= 0) kinds.insert(layer.kind);
  }
  if (kinds.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "only experts ", absl::StrJoin(moe.held, ", "), " of ", moe.num_experts,
      " are to be held, but the adapter has tensors of experts (",
      absl::StrJoin(kinds, ", "),
      "), and all devices need one shape; hold every expert, or adapt "
      "attention alone (adapter.target_modules)"));
}

absl::StatusOr<config::JobOptions> WithTargets(config::JobOptions job) {
  CHOIR_ASSIGN_OR_RETURN(
      const ModelConfig config,
      LoadModelConfig(base::JoinPath(job.base_model, "config.json")));
  job.adapter = WithTargets(config, std::move(job.adapter));
  return job;
}

}  // namespace choir::model
