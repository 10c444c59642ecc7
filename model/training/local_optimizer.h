// The local optimiser of one adapter in training: its values, their gradient
// and what the optimiser remembers. No LibTorch.
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
struct LocalOptimizer {
  std::vector<float> values, gradient;

  // Begins at `start` with nothing remembered.
  void Reset(absl::Span<const float> start);
  // Clips `gradient` and takes one step with it.
  // Errors: ABORTED if the gradient is not finite.
  absl::Status Step(const config::TrainingOptions& options);
  // ABORTED if a value is no longer finite.
  absl::Status CheckValues() const;

 private:
  std::vector<float> first_moment_, second_moment_;
  int64_t steps_ = 0;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRAINING_LOCAL_OPTIMIZER_H_
