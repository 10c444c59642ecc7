// How a training step goes through a model.
#ifndef CHOIR_MODEL_PASSES_H_
#define CHOIR_MODEL_PASSES_H_

#include <cstdint>

#include "model/checkpoint/model_config.h"
#include "proto/config/job_options.h"

namespace choir::model {

// Weight of the load-balancing loss: as asked for, else the model's own.
double AuxLossWeight(const MoeConfig& moe,
                     const config::RouterOptions& options);

// Tokens that a CPU takes through the model at once, of whole examples; at
// least one example. Gradients of the parts of a pass add up to the pass's, and
// a processor is no faster with more (docs/benchmarks.md), but would keep the
// activations of all. Unlimited where a pass is more than the sum of its
// parts: where dropout is drawn for it, or routers' losses are of its means.
int64_t MostTokensAtOnce(const ModelConfig& config,
                         const config::AdapterOptions& adapter,
                         const config::RouterOptions& router);

}  // namespace choir::model

#endif  // CHOIR_MODEL_PASSES_H_
