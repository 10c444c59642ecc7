// The operations of ops.h by LibTorch's own, with its own gradients.
#ifndef CHOIR_MODEL_TRANSFORMER_OPS_REFERENCE_H_
#define CHOIR_MODEL_TRANSFORMER_OPS_REFERENCE_H_

#include <utility>
#include <vector>

#include "model/transformer/ops.h"

namespace choir::model {

std::vector<at::Tensor> LinearGroupReference(
    const at::Tensor& x, const std::vector<LinearParts>& layers,
    const LoraUse& lora);

std::pair<at::Tensor, at::Tensor> AddRmsNormReference(const at::Tensor& x,
                                                      const at::Tensor& delta,
                                                      const at::Tensor& weight,
                                                      double epsilon);

at::Tensor LinearCrossEntropyReference(const at::Tensor& hidden,
                                       const at::Tensor& head,
                                       const at::Tensor& targets,
                                       double weight);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRANSFORMER_OPS_REFERENCE_H_
