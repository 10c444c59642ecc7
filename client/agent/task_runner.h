// The work itself, behind an interface so that the agent's talk with its
// coordinator can be tested without a model.
#ifndef CHOIR_CLIENT_AGENT_TASK_RUNNER_H_
#define CHOIR_CLIENT_AGENT_TASK_RUNNER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "choir/v1/coordinator.pb.h"
#include "client/agent/client_options.h"
#include "client/data/dataset.h"
#include "client/session/participation.h"
#include "model/training/trainer.h"

namespace choir::client {

// Threads: one thread at a time.
class TaskRunner {
 public:
  virtual ~TaskRunner() = default;
  virtual v1::Capabilities capabilities() const = 0;

  // As RunTask (client/session/participation.h). `model_folder` has the plan's
  // base model; `model_digest` names its contents.
  virtual absl::StatusOr<TaskResult> Run(const v1::TaskPlan& plan,
                                         const std::string& model_folder,
                                         absl::string_view model_digest,
                                         absl::string_view adapter_bytes,
                                         const model::ProgressFn& progress) = 0;
};

// Trains on the client's own examples, within the memory that the options
// allow: what the plan asks for is then done in smaller passes, with weights in
// fewer bits and fewer experts if need be, or refused. Holds one base model,
// one trainer and one encoding of the examples at a time, and makes them anew
// only when the plan asks for others.
class LocalTaskRunner final : public TaskRunner {
 public:
  // Reads the examples. `clock` outlives the runner. Errors: LoadDataset's;
  // FAILED_PRECONDITION for device "cuda" is met when a model is loaded.
  static absl::StatusOr<std::unique_ptr<LocalTaskRunner>> Create(
      const ClientOptions& options, const base::Clock& clock);

  v1::Capabilities capabilities() const override { return capabilities_; }
  const DatasetSplit& data() const { return data_; }
  absl::StatusOr<TaskResult> Run(const v1::TaskPlan& plan,
                                 const std::string& model_folder,
                                 absl::string_view model_digest,
                                 absl::string_view adapter_bytes,
                                 const model::ProgressFn& progress) override;

 private:
  LocalTaskRunner(const ClientOptions& options, const base::Clock& clock,
                  DatasetSplit data);
  // `plan` as this device carries it out, and how to hold its base model: in
  // what precision, which experts (empty: all). RESOURCE_EXHAUSTED if it cannot
  // fit, INVALID_ARGUMENT if it cannot be done with the experts that the
  // options name.
  struct FittedPlan {
    v1::TaskPlan plan;
    absl::optional<model::WeightFormat> precision;
    std::vector<int64_t> experts;
  };
  absl::StatusOr<FittedPlan> Fit(const v1::TaskPlan& plan,
                                 const std::string& model_folder) const;
  // Whether the job can learn from the examples. Of a `secure` round's task the
  // error says nothing about them.
  absl::Status CheckData(const config::TrainingOptions& training,
                         bool secure) const;
  absl::Status Prepare(const FittedPlan& fitted,
                       const std::string& model_folder,
                       absl::string_view model_digest);

  const model::DeviceKind device_;
  const absl::optional<model::WeightFormat> precision_;
  const int64_t memory_mib_;
  const std::vector<int64_t> experts_;
  const base::Clock& clock_;
  const DatasetSplit data_;
  v1::Capabilities capabilities_;
  // What the following were made for.
  std::string model_digest_;
  absl::optional<model::WeightFormat> held_precision_;
  std::vector<int64_t> held_experts_;
  std::string adapter_settings_;
  std::string encoding_;
  // Shared with the trainer, as model/training/trainer.h asks.
  std::shared_ptr<const model::BaseModel> base_;
  std::unique_ptr<model::Trainer> trainer_;
  LocalData encoded_;
};

}  // namespace choir::client

#endif  // CHOIR_CLIENT_AGENT_TASK_RUNNER_H_
