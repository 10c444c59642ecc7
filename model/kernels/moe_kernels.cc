#include "model/kernels/moe_kernels.h"

#include <cstring>

namespace choir::model {

void CopyTokenRows(const float* x, const int64_t* slots, int64_t n, int64_t k,
                   int64_t width, float* out) {
  for (int64_t p = 0; p < n; ++p) {
    std::memcpy(out + p * width, x + slots[p] / k * width,
                width * sizeof(float));
  }
}

void SumChoiceRows(const float* y, const int64_t* positions,
                   const float* weights, int64_t tokens, int64_t k,
                   int64_t width, float* out) {
  for (int64_t t = 0; t < tokens; ++t) {
    float* row = out + t * width;
    for (int64_t j = 0; j < k; ++j) {
      const int64_t slot = t * k + j;
      const float* from = y + positions[slot] * width;
      const float weight = weights == nullptr ? 1.0f : weights[slot];
      if (j == 0) {
        for (int64_t c = 0; c < width; ++c) row[c] = weight * from[c];
      } else {
        for (int64_t c = 0; c < width; ++c) row[c] += weight * from[c];
      }
    }
  }
}

void CombineBackward(const float* grad_out, const float* y,
                     const float* weights, const int64_t* slots, int64_t n,
                     int64_t k, int64_t width, float* grad_y,
                     float* grad_weights) {
  for (int64_t p = 0; p < n; ++p) {
    const int64_t slot = slots[p];
    const float* grad = grad_out + slot / k * width;
    const float* row = y + p * width;
    float* into = grad_y + p * width;
    const float weight = weights[slot];
    float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
    for (int64_t c = 0; c < width; ++c) {
      into[c] = weight * grad[c];
      dot += grad[c] * row[c];
    }
    grad_weights[slot] = dot;
  }
}

}  // namespace choir::model
