// The baseline that federated training is measured against: the same adapter
// trained on all clients' data in one place.
#ifndef CHOIR_SIM_EXPERIMENT_POOLED_H_
#define CHOIR_SIM_EXPERIMENT_POOLED_H_

#include <cstdint>
#include <limits>
#include <string>

#include "absl/status/statusor.h"
#include "model/training/trainer.h"
#include "sim/experiment/experiment_options.h"

namespace choir::sim {

struct PooledResult {
  int steps = 0;
  size_t num_clients = 0;
  uint64_t train_examples = 0;
  uint64_t heldout_examples = 0;
  double heldout_loss_before = 0.0;
  double heldout_loss = 0.0;
  // Of classification, else NaN: share of right labels.
  double heldout_accuracy_before = std::numeric_limits<double>::quiet_NaN();
  double heldout_accuracy = std::numeric_limits<double>::quiet_NaN();
  double train_loss = 0.0;
  // Share of the weights' multiplications that training.sparsity left out.
  double flops_saved = 0.0;
  // SHA-256, hexadecimal, of the adapter file that the result would be.
  std::string adapter_digest;
  double wall_seconds = 0.0;
  double peak_rss_mib = 0.0;
};

// Trains `steps` optimiser steps from the job's first adapter on the training
// examples of all clients together, and evaluates on the held-out examples of
// all clients: the same trainer, settings, split and measure as a federated
// run, with one optimiser that keeps its state.
//
// Errors: INVALID_ARGUMENT for `steps` below 1, settings, data or base model;
//   what `progress` returns, which is called after each step.
absl::StatusOr<PooledResult> TrainPooled(const ExperimentOptions& options,
                                         int steps,
                                         const model::ProgressFn& progress);

std::string PooledJson(const ExperimentOptions& options,
                       const PooledResult& result);

}  // namespace choir::sim

#endif  // CHOIR_SIM_EXPERIMENT_POOLED_H_
