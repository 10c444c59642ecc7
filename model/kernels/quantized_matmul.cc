#include "model/kernels/quantized_matmul.h"

#include <algorithm>
#include <memory>

#include "model/kernels/blas.h"

namespace choir::model {
namespace {

int64_t BlockRows(const QuantizedMatrix& w) {
  return std::min(w.rows(),
                  std::max<int64_t>(16, kDequantBlockFloats / w.columns()));
}

// Rows begin .. begin + count of W + scale B A.
void ReadBlock(const QuantizedMatrix& w, const LowRankTerm& low_rank,
               int64_t begin, int64_t count, float* block) {
  w.Dequantize(begin, count, block);
  if (low_rank.a == nullptr) return;
  MatMul(Op::kPlain, Op::kPlain, count, w.columns(), low_rank.rank,
         low_rank.scale, low_rank.b + begin * low_rank.rank, low_rank.rank,
         low_rank.a, w.columns(), 1.0f, block, w.columns());
}

}  // namespace

void MatMulQuantized(const QuantizedMatrix& w, const LowRankTerm& low_rank,
                     int64_t rows, const float* x, float beta, float* y) {
  const int64_t out = w.rows();
  const int64_t in = w.columns();
  const int64_t step = BlockRows(w);
  const std::unique_ptr<float[]> block(new float[step * in]);
  for (int64_t begin = 0; begin < out; begin += step) {
    const int64_t count = std::min(step, out - begin);
    ReadBlock(w, low_rank, begin, count, block.get());
    MatMul(Op::kPlain, Op::kTransposed, rows, count, in, 1.0f, x, in,
           block.get(), in, beta, y + begin, out);
  }
}

void MatMulQuantizedBackward(const QuantizedMatrix& w,
                             const LowRankTerm& low_rank, int64_t rows,
                             const float* grad_y, float beta, float* grad_x) {
  const int64_t out = w.rows();
  const int64_t in = w.columns();
  const int64_t step = BlockRows(w);
  const std::unique_ptr<float[]> block(new float[step * in]);
  for (int64_t begin = 0; begin < out; begin += step) {
    const int64_t count = std::min(step, out - begin);
    ReadBlock(w, low_rank, begin, count, block.get());
    MatMul(Op::kPlain, Op::kPlain, rows, in, count, 1.0f, grad_y + begin, out,
           block.get(), in, begin == 0 ? beta : 1.0f, grad_x, in);
  }
}

}  // namespace choir::model
