// The local optimiser of one adapter where its model is: on a GPU neither
// values nor gradients travel to the CPU between steps.
#ifndef CHOIR_MODEL_TRAINING_DEVICE_OPTIMIZER_H_
#define CHOIR_MODEL_TRAINING_DEVICE_OPTIMIZER_H_

#include <cstdint>

#include "absl/status/status.h"
#include "model/torch/compat.h"
#include "proto/config/job_options.h"

namespace choir::model {

// The arithmetic of LocalOptimizer over flat float32 tensors of one device;
// equal to it up to rounding. Threads: one at a time.
class DeviceOptimizer {
 public:
  // Begins anew for vectors like `values`, with nothing remembered.
  void Reset(const at::Tensor& values);
  // Clips `gradient` and takes one step with it; both in place.
  // Errors: ABORTED if the gradient is not finite; `values` are then unchanged.
  // Waits for the gradient.
  absl::Status Step(const config::TrainingOptions& options,
                    at::Tensor& gradient, at::Tensor& values);

 private:
  at::Tensor first_moment_, second_moment_;
  int64_t steps_ = 0;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRAINING_DEVICE_OPTIMIZER_H_
