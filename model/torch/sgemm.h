// sgemm by LibTorch's own operation, for builds of it that keep their BLAS to
// themselves.
#ifndef CHOIR_MODEL_TORCH_SGEMM_H_
#define CHOIR_MODEL_TORCH_SGEMM_H_

namespace choir::model {

// An SgemmFn (blas.h): column-major, on the CPU. Threads: safe on distinct c.
void TorchSgemm(const char* transa, const char* transb, const int* m,
                const int* n, const int* k, const float* alpha, const float* a,
                const int* lda, const float* b, const int* ldb,
                const float* beta, float* c, const int* ldc);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TORCH_SGEMM_H_
