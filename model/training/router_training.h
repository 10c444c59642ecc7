// What training a model with experts does for its routers: losses that keep
// the experts evenly busy, balancing without a loss, and counts of tokens.
#ifndef CHOIR_MODEL_TRAINING_ROUTER_TRAINING_H_
#define CHOIR_MODEL_TRAINING_ROUTER_TRAINING_H_

#include <cstdint>
#include <vector>

#include "model/checkpoint/model_config.h"
#include "model/torch/compat.h"
#include "model/transformer/decoder.h"
#include "proto/config/job_options.h"

namespace choir::model {

// One call of Trainer::Train. Does nothing for a dense model.
// Threads: one at a time.
class RouterTraining {
 public:
  RouterTraining(const ModelConfig& config,
                 const config::RouterOptions& options);

  // True if the losses need every token of the input, even those that predict
  // nothing: examples are then packed with their last id.
  bool whole_examples() const { return log_.keep_logits; }
  // Before a forward pass; `forward` must not outlive this object.
  void Prepare(ForwardOptions& forward);
  // After it: counts its tokens and returns `loss` with the routers' losses,
  // times `share`, the pass's part of the step.
  at::Tensor AddLosses(const at::Tensor& loss, double share);
  // After the optimiser's step: moves the biases, if they balance.
  void StepDone();

  // Choices of tokens so far: one vector for each block with experts, one
  // count for each expert of the model (0 for those not held).
  const std::vector<std::vector<uint64_t>>& expert_tokens() const {
    return expert_tokens_;
  }

 private:
  const MoeConfig moe_;
  const config::RouterOptions options_;
  const double aux_loss_;  // weight
  const std::vector<int64_t> held_;
  RouterLog log_;
  RouterBias bias_;
  std::vector<std::vector<int64_t>> step_tokens_;  // of the held experts
  std::vector<std::vector<uint64_t>> expert_tokens_;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRAINING_ROUTER_TRAINING_H_
