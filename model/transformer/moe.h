// Mixture of experts: each token goes to the few experts that its router
// likes best, and tokens are grouped by expert so that each expert computes
// once, on the tokens it was given.
//
// Sources: Shazeer et al., "Outrageously Large Neural Networks" (2017); Fedus
//   et al., "Switch Transformers" (2021), load balancing; Zoph et al.,
//   "ST-MoE" (2022), router z-loss; Wang et al., "Auxiliary-Loss-Free Load
//   Balancing Strategy for Mixture-of-Experts" (2024).
#ifndef CHOIR_MODEL_TRANSFORMER_MOE_H_
#define CHOIR_MODEL_TRANSFORMER_MOE_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/types/span.h"
#include "model/checkpoint/model_config.h"
#include "model/torch/compat.h"
#include "model/transformer/ops.h"

namespace choir::model {

// What the routers of one forward pass did; one entry for each block with
// experts, in order of the blocks.
struct RouterLog {
  // In: whether to keep the logits. Then the last block routes every token,
  // as Hugging Face does, even those that predict nothing.
  bool keep_logits = false;
  struct Layer {
    int64_t block = 0;
    at::Tensor logits;  // float32 [tokens, experts held], with its gradient
    std::vector<int64_t> tokens;  // that each held expert got
  };
  std::vector<Layer> layers;
};

// Added to the router's scores to choose experts, never to weigh them: one
// float32 [experts held] for each block with experts.
using RouterBias = std::vector<at::Tensor>;

struct MoeParts {
  at::Tensor router;              // [experts held, hidden]
  at::Tensor bias;                // [experts held] or undefined
  int64_t experts_per_token = 0;  // at most the experts held
  bool renormalise = true;
};

// y of one expert, the i-th held, for its tokens x [n, hidden], n > 0.
using ExpertFn = std::function<at::Tensor(size_t i, const at::Tensor& x)>;

// sum over the chosen experts of weight * expert(x). x: [tokens, hidden].
// `layer` may be null; its logits are kept if `keep_logits`.
// Cost: that of tokens * experts_per_token rows through an expert.
at::Tensor MixExperts(Kernels kernels, const at::Tensor& x,
                      const MoeParts& parts, const ExpertFn& expert,
                      bool keep_logits, RouterLog::Layer* layer);

// num_experts * sum over experts of (share of the choices) * (mean
// probability), over the tokens of all layers together; 1 * experts_per_token
// if perfectly even. As transformers' load_balancing_loss_func, which counts
// shares per choice. A differentiable float32 scalar.
at::Tensor LoadBalancingLoss(absl::Span<const RouterLog::Layer> layers,
                             int64_t experts_per_token);

// The same from forward passes one after the other (no gradients).
class LoadBalancingMeter {
 public:
  explicit LoadBalancingMeter(int64_t experts_per_token)
      : experts_per_token_(experts_per_token) {}
  void Add(absl::Span<const RouterLog::Layer> layers);
  double loss() const;  // 0 before the first token

 private:
  const int64_t experts_per_token_;
  std::vector<double> choices_, probability_;
  double tokens_ = 0.0;
};

// Mean over the tokens of all layers of log(sum(exp(logits)))^2.
at::Tensor RouterZLoss(absl::Span<const RouterLog::Layer> layers);

// One step of the balancing without a loss: raises the bias of experts that
// got fewer tokens than the mean of their block by `rate`, lowers that of the
// others. tokens: [block with experts][held expert]. The bias starts at 0, on
// the CPU.
void BalanceRouterBias(absl::Span<const std::vector<int64_t>> tokens,
                       double rate, RouterBias& bias);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRANSFORMER_MOE_H_
