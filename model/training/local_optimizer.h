// The local optimiser of one adapter in training, on the CPU: how long it
// trains, and what it remembers between steps. No LibTorch.
#ifndef CHOIR_MODEL_TRAINING_LOCAL_OPTIMIZER_H_
#define CHOIR_MODEL_TRAINING_LOCAL_OPTIMIZER_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "proto/config/job_options.h"

namespace choir::model {

// How long a call of training is.
struct TrainingLength {
  TrainingLength(const config::TrainingOptions& options, size_t num_examples);
  size_t examples_per_step = 0;
  // Steps run on into the next epoch; else an epoch ends with a smaller batch.
  bool runs_on = false;
  int steps = 0;
};

// Threads: one at a time.
class LocalOptimizer {
 public:
  // Begins anew for adapters of `size` parameters, with nothing remembered.
  void Reset(size_t size);
  // Clips `gradient` and takes one step with it; both in place.
  // Errors: ABORTED if the gradient is not finite; `values` are then unchanged.
  absl::Status Step(const config::TrainingOptions& options,
                    absl::Span<float> gradient, absl::Span<float> values);

 private:
  std::vector<float> first_moment_, second_moment_;
  int64_t steps_ = 0;
};

// ABORTED if a parameter that was trained is no longer finite.
absl::Status CheckFinite(absl::Span<const float> values);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRAINING_LOCAL_OPTIMIZER_H_
