// Activation checkpointing: memory for time.
#ifndef CHOIR_MODEL_TRANSFORMER_CHECKPOINTING_H_
#define CHOIR_MODEL_TRANSFORMER_CHECKPOINTING_H_

#include <functional>
#include <vector>

#include "model/torch/compat.h"

namespace choir::model {

// A part of a forward pass. Everything that it computes with besides `inputs`
// must live, unchanged, until the gradients have been computed; run twice on
// the same inputs it must give the same outputs.
using Segment = std::function<std::vector<at::Tensor>(
    const std::vector<at::Tensor>& inputs)>;

// Runs `segment` and keeps only its inputs; the gradient runs it again. Leaves
// inside the segment (an adapter's parameters) get their gradients then. The
// gradients are those of running it directly, bit for bit.
// `inputs` are all defined. Without gradients: segment(inputs).
// Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost" (2016).
std::vector<at::Tensor> Checkpointed(const Segment& segment,
                                     const std::vector<at::Tensor>& inputs);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRANSFORMER_CHECKPOINTING_H_
