// Tensors of normal numbers that a seed decides.
#ifndef CHOIR_TESTS_UNIT_MODEL_NORMAL_TENSOR_H_
#define CHOIR_TESTS_UNIT_MODEL_NORMAL_TENSOR_H_

#include "base/sim_random.h"
#include "model/torch/compat.h"

namespace choir::tests {

// float32 on the CPU, with standard deviation `scale`.
inline at::Tensor NormalTensor(base::SimRandom& random, at::IntArrayRef sizes,
                               double scale = 1.0) {
  at::Tensor x = at::empty(sizes, at::kFloat);
  for (int64_t i = 0; i < x.numel(); ++i) {
    x.data_ptr<float>()[i] = static_cast<float>(random.Normal() * scale);
  }
  return x;
}

}  // namespace choir::tests

#endif  // CHOIR_TESTS_UNIT_MODEL_NORMAL_TENSOR_H_
