// A dense checkpoint as a mixture of experts that computes the same.
//
// Source: Komatsuzaki et al., "Sparse Upcycling: Training Mixture-of-Experts
//         from Dense Checkpoints" (2023).
#ifndef CHOIR_MODEL_CHECKPOINT_UPCYCLE_H_
#define CHOIR_MODEL_CHECKPOINT_UPCYCLE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/checkpoint/model_config.h"
#include "model/checkpoint/safetensors_writer.h"

namespace choir::model {

struct UpcycleOptions {
  int64_t experts = 8;
  int64_t experts_per_token = 2;
  uint64_t seed = 1;  // of the routers
  // Standard deviation of the routers' weights.
  double router_stddev = 0.02;
};

// The shape that UpcycleFolder gives a model: Llama and Mistral become Mixtral,
// Qwen3 becomes Qwen3-MoE.
// Errors: INVALID_ARGUMENT for experts that are not 2 to 4096, more experts per
//   token than experts, or a model that has experts already or that those
//   families cannot express (other families, biases).
absl::StatusOr<ModelConfig> UpcycledConfig(const ModelConfig& dense,
                                           const UpcycleOptions& options);

// Writes the new folder `to`: every expert a copy of the MLP, routers drawn at
// random, the chosen experts' weights made to sum to 1, so that the logits are
// those of the dense model. The side files (side_files.h) come along. One
// tensor is in memory at a time.
//
// Errors: those of UpcycledConfig and TensorFiles::Open; INVALID_ARGUMENT for a
//   quantised model or an embedding that is not F32, BF16 or F16; those of
//   CheckNewFolder() for `to`, of `stop` and of writing. On an error nothing is
//   left of `to`.
absl::Status UpcycleFolder(const std::string& from, const std::string& to,
                           const UpcycleOptions& options,
                           const StopFn& stop = nullptr);

}  // namespace choir::model

#endif  // CHOIR_MODEL_CHECKPOINT_UPCYCLE_H_
