// Whether a base model and an adapter can take what a job asks of training.
//
// config.json says it, so that a job is refused when it is submitted and not in
// its rounds; trainers ask the same.
#ifndef CHOIR_MODEL_TRAINING_TRAINING_FIT_H_
#define CHOIR_MODEL_TRAINING_TRAINING_FIT_H_

#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "model/checkpoint/model_config.h"
#include "model/quantize/weight_format.h"
#include "proto/config/job_options.h"

namespace choir::model {

// `packed`: whether the base's linear layers are held as packed_weight.h does,
// that is, in a quantised folder's format or a precision other than fp32.
//
// Errors: INVALID_ARGUMENT naming setting, value, reason and remedy: sparsity
// on a base with experts, on a packed one or with an adapter whose tensors
// cannot be taken channel by channel; settings of routers on a base without
// any.
absl::Status CheckTrainingFits(const ModelConfig& config, bool packed,
                               const config::AdapterOptions& adapter,
                               const config::TrainingOptions& training);

// The same of a job and the base in the folder `job.base_model`, and whether
// the adapter's layers are there. `precision`: what devices are known to load
// the base in, if not as it is stored.
// Errors besides: those of LoadModelConfig, ReadQuantization, AdapterLayout.
absl::Status CheckJobFits(
    const config::JobOptions& job,
    absl::optional<WeightFormat> precision = absl::nullopt);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRAINING_TRAINING_FIT_H_
