#include "model/main/device_commands.h"

#include <algorithm>
#include <cmath>
#include <iostream>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/cli.h"
#include "base/files.h"
#include "base/sim_random.h"
#include "base/status_macros.h"
#include "model/adapter/lora_layout.h"
#include "model/adapter/targets.h"
#include "model/checkpoint/families.h"
#include "model/checkpoint/packed_checkpoint.h"
#include "model/checkpoint/quantize_checkpoint.h"
#include "model/compute.h"
#include "model/loaded_model.h"
#include "model/main/adapted_model.h"
#include "model/planner.h"
#include "model/training/trainer.h"

namespace choir::model {
namespace {

constexpr double kMib = 1048576.0;

Json PartsOf(const MemoryEstimate& estimate) {
  const auto mib = [](double bytes) {
    return std::round(bytes / kMib * 10.0) / 10.0;
  };
  return {{"process", mib(estimate.process)},
          {"weights", mib(estimate.weights)},
          {"adapter", mib(estimate.adapter)},
          {"activations", mib(estimate.activations)},
          {"workspace", mib(estimate.workspace)},
          {"data", mib(estimate.data)},
          {"total", estimate.total_mib()}};
}

Json ToJson(const PlanFlags& flags, ModelConfig config,
            const MemoryPlan& plan) {
  Json json;
  json["budget_mib"] = flags.budget_mib;
  json["precision"] = std::string(WeightFormatName(plan.precision));
  json["rank"] = plan.adapter.rank;
  json["max_sequence_length"] = plan.training.max_sequence_length;
  json["batch_size"] = plan.training.batch_size;
  json["gradient_accumulation"] = plan.training.gradient_accumulation;
  json["activation_checkpointing"] = plan.training.activation_checkpointing;
  config.moe.held = plan.experts;
  json["experts"] = config.moe.HeldExperts();
  json["estimate_mib"] = PartsOf(plan.estimate);
  json["changes"] = plan.changes;
  return json;
}

// Trains two steps as planned and adds what was measured.
absl::Status Measure(const CommonOptions& common, const PlanFlags& flags,
                     const ModelConfig& config, const MemoryPlan& plan,
                     Json& json) {
  ConfigureCompute(common.threads);
  LoadOptions load;
  load.device = DeviceKind::kCpu;
  load.precision = plan.precision;
  load.experts = plan.experts;
  CHOIR_ASSIGN_OR_RETURN(
      std::shared_ptr<const LoadedModel> model,
      LoadedModel::LoadFolder(common.model, load, /*with_tokenizer=*/false));
  CHOIR_ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> trainer,
                         Trainer::Create(std::move(model), plan.adapter));
  std::vector<float> values = InitialAdapter(trainer->layout(), 1);
  config::TrainingOptions training = plan.training;
  training.local_steps = 2;
  training.local_epochs = 0;
  int64_t length =
      std::min<int64_t>(training.max_sequence_length, config.max_positions);
  if (flags.longest > 0) length = std::min(length, flags.longest);
  base::SimRandom random(1);
  std::vector<Example> examples(training.batch_size *
                                training.gradient_accumulation);
  for (Example& example : examples) {
    for (int64_t t = 0; t < length; ++t) {
      example.ids.push_back(
          static_cast<int32_t>(random.Below(config.vocab_size)));
    }
  }
  const absl::Time start = absl::Now();
  CHOIR_ASSIGN_OR_RETURN(
      const TrainResult result,
      trainer->Train(absl::MakeSpan(values), examples, training, 1, nullptr));
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  json["measured_peak_mib"] = static_cast<double>(PeakResidentBytes()) / kMib;
  json["tokens_per_second"] =
      seconds > 0.0 ? static_cast<double>(result.tokens) / seconds : 0.0;
  return absl::OkStatus();
}

absl::StatusOr<PlanRequest> Request(const CommonOptions& common,
                                    const PlanFlags& flags,
                                    const ModelConfig& config) {
  const auto positive = [](const char* flag, int64_t value) {
    return value >= 1 ? absl::OkStatus()
                      : absl::InvalidArgumentError(absl::StrCat(
                            flag, " is ", value, "; it must be at least 1"));
  };
  CHOIR_RETURN_IF_ERROR(CheckThreads(common.threads));
  CHOIR_RETURN_IF_ERROR(positive("--budget-mib", flags.budget_mib));
  CHOIR_RETURN_IF_ERROR(positive("--rank", flags.rank));
  CHOIR_RETURN_IF_ERROR(positive("--batch-size", flags.batch_size));
  CHOIR_RETURN_IF_ERROR(
      positive("--max-sequence-length", flags.max_sequence_length));
  if (flags.longest < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--longest is ", flags.longest,
                     "; it must be at least 1, or 0 if it is not known"));
  }
  PlanRequest request;
  request.budget_mib = flags.budget_mib;
  request.adapter.rank = flags.rank;
  request.adapter.alpha = 2.0 * flags.rank;
  request.adapter = WithTargets(config, request.adapter);
  request.training.batch_size = flags.batch_size;
  request.training.max_sequence_length = flags.max_sequence_length;
  request.training.activation_checkpointing = flags.checkpointing;
  request.longest_example = flags.longest;
  request.experts = common.experts;
  CHOIR_ASSIGN_OR_RETURN(const absl::optional<WeightFormat> stored,
                         ReadQuantization(common.model));
  CHOIR_ASSIGN_OR_RETURN(const absl::optional<WeightFormat> wish,
                         ParsePrecision(common.precision, "--precision"));
  if (stored && wish && *stored != *wish) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the model in ", common.model, " is stored in ",
        WeightFormatName(*stored), ", but --precision ",
        WeightFormatName(*wish),
        " was asked for; leave the precision away or take the checkpoint that "
        "was not quantised"));
  }
  if (stored) {
    request.precisions = {*stored};
  } else if (wish) {
    request.precisions = {*wish};
  }
  return request;
}

absl::StatusOr<WeightFormat> QuantizedFormat(const std::string& name) {
  for (const WeightFormat format : {WeightFormat::kInt8, WeightFormat::kNf4}) {
    if (name == WeightFormatName(format)) return format;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--to is \"", name, "\"; one of int8, nf4"));
}

absl::StatusOr<QuantizeOptions> OptionsOf(const QuantizeFlags& flags,
                                          WeightFormat format) {
  QuantizeOptions options;
  if (!flags.outlier_rms) return options;
  if (format != WeightFormat::kInt8) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--outlier-rms is for --to int8: ", WeightFormatName(format),
        " keeps no columns apart; leave it away"));
  }
  if (!std::isfinite(*flags.outlier_rms) || *flags.outlier_rms < 0.0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--outlier-rms is ", *flags.outlier_rms,
        "; it must be a number from 0 (no outliers are looked for) on"));
  }
  options.outlier_rms = *flags.outlier_rms;
  return options;
}

}  // namespace

absl::Status RunQuantize(const CommonOptions& common,
                         const QuantizeFlags& flags) {
  CHOIR_ASSIGN_OR_RETURN(const WeightFormat format, QuantizedFormat(flags.to));
  CHOIR_ASSIGN_OR_RETURN(const QuantizeOptions options,
                         OptionsOf(flags, format));
  CHOIR_ASSIGN_OR_RETURN(const QuantizeReport report,
                         QuantizeCheckpoint(common.model, format, flags.out,
                                            options, base::StopSignal::Check));
  Json json;
  json["format"] = std::string(WeightFormatName(format));
  json["parameters"] = report.parameters;
  json["quantised"] = report.weights;
  json["bytes_before"] = report.bytes_before;
  json["bytes_after"] = report.bytes_after;
  json["bits_per_weight"] = report.bits_per_weight();
  json["relative_error"] = report.relative_error;
  json["outlier_columns"] = report.outlier_columns;
  json["out"] = flags.out;
  if (common.json) {
    PrintJson(json);
  } else {
    std::cout << absl::StrFormat(
        "%s: %d of %d parameters in %s, %.1f MiB instead of %.1f, %.2f bits "
        "per parameter, relative error %.4f\n",
        flags.out, report.weights, report.parameters, WeightFormatName(format),
        report.bytes_after / kMib, report.bytes_before / kMib,
        report.bits_per_weight(), report.relative_error);
  }
  return absl::OkStatus();
}

absl::Status RunPlan(const CommonOptions& common, const PlanFlags& flags) {
  CHOIR_ASSIGN_OR_RETURN(
      const ModelConfig config,
      LoadModelConfig(base::JoinPath(common.model, "config.json")));
  CHOIR_ASSIGN_OR_RETURN(const PlanRequest request,
                         Request(common, flags, config));
  CHOIR_ASSIGN_OR_RETURN(const MemoryPlan plan, PlanMemory(config, request));
  Json json = ToJson(flags, config, plan);
  if (flags.measure) {
    CHOIR_RETURN_IF_ERROR(Measure(common, flags, config, plan, json));
  }
  if (common.json) {
    PrintJson(json);
    return absl::OkStatus();
  }
  for (const auto& [key, value] : json.items()) {
    std::cout << absl::StrFormat("%-26s %s\n", key, value.dump());
  }
  return absl::OkStatus();
}

}  // namespace choir::model
