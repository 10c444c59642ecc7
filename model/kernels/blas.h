// Single-precision matrix products by the BLAS that LibTorch itself uses,
// without the cost of a tensor operation: small models spend much of their time
// in products of a few thousand numbers.
#ifndef CHOIR_MODEL_KERNELS_BLAS_H_
#define CHOIR_MODEL_KERNELS_BLAS_H_

#include <cstdint>

namespace choir::model {

enum class Op { kPlain, kTransposed };

// C = alpha * op(A) * op(B) + beta * C, all row-major.
//
// Shapes:  op(A) is m x k, op(B) is k x n, C is m x n; ld* is the distance
//          between rows as stored. With beta 0, C need not be initialised.
// Threads: safe on distinct C.
void MatMul(Op op_a, Op op_b, int64_t m, int64_t n, int64_t k, float alpha,
            const float* a, int64_t lda, const float* b, int64_t ldb,
            float beta, float* c, int64_t ldc);

// BLAS's sgemm. Where LibTorch keeps its BLAS to itself (MKL within some of its
// builds), MatMul() uses `fallback` instead; without one a plain loop.
using SgemmFn = void (*)(const char* transa, const char* transb, const int* m,
                         const int* n, const int* k, const float* alpha,
                         const float* a, const int* lda, const float* b,
                         const int* ldb, const float* beta, float* c,
                         const int* ldc);
void SetFallbackSgemm(SgemmFn fallback);

// Limits the BLAS to `threads` threads in this process, whichever BLAS it is.
void SetBlasThreads(int threads);

}  // namespace choir::model

#endif  // CHOIR_MODEL_KERNELS_BLAS_H_
