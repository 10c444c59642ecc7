// Fits training into the memory that a device has to spare.
//
// The peak of a training process is estimated from the model's shape; the plan
// gives up as little as it can, in this order: the size of a pass (gradients of
// several passes are summed, the optimiser's step stays what it was), keeping
// activations (they are computed twice), the precision of the frozen weights,
// the adapter's rank, the length of examples; at the very last experts, if the
// adapter leaves them as they are.
// No LibTorch, no weights.
#ifndef CHOIR_MODEL_PLANNER_H_
#define CHOIR_MODEL_PLANNER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "model/checkpoint/model_config.h"
#include "model/quantize/weight_format.h"
#include "proto/config/job_options.h"

namespace choir::model {

// Peak resident memory by what needs it, in bytes.
struct MemoryEstimate {
  double process = 0.0;      // program, LibTorch, tokenizer
  double weights = 0.0;      // frozen, as held, and what loading them takes
  double adapter = 0.0;      // values, gradients, the optimiser's state
  double activations = 0.0;  // kept for the gradient
  double workspace = 0.0;    // of one layer, of the loss, of merged weights
  double data = 0.0;         // examples; what the caller keeps besides
  double total() const {
    return process + weights + adapter + activations + workspace + data;
  }
  int64_t total_mib() const;  // rounded up
};

// For training on the CPU with these settings exactly (of a mixture with
// config.moe.held, with those). An estimate from above: real peaks are at or
// below it.
MemoryEstimate EstimateMemory(const ModelConfig& config,
                              const config::AdapterOptions& adapter,
                              const config::TrainingOptions& training,
                              WeightFormat precision);

struct PlanRequest {
  int64_t budget_mib = 0;
  // What is wanted; the plan keeps what fits of it.
  config::AdapterOptions adapter;
  config::TrainingOptions training;
  // Tokens of the longest example; 0: not known. Longer settings are free, up
  // to the model's context.
  int64_t longest_example = 0;
  // Precisions to choose from; a quantised folder has just its own, and a wish
  // is the only one. Empty: all, best first.
  std::vector<WeightFormat> precisions;
  // A federation's adapter has one shape: then rank and length stay.
  bool may_shrink_adapter = true;
  double data_bytes = 0.0;
  // Of a mixture of experts, those to hold: a wish, which stays. Empty: all, or
  // as many as fit.
  std::vector<int64_t> experts;
};

struct MemoryPlan {
  config::AdapterOptions adapter;
  config::TrainingOptions training;
  WeightFormat precision = WeightFormat::kFloat32;
  std::vector<int64_t> experts;  // LoadOptions::experts; empty: all
  MemoryEstimate estimate;
  // What the plan changed of what was wanted, in words; empty: nothing.
  std::vector<std::string> changes;
};

// Errors: RESOURCE_EXHAUSTED naming the smallest budget in MiB that would do,
// and with what settings; INVALID_ARGUMENT for a budget that is not positive
// or an adapter that does not fit the model, and for experts those of
// HoldExpertsToTrain().
absl::StatusOr<MemoryPlan> PlanMemory(const ModelConfig& config,
                                      const PlanRequest& request);

// Peak resident memory of this process so far (VmHWM), in bytes; 0 if the
// system does not say.
uint64_t PeakResidentBytes();

}  // namespace choir::model

#endif  // CHOIR_MODEL_PLANNER_H_
