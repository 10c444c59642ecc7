// Tables of the angles by which queries and keys are rotated.
//
// Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position
//         Embedding" (2021); scaling as in Hugging Face.
#ifndef CHOIR_MODEL_TRANSFORMER_ROTARY_H_
#define CHOIR_MODEL_TRANSFORMER_ROTARY_H_

#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"
#include "model/checkpoint/model_config.h"
#include "model/torch/compat.h"

namespace choir::model {

// Angular frequencies, head_dim / 2 of them, with the configured scaling; none
// for learned positions.
std::vector<double> RotaryFrequencies(const ModelConfig& config);

struct RotaryAngles {
  at::Tensor cosine, sine;  // float32 [positions, head_dim / 2]
};

// Grows with the longest sequence seen, up to config.max_positions. A model
// with learned positions gets undefined tensors: it does not rotate.
// Threads: safe. The values do not depend on how the table grew.
class RotaryTable {
 public:
  RotaryTable(const ModelConfig& config, at::Device device);

  // Angles of positions 0 to at least `positions` - 1.
  RotaryAngles Get(int64_t positions) const;

 private:
  const std::vector<double> frequencies_;  // empty: no rotation
  const int64_t most_;
  const at::Device device_;
  mutable base::Mutex mutex_;
  mutable RotaryAngles angles_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRANSFORMER_ROTARY_H_
