#include "model/training/router_training.h"

#include <algorithm>

#include "model/passes.h"

namespace choir::model {
RouterTraining::RouterTraining(const ModelConfig& config,
                               const config::RouterOptions& options)
    : moe_(config.moe),
      options_(options),
      aux_loss_(AuxLossWeight(config.moe, options)),
      held_(config.moe.HeldExperts()) {
  if (moe_.num_experts == 0) return;
  log_.keep_logits = aux_loss_ > 0.0 || options_.z_loss > 0.0;
  int64_t blocks = 0;
  for (int64_t i = 0; i < config.num_layers; ++i) {
    blocks += config.IsMoe(i) ? 1 : 0;
  }
  step_tokens_.assign(blocks, std::vector<int64_t>(held_.size(), 0));
  expert_tokens_.assign(blocks, std::vector<uint64_t>(moe_.num_experts, 0));
}

void RouterTraining::Prepare(ForwardOptions& forward) {
  if (moe_.num_experts == 0) return;
  forward.router_log = &log_;
  forward.router_bias = bias_.empty() ? nullptr : &bias_;
}

at::Tensor RouterTraining::AddLosses(const at::Tensor& loss, double share) {
  for (size_t i = 0; i < log_.layers.size(); ++i) {
    const std::vector<int64_t>& tokens = log_.layers[i].tokens;
    for (size_t e = 0; e < tokens.size(); ++e) {
      step_tokens_[i][e] += tokens[e];
      expert_tokens_[i][held_[e]] += static_cast<uint64_t>(tokens[e]);
    }
  }
  at::Tensor total = loss;
  if (log_.keep_logits && !log_.layers.empty()) {
    if (aux_loss_ > 0.0) {
      const int64_t k = std::min<int64_t>(moe_.experts_per_token,
                                          static_cast<int64_t>(held_.size()));
      total = total + LoadBalancingLoss(log_.layers, k).to(at::kDouble) *
                          (aux_loss_ * share);
    }
    if (options_.z_loss > 0.0) {
      total = total + RouterZLoss(log_.layers).to(at::kDouble) *
                          (options_.z_loss * share);
    }
  }
  log_.layers.clear();  // the graph lives on in the losses alone
  return total;
}

void RouterTraining::StepDone() {
  if (options_.bias_rate > 0.0 && !step_tokens_.empty()) {
    BalanceRouterBias(step_tokens_, options_.bias_rate, bias_);
  }
  for (std::vector<int64_t>& tokens : step_tokens_) {
    std::fill(tokens.begin(), tokens.end(), 0);
  }
}

}  // namespace choir::model
