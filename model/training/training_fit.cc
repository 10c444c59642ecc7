#include "model/training/training_fit.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "model/adapter/lora_layout.h"
#include "model/checkpoint/packed_checkpoint.h"

namespace choir::model {
namespace {

bool HasRouters(const ModelConfig& config) {
  for (int64_t i = 0; i < config.num_layers; ++i) {
    if (config.IsMoe(i)) return true;
  }
  return false;
}

absl::Status CheckSparsity(const ModelConfig& config, bool packed,
                           const config::AdapterOptions& adapter,
                           double max_rate) {
  const auto refused = [max_rate](const auto&... why) {
    return absl::InvalidArgumentError(
        absl::StrCat("training.sparsity.max_rate is ", max_rate, ", but ",
                     why..., ", or set max_rate to 0"));
  };
  if (config.moe.num_experts > 0) {
    return refused(
        "channels are left out of dense feed-forward layers and the base "
        "model has ",
        config.moe.num_experts, " experts; take a dense base model");
  }
  if (adapter.kind != config::AdapterKind::kLora &&
      adapter.kind != config::AdapterKind::kFrozenA) {
    return refused("adapter.kind is \"", config::AdapterKindName(adapter.kind),
                   "\", which has no channels to leave out; make it \"lora\" "
                   "or \"frozen_a\"");
  }
  if (packed) {
    return refused(
        "channels are left out of weights that are held one by one and the "
        "base model's are packed (a quantised folder, or a precision of bf16, "
        "int8 or nf4); take a folder that is not quantised and leave the "
        "device's precision out");
  }
  return absl::OkStatus();
}

absl::Status CheckRouter(const ModelConfig& config,
                         const config::RouterOptions& router) {
  if (HasRouters(config)) return absl::OkStatus();
  const struct {
    const char* name;
    double value;
  } settings[] = {{"aux_loss", router.aux_loss},
                  {"z_loss", router.z_loss},
                  {"bias_rate", router.bias_rate}};
  for (const auto& setting : settings) {
    if (!(setting.value > 0.0)) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "training.router.", setting.name, " is ", setting.value,
        ", but the base model (", FamilyName(config.family),
        ") is dense and has no routers; take one with experts, or leave "
        "[training.router] out"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckTrainingFits(const ModelConfig& config, bool packed,
                               const config::AdapterOptions& adapter,
                               const config::TrainingOptions& training) {
  CHOIR_RETURN_IF_ERROR(CheckRouter(config, training.router));
  const double max_rate = training.sparsity.max_rate;
  if (!(max_rate > 0.0)) return absl::OkStatus();
  return CheckSparsity(config, packed, adapter, max_rate);
}

absl::Status CheckJobFits(const config::JobOptions& job,
                          absl::optional<WeightFormat> precision) {
  CHOIR_ASSIGN_OR_RETURN(
      const ModelConfig config,
      LoadModelConfig(base::JoinPath(job.base_model, "config.json")));
  CHOIR_RETURN_IF_ERROR(AdapterLayout(config, job.adapter).status());
  CHOIR_ASSIGN_OR_RETURN(const absl::optional<WeightFormat> stored,
                         ReadQuantization(job.base_model));
  const bool packed =
      stored.has_value() ||
      (precision.has_value() && *precision != WeightFormat::kFloat32);
  return CheckTrainingFits(config, packed, job.adapter, job.training);
}

}  // namespace choir::model
