// An experiment's configuration with every default filled in and checked.
#ifndef CHOIR_SIM_EXPERIMENT_EXPERIMENT_OPTIONS_H_
#define CHOIR_SIM_EXPERIMENT_EXPERIMENT_OPTIONS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "choir/v1/config.pb.h"
#include "client/data/dataset.h"
#include "model/base_model.h"
#include "proto/config/job_options.h"
#include "sim/partition/partitioner.h"

namespace choir::sim {

struct PopulationOptions {
  client::DataOptions data;
  double holdout = 0.1;
  // Field of the examples that natural clients, or labels, come from.
  std::string field;
  // Its seed is derived from the job's.
  PartitionOptions partition;
};

struct ExperimentOptions {
  config::JobOptions job;
  PopulationOptions clients;
  int workers = 1;
  int clients_per_pass = 1;
  double dropout_rate = 0.0;
  bool keep_updates = false;
  model::DeviceKind device = model::DeviceKind::kAuto;
  int device_threads = 1;
  absl::optional<model::WeightFormat> precision;  // no value: as stored
};

// Errors: INVALID_ARGUMENT names the field by its path ("clients.count"), its
// value and the limit.
absl::StatusOr<ExperimentOptions> ResolveExperiment(
    const v1::ExperimentConfig& config);

// How the base model of an experiment is loaded.
model::LoadOptions HowToLoad(const ExperimentOptions& options);

// The inverse, with every field set: what resolved.toml holds.
v1::ExperimentConfig ToProto(const ExperimentOptions& options);

// Reads a TOML file and applies overrides "path.to.field=value".
absl::StatusOr<ExperimentOptions> LoadExperiment(
    const std::string& path, const std::vector<std::string>& overrides);

// OK if a run begun with `before` may go on with `now`: they may differ in the
// number of workers and the device's threads, which change no result.
// FAILED_PRECONDITION names the first table that differs.
absl::Status CheckResumable(const v1::ExperimentConfig& before,
                            const v1::ExperimentConfig& now);

}  // namespace choir::sim

#endif  // CHOIR_SIM_EXPERIMENT_EXPERIMENT_OPTIONS_H_
