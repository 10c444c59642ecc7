// A tensor's numbers for code that knows nothing of LibTorch.
#ifndef CHOIR_MODEL_TORCH_SPAN_H_
#define CHOIR_MODEL_TORCH_SPAN_H_

#include <cstddef>

#include "absl/types/span.h"
#include "model/torch/compat.h"

namespace choir::model {

// The memory of a contiguous float32 tensor on the CPU; valid as long as that.
inline absl::Span<float> SpanOf(const at::Tensor& x) {
  return {x.data_ptr<float>(), static_cast<size_t>(x.numel())};
}

}  // namespace choir::model

#endif  // CHOIR_MODEL_TORCH_SPAN_H_
