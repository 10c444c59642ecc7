// Products with a quantised weight: a block of rows at a time is read back into
// a small buffer and multiplied there, so the dense matrix never exists.
//
// Shapes:  w is [out, in]; x [rows, in]; y [rows, out]; row-major float32.
// Memory:  one buffer of at most kDequantBlockFloats floats (or 16 rows of w).
// Threads: safe on distinct outputs. Results depend on the arguments alone.
#ifndef CHOIR_MODEL_KERNELS_QUANTIZED_MATMUL_H_
#define CHOIR_MODEL_KERNELS_QUANTIZED_MATMUL_H_

#include <cstdint>

#include "model/quantize/quantized_matrix.h"

namespace choir::model {

inline constexpr int64_t kDequantBlockFloats = int64_t{1} << 18;

// scale * B A is added to the weight while it is in the buffer: a [rank, in],
// b [out, rank]. Cheaper than two thin products for each of many rows.
struct LowRankTerm {
  const float* a = nullptr;  // null: none
  const float* b = nullptr;
  int64_t rank = 0;
  float scale = 0.0f;
};

// y = x (W + scale B A)^T + beta * y. With beta 0, y need not be initialised.
void MatMulQuantized(const QuantizedMatrix& w, const LowRankTerm& low_rank,
                     int64_t rows, const float* x, float beta, float* y);

// grad_x = grad_y (W + scale B A) + beta * grad_x: the gradient of the above.
void MatMulQuantizedBackward(const QuantizedMatrix& w,
                             const LowRankTerm& low_rank, int64_t rows,
                             const float* grad_y, float beta, float* grad_x);

}  // namespace choir::model

#endif  // CHOIR_MODEL_KERNELS_QUANTIZED_MATMUL_H_
