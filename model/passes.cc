#include "model/passes.h"

#include <limits>

namespace choir::model {

double AuxLossWeight(const MoeConfig& moe,
                     const config::RouterOptions& options) {
  if (options.aux_loss >= 0.0) return options.aux_loss;
  return moe.aux_loss ? moe.aux_loss_coefficient : 0.0;
}

int64_t MostTokensAtOnce(const ModelConfig& config,
                         const config::AdapterOptions& adapter,
                         const config::RouterOptions& router) {
  const bool router_losses =
      config.moe.num_experts > 0 &&
      (AuxLossWeight(config.moe, router) > 0.0 || router.z_loss > 0.0);
  if (adapter.dropout > 0.0 || router_losses) {
    return std::numeric_limits<int64_t>::max();
  }
  return 1024;
}

}  // namespace choir::model
