// How a group of linear layers passes through an autograd node, which takes
// only tensors that are defined and numbers.
#ifndef CHOIR_MODEL_TRANSFORMER_LINEAR_PARTS_H_
#define CHOIR_MODEL_TRANSFORMER_LINEAR_PARTS_H_

#include <cstdint>
#include <vector>

#include "model/torch/compat.h"
#include "model/transformer/ops.h"

namespace choir::model {

// tensors: the layers' common input, then those of the layers' tensors that
// `mask` has a bit for, four bits for each layer: weight, bias, lora_a, lora_b.
// packed: the address of each layer's packed weight, or 0.
struct FlatLinears {
  std::vector<at::Tensor> tensors;
  std::vector<int64_t> packed;
  int64_t mask = 0;
};

inline FlatLinears Flatten(const at::Tensor& x,
                           const std::vector<LinearParts>& layers) {
  FlatLinears flat;
  flat.tensors.push_back(x);
  int bit = 0;
  for (const LinearParts& layer : layers) {
    flat.packed.push_back(reinterpret_cast<int64_t>(layer.packed));
    for (const at::Tensor* tensor :
         {&layer.weight, &layer.bias, &layer.lora_a, &layer.lora_b}) {
      if (tensor->defined()) {
        flat.tensors.push_back(*tensor);
        flat.mask |= int64_t{1} << bit;
      }
      ++bit;
    }
  }
  return flat;
}

inline std::vector<LinearParts> Unflatten(at::TensorList tensors, int64_t mask,
                                          const std::vector<int64_t>& packed) {
  std::vector<LinearParts> parts(packed.size());
  size_t next = 1;
  for (size_t i = 0; i < parts.size(); ++i) {
    parts[i].packed = reinterpret_cast<const PackedWeight*>(packed[i]);
    int bit = 4 * static_cast<int>(i);
    for (at::Tensor* tensor : {&parts[i].weight, &parts[i].bias,
                               &parts[i].lora_a, &parts[i].lora_b}) {
      if ((mask >> bit++ & 1) != 0) *tensor = tensors[next++];
    }
  }
  return parts;
}

// Gradients of `tensors`, from those of x and of the four tensors of each layer
// (`all`: 1 + 4 per layer).
inline std::vector<at::Tensor> DefinedGradients(
    const std::vector<at::Tensor>& all, int64_t mask) {
  std::vector<at::Tensor> defined = {all[0]};
  for (size_t i = 1; i < all.size(); ++i) {
    if ((mask >> (i - 1) & 1) != 0) defined.push_back(all[i]);
  }
  return defined;
}

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRANSFORMER_LINEAR_PARTS_H_
