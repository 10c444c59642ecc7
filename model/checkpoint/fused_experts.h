// Experts whose weights a checkpoint keeps in one tensor.
//
// Hugging Face transformers 5 computes with "mlp.experts.gate_up_proj"
// [experts, 2 * inner, hidden] (gates above ups) and "mlp.experts.down_proj"
// [experts, hidden, inner], the router being "mlp.gate", in every family. It
// writes the older names unless it is told otherwise.
#ifndef CHOIR_MODEL_CHECKPOINT_FUSED_EXPERTS_H_
#define CHOIR_MODEL_CHECKPOINT_FUSED_EXPERTS_H_

#include <vector>

#include "model/checkpoint/model_config.h"
#include "model/checkpoint/safetensors.h"

namespace choir::model {

// The tensors with each expert's part under the name that ModelTensors() gives
// it, borrowing the same bytes. What is not fused, or not in the shape that
// `config` describes, stays as it is.
std::vector<TensorView> SplitFusedExperts(
    const ModelConfig& config, const std::vector<TensorView>& stored);

}  // namespace choir::model

#endif  // CHOIR_MODEL_CHECKPOINT_FUSED_EXPERTS_H_
