#include "client/agent/task_runner.h"

#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/cli.h"
#include "base/files.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "model/adapter/targets.h"
#include "model/checkpoint/packed_checkpoint.h"
#include "model/planner.h"
#include "proto/config/job_options.h"

namespace choir::client {
namespace {

// What the agent takes besides training: gRPC, TLS, buffers, its examples.
constexpr double kAgentBytes = 64.0 * 1048576.0;

uint64_t MemoryMib() {
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long page_bytes = sysconf(_SC_PAGE_SIZE);
  if (pages <= 0 || page_bytes <= 0) return 0;
  return static_cast<uint64_t>(pages) * static_cast<uint64_t>(page_bytes) >> 20;
}

// Whether the job's adapter can be trained with these experts alone.
absl::Status CheckExperts(const std::vector<int64_t>& experts,
                          const config::AdapterOptions& adapter,
                          model::ModelConfig model) {
  const absl::Status held = model::HoldExpertsToTrain(experts, adapter, model);
  if (held.ok()) return held;
  return absl::Status(held.code(), absl::StrCat("[device] experts of this "
                                                "device: ",
                                                held.message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<LocalTaskRunner>> LocalTaskRunner::Create(
    const ClientOptions& options, const base::Clock& clock) {
  CHOIR_ASSIGN_OR_RETURN(std::vector<RawExample> examples,
                         LoadDataset(options.data));
  DatasetSplit split = SplitHoldout(std::move(examples), options.holdout);
  if (split.train.empty()) {
    base::LogWarning(options.data.path, ": no example to train on, all ",
                     split.heldout.size(),
                     " are held out; give more data or a lower data.holdout");
  }
  return std::unique_ptr<LocalTaskRunner>(
      new LocalTaskRunner(options, clock, std::move(split)));
}

LocalTaskRunner::LocalTaskRunner(const ClientOptions& options,
                                 const base::Clock& clock, DatasetSplit data)
    : device_(options.device),
      precision_(options.precision),
      memory_mib_(options.memory_mib),
      experts_(options.experts),
      clock_(clock),
      data_(std::move(data)) {
  capabilities_.set_software_version(base::kVersion);
  capabilities_.set_device(std::string(model::DeviceKindName(device_)));
  capabilities_.set_memory_mib(
      memory_mib_ > 0 ? static_cast<uint64_t>(memory_mib_) : MemoryMib());
  capabilities_.set_trains(!data_.train.empty());
  capabilities_.set_evaluates(options.secure.evaluates() &&
                              !data_.heldout.empty());
}

absl::StatusOr<LocalTaskRunner::FittedPlan> LocalTaskRunner::Fit(
    const v1::TaskPlan& plan, const std::string& model_folder) const {
  FittedPlan fitted{plan, precision_, experts_};
  const bool budget = memory_mib_ > 0 && device_ != model::DeviceKind::kCuda;
  if (!budget && experts_.empty()) return fitted;
  model::PlanRequest request;
  request.budget_mib = memory_mib_;
  request.data_bytes = kAgentBytes;
  // The federation sums adapters of one shape.
  request.may_shrink_adapter = false;
  CHOIR_ASSIGN_OR_RETURN(request.adapter,
                         config::ResolveAdapter(plan.adapter_config()));
  CHOIR_ASSIGN_OR_RETURN(request.training,
                         config::ResolveTraining(plan.training()));
  CHOIR_ASSIGN_OR_RETURN(
      const model::ModelConfig model,
      model::LoadModelConfig(base::JoinPath(model_folder, "config.json")));
  if (!experts_.empty()) {
    CHOIR_RETURN_IF_ERROR(CheckExperts(experts_, request.adapter, model));
    request.experts = experts_;
  }
  if (!budget) return fitted;
  CHOIR_ASSIGN_OR_RETURN(const absl::optional<model::WeightFormat> stored,
                         model::ReadQuantization(model_folder));
  if (stored) {
    request.precisions = {*stored};
  } else if (precision_) {
    request.precisions = {*precision_};
  }
  CHOIR_ASSIGN_OR_RETURN(const model::MemoryPlan memory,
                         model::PlanMemory(model, request));
  v1::TrainingConfig& training = *fitted.plan.mutable_training();
  training.set_batch_size(static_cast<uint32_t>(memory.training.batch_size));
  training.set_gradient_accumulation(
      static_cast<uint32_t>(memory.training.gradient_accumulation));
  training.set_activation_checkpointing(
      memory.training.activation_checkpointing);
  fitted.precision = memory.precision;
  fitted.experts = memory.experts;
  if (!memory.changes.empty()) {
    base::LogInfo("to stay within ", memory_mib_,
                  " MiB: ", absl::StrJoin(memory.changes, "; "));
  }
  return fitted;
}

absl::Status LocalTaskRunner::CheckData(const config::TrainingOptions& training,
                                        bool secure) const {
  absl::Status fits;
  for (const auto* examples : {&data_.train, &data_.heldout}) {
    fits.Update(CheckExamples(*examples, training));
    fits.Update(CheckConversations(base_->tokenizer(), *examples, training));
  }
  if (fits.ok() || !secure) return fits;
  // The reason is reported: it must not say how many examples there are, which
  // travels masked.
  base::LogWarning(fits.message());
  return absl::Status(fits.code(),
                      "examples here do not suit the job's training.objective "
                      "or chat_format; this device's log says more");
}

absl::Status LocalTaskRunner::Prepare(const FittedPlan& fitted,
                                      const std::string& model_folder,
                                      absl::string_view model_digest) {
  const v1::TaskPlan& plan = fitted.plan;
  CHOIR_ASSIGN_OR_RETURN(const config::AdapterOptions adapter,
                         config::ResolveAdapter(plan.adapter_config()));
  CHOIR_ASSIGN_OR_RETURN(const config::TrainingOptions training,
                         config::ResolveTraining(plan.training()));
  if (base_ == nullptr || model_digest_ != model_digest ||
      held_precision_ != fitted.precision || held_experts_ != fitted.experts) {
    // The old model goes before the new one comes: never two in memory.
    trainer_.reset();
    base_.reset();
    encoding_.clear();
    encoded_ = LocalData();
    model::LoadOptions load;
    load.device = device_;
    load.precision = fitted.precision;
    load.experts = fitted.experts;
    CHOIR_ASSIGN_OR_RETURN(base_, model::BaseModel::Load(model_folder, load));
    model_digest_ = std::string(model_digest);
    held_precision_ = fitted.precision;
    held_experts_ = fitted.experts;
    capabilities_.set_device(base_->device());
    base::LogInfo("base model ", model_digest_.substr(0, 12), " loaded on ",
                  base_->device());
  }
  const std::string settings = plan.adapter_config().SerializeAsString();
  if (trainer_ == nullptr || adapter_settings_ != settings) {
    trainer_.reset();
    CHOIR_ASSIGN_OR_RETURN(trainer_, model::Trainer::Create(base_, adapter));
    adapter_settings_ = settings;
  }
  const std::string encoding = absl::StrCat(
      static_cast<int>(training.objective), " ", training.max_sequence_length,
      " ", training.chat_format, " ", absl::StrJoin(training.labels, "\n"));
  if (encoding_ != encoding) {
    CHOIR_RETURN_IF_ERROR(CheckData(training, plan.has_secure_session()));
    encoded_.train = EncodeExamples(base_->tokenizer(), data_.train, training);
    encoded_.heldout =
        EncodeExamples(base_->tokenizer(), data_.heldout, training);
    encoding_ = encoding;
  }
  return absl::OkStatus();
}

absl::StatusOr<TaskResult> LocalTaskRunner::Run(
    const v1::TaskPlan& plan, const std::string& model_folder,
    absl::string_view model_digest, absl::string_view adapter_bytes,
    const model::ProgressFn& progress) {
  const absl::StatusOr<FittedPlan> fitted = Fit(plan, model_folder);
  absl::Status ready = fitted.status();
  if (ready.ok()) ready = Prepare(*fitted, model_folder, model_digest);
  if (!ready.ok()) {
    TaskResult failure;
    failure.report = MakeFailureReport(plan.key(), ready.message());
    return failure;
  }
  return RunTask(fitted->plan, *trainer_, adapter_bytes, encoded_, clock_,
                 progress);
}

}  // namespace choir::client
