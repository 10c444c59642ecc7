#include "client/session/participation.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "model/adapter/peft_folder.h"
#include "proto/codec/flat_update.h"
#include "proto/config/job_options.h"

namespace choir::client {
namespace {

constexpr size_t kMaxReasonBytes = 500;

// Everything that a plan says, checked.
struct Settings {
  config::TrainingOptions training;
  config::AggregationOptions aggregation;
  std::vector<float> start;
};

absl::StatusOr<Settings> ReadPlan(const v1::TaskPlan& plan,
                                  const codec::Layout& layout,
                                  absl::string_view adapter_bytes) {
  if (plan.layout_digest() != layout.digest()) {
    return absl::InvalidArgumentError(
        absl::StrCat("adapter layout of the plan is ", plan.layout_digest(),
                     ", of the base model here ", layout.digest()));
  }
  Settings settings;
  CHOIR_ASSIGN_OR_RETURN(settings.training,
                         config::ResolveTraining(plan.training()));
  CHOIR_ASSIGN_OR_RETURN(settings.aggregation,
                         config::ResolveAggregation(plan.aggregation()));
  CHOIR_ASSIGN_OR_RETURN(settings.start,
                         model::DecodeAdapterFile(adapter_bytes, layout));
  return settings;
}

absl::Status CheckOnGrid(absl::Span<const float> update, double max_magnitude) {
  for (const float value : update) {
    if (std::abs(static_cast<double>(value)) > max_magnitude) {
      return absl::InvalidArgumentError(absl::StrCat(
          "an element of the update is larger than the sums' limit of ",
          max_magnitude,
          "; lower training.learning_rate, set aggregation.clip_norm_l2 or "
          "lower aggregation.fixed_point_bits"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<TaskResult> Train(const v1::TaskPlan& plan,
                                 model::Trainer& trainer, Settings settings,
                                 const LocalData& data,
                                 const base::Clock& clock,
                                 const model::ProgressFn& progress) {
  if (data.train.empty()) {
    return absl::FailedPreconditionError("no training examples");
  }
  const absl::Time begin = clock.Now();
  std::vector<float> update = settings.start;
  CHOIR_ASSIGN_OR_RETURN(
      const model::TrainResult trained,
      trainer.Train(absl::MakeSpan(update), data.train, settings.training,
                    plan.seed(), progress));
  if (!std::isfinite(trained.mean_loss)) {
    return absl::AbortedError("training loss is not finite");
  }
  if (trained.dense_flops > 0.0) {
    base::LogInfo("sparsity saved ",
                  100.0 * (1.0 - trained.done_flops / trained.dense_flops),
                  " % of the FLOPs of ", trained.steps, " steps");
  }
  for (size_t i = 0; i < update.size(); ++i) update[i] -= settings.start[i];
  CHOIR_ASSIGN_OR_RETURN(
      const ClipReport clip,
      ClipL2(absl::MakeSpan(update), settings.aggregation.clip_norm_l2));
  CHOIR_RETURN_IF_ERROR(
      CheckOnGrid(update, settings.aggregation.max_magnitude()));

  TaskResult result;
  *result.report.mutable_key() = plan.key();
  v1::TrainReport& report = *result.report.mutable_train();
  if (plan.has_secure_session()) {
    result.secure_update = std::move(update);
  } else {
    result.update_bytes = codec::EncodeFlatUpdate(trainer.layout(), update);
    report.mutable_update()->set_digest(base::Sha256Hex(result.update_bytes));
    report.mutable_update()->set_size(result.update_bytes.size());
  }
  report.set_num_examples(data.train.size());
  report.set_steps(trained.steps);
  report.set_tokens(trained.tokens);
  report.set_mean_loss(trained.mean_loss);
  report.set_update_norm_l2(clip.norm_l2);
  report.set_clipped(clip.clipped);
  report.set_dense_flops(trained.dense_flops);
  report.set_done_flops(trained.done_flops);
  report.set_seconds(absl::ToDoubleSeconds(clock.Now() - begin));
  return result;
}

absl::StatusOr<TaskResult> Evaluate(const v1::TaskPlan& plan,
                                    model::Trainer& trainer,
                                    const Settings& settings,
                                    const LocalData& data,
                                    const model::ProgressFn& progress) {
  model::EvalResult evaluated;
  if (!data.heldout.empty()) {
    CHOIR_ASSIGN_OR_RETURN(evaluated,
                           trainer.Evaluate(settings.start, data.heldout,
                                            settings.training, progress));
  }
  if (!std::isfinite(evaluated.loss_sum)) {
    return absl::AbortedError("evaluation loss is not finite");
  }
  TaskResult result;
  *result.report.mutable_key() = plan.key();
  // No more than the mean needs: unlike updates, it is never masked.
  v1::EvaluationReport& report = *result.report.mutable_evaluation();
  report.set_loss_sum(evaluated.loss_sum);
  report.set_tokens(evaluated.tokens);
  if (settings.training.objective == config::Objective::kClassification) {
    report.set_correct(evaluated.correct);
  }
  return result;
}

absl::StatusOr<TaskResult> Dispatch(const v1::TaskPlan& plan,
                                    model::Trainer& trainer,
                                    absl::string_view adapter_bytes,
                                    const LocalData& data,
                                    const base::Clock& clock,
                                    const model::ProgressFn& progress) {
  CHOIR_ASSIGN_OR_RETURN(Settings settings,
                         ReadPlan(plan, trainer.layout(), adapter_bytes));
  switch (plan.key().kind()) {
    case v1::TASK_KIND_TRAIN:
      return Train(plan, trainer, std::move(settings), data, clock, progress);
    case v1::TASK_KIND_EVALUATE:
      return Evaluate(plan, trainer, settings, data, progress);
    default:
      return absl::InvalidArgumentError(absl::StrCat(
          "unknown kind of task: ", static_cast<int>(plan.key().kind()),
          "; this client may be too old"));
  }
}

}  // namespace

absl::StatusOr<ClipReport> ClipL2(absl::Span<float> values,
                                  double max_norm_l2) {
  // Squares of finite floats stay finite in double, and so does their sum.
  double sum = 0.0;
  for (const float value : values) {
    if (!std::isfinite(value)) {
      return absl::InvalidArgumentError(
          "the update has an element that is not finite");
    }
    sum += static_cast<double>(value) * value;
  }
  ClipReport report;
  report.norm_l2 = std::sqrt(sum);
  if (max_norm_l2 > 0.0 && report.norm_l2 > max_norm_l2) {
    report.clipped = true;
    const double scale = max_norm_l2 / report.norm_l2;
    for (float& value : values) value = static_cast<float>(value * scale);
  }
  return report;
}

v1::ReportRequest MakeFailureReport(const v1::TaskKey& key,
                                    absl::string_view reason) {
  v1::ReportRequest report;
  *report.mutable_key() = key;
  size_t bytes = std::min(reason.size(), kMaxReasonBytes);
  // Never cut inside a character: the field must be valid UTF-8.
  while (bytes > 0 && bytes < reason.size() &&
         (static_cast<unsigned char>(reason[bytes]) & 0xC0) == 0x80) {
    --bytes;
  }
  const absl::string_view kept = reason.substr(0, bytes);
  report.mutable_failure()->set_reason(std::string(kept));
  return report;
}

absl::StatusOr<TaskResult> RunTask(const v1::TaskPlan& plan,
                                   model::Trainer& trainer,
                                   absl::string_view adapter_bytes,
                                   const LocalData& data,
                                   const base::Clock& clock,
                                   const model::ProgressFn& progress) {
  absl::Status stopped;
  const auto watched = [&](int step, int steps) {
    if (progress) stopped = progress(step, steps);
    return stopped;
  };
  absl::StatusOr<TaskResult> result =
      Dispatch(plan, trainer, adapter_bytes, data, clock, watched);
  if (!stopped.ok()) return stopped;
  if (result.ok()) return result;
  TaskResult failure;
  failure.report = MakeFailureReport(plan.key(), result.status().message());
  return failure;
}

}  // namespace choir::client
