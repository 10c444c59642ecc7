// Loops over one row of numbers, compiled for several processors: what the
// kernels of attention, normalisation and softmax are made of.
//
// Threads: safe on distinct outputs. Results depend on the arguments alone, for
// one kind of processor.
#ifndef CHOIR_MODEL_KERNELS_ROW_KERNELS_H_
#define CHOIR_MODEL_KERNELS_ROW_KERNELS_H_

#include <cstdint>

#include "base/processor_clones.h"

#define CHOIR_INLINE inline __attribute__((always_inline))

namespace choir::model {

// exp for a vector unit, without branches: Cephes' polynomial after reduction
// by log 2; relative error below 2e-7. Arguments below -87 give 1e-38, as good
// as 0; a NaN stays one. The argument must not exceed 88.
CHOIR_INLINE float FastExp(float x) {
  constexpr float kLowest = -87.0f;
  constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds
  const float clamped = x < kLowest ? kLowest : x;
  const float n = (clamped * 1.44269504f + kRounder) - kRounder;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float y = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  return y * __builtin_bit_cast(float, bits);
}

float SumOfSquares(const float* x, int64_t n);
float Dot(const float* x, const float* y, int64_t n);
// -infinity for n 0.
float Maximum(const float* x, int64_t n);
// x = exp(x - shift); returns the sum. No x may exceed shift by more than 88.
float ExpRow(float* x, int64_t n, float shift);
void ScaleRow(float* x, int64_t n, float factor);
// grad = p * (grad - delta) * scale.
void SoftmaxBackwardRow(const float* p, float* grad, int64_t n, float delta,
                        float scale);

// Scratch of the calling thread: `n` floats that stay until the next call with
// the same `which` (0 to 3). Grows to the largest n seen.
float* RowScratch(int which, int64_t n);

}  // namespace choir::model

#endif  // CHOIR_MODEL_KERNELS_ROW_KERNELS_H_
