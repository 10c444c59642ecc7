#include "model/kernels/row_kernels.h"

#include <limits>
#include <vector>

namespace choir::model {

CHOIR_KERNEL float SumOfSquares(const float* x, int64_t n) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) sum += x[j] * x[j];
  return sum;
}

CHOIR_KERNEL float Dot(const float* x, const float* y, int64_t n) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) sum += x[j] * y[j];
  return sum;
}

CHOIR_KERNEL float Maximum(const float* x, int64_t n) {
  float top = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : top)
  for (int64_t j = 0; j < n; ++j) top = x[j] > top ? x[j] : top;
  return top;
}

CHOIR_KERNEL float ExpRow(float* x, int64_t n, float shift) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) {
    const float e = FastExp(x[j] - shift);
    x[j] = e;
    sum += e;
  }
  return sum;
}

CHOIR_KERNEL void ScaleRow(float* x, int64_t n, float factor) {
  for (int64_t j = 0; j < n; ++j) x[j] *= factor;
}

CHOIR_KERNEL void SoftmaxBackwardRow(const float* p, float* grad, int64_t n,
                                     float delta, float scale) {
  for (int64_t j = 0; j < n; ++j) grad[j] = p[j] * (grad[j] - delta) * scale;
}

float* RowScratch(int which, int64_t n) {
  thread_local std::vector<float> buffers[4];
  std::vector<float>& buffer = buffers[which];
  if (static_cast<int64_t>(buffer.size()) < n) buffer.resize(n);
  return buffer.data();
}

}  // namespace choir::model
