// Which linear layers an adapter adapts where nobody named them.
#ifndef CHOIR_MODEL_ADAPTER_TARGETS_H_
#define CHOIR_MODEL_ADAPTER_TARGETS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/checkpoint/model_config.h"
#include "proto/config/job_options.h"

namespace choir::model {

// `options` with target_modules as names that this model has. Names that are
// there already stay.
//
//   none             LoRA kinds: every linear layer of attention and of dense
//                    feed-forward layers; of a mixture of experts the
//                    attention's alone, since adapters of experts grow with
//                    their number, and with them every transfer
//                    (IA)^3: keys and values (or the layer that makes them),
//                    and the feed-forward layers' last
//   {"all-linear"}   every linear layer of the blocks, experts too, routers
//                    not: they are trained whole or not at all
//
// With them, those of (IA)^3 that scale their input: the feed-forward layers'
// last. Doing it twice changes nothing.
config::AdapterOptions WithTargets(const ModelConfig& config,
                                   config::AdapterOptions options);

// Restricts `config` to `experts` (empty: all) for training `adapter`: sets
// config.moe.held.
// Errors: INVALID_ARGUMENT, each with the way out, for a model without experts,
// an expert that it does not have or that is named twice, fewer experts than a
// token passes, and an adapter that has tensors of experts, whose shape would
// no longer be everybody else's.
absl::Status HoldExpertsToTrain(const std::vector<int64_t>& experts,
                                const config::AdapterOptions& adapter,
                                ModelConfig& config);

// WithTargets() of the adapter of a job whose base is in the folder
// `job.base_model`. Errors: those of LoadModelConfig.
absl::StatusOr<config::JobOptions> WithTargets(config::JobOptions job);

}  // namespace choir::model

#endif  // CHOIR_MODEL_ADAPTER_TARGETS_H_
