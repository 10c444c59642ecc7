#include "model/kernels/blas.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>

namespace choir::model {
namespace {

// The last resort.
void PlainSgemm(const char* transa, const char* transb, const int* m,
                const int* n, const int* k, const float* alpha, const float* a,
                const int* lda, const float* b, const int* ldb,
                const float* beta, float* c, const int* ldc) {
  const bool ta = *transa == 'T';
  const bool tb = *transb == 'T';
  for (int64_t j = 0; j < *n; ++j) {
    for (int64_t i = 0; i < *m; ++i) {
      float sum = 0.0f;
      for (int64_t p = 0; p < *k; ++p) {
        sum += (ta ? a[i * *lda + p] : a[p * *lda + i]) *
               (tb ? b[p * *ldb + j] : b[j * *ldb + p]);
      }
      float& out = c[j * *ldc + i];
      out = *alpha * sum + (*beta == 0.0f ? 0.0f : *beta * out);
    }
  }
}

std::atomic<SgemmFn> fallback_sgemm{&PlainSgemm};

void FallbackSgemm(const char* transa, const char* transb, const int* m,
                   const int* n, const int* k, const float* alpha,
                   const float* a, const int* lda, const float* b,
                   const int* ldb, const float* beta, float* c,
                   const int* ldc) {
  fallback_sgemm.load(std::memory_order_relaxed)(transa, transb, m, n, k, alpha,
                                                 a, lda, b, ldb, beta, c, ldc);
}

SgemmFn FindSgemm() {
  // The symbol is found at run time, in whatever LibTorch brought with it:
  // OpenBLAS, MKL or the reference BLAS.
  void* symbol = dlsym(RTLD_DEFAULT, "sgemm_");
  return symbol == nullptr ? &FallbackSgemm : reinterpret_cast<SgemmFn>(symbol);
}

}  // namespace

void MatMul(Op op_a, Op op_b, int64_t m, int64_t n, int64_t k, float alpha,
            const float* a, int64_t lda, const float* b, int64_t ldb,
            float beta, float* c, int64_t ldc) {
  static const SgemmFn kSgemm = FindSgemm();
  if (m == 0 || n == 0) return;
  // BLAS is column-major: the row-major product is its transpose with the
  // operands exchanged.
  const char ta = op_b == Op::kPlain ? 'N' : 'T';
  const char tb = op_a == Op::kPlain ? 'N' : 'T';
  const int mi = static_cast<int>(n);
  const int ni = static_cast<int>(m);
  const int ki = static_cast<int>(k);
  const int la = std::max(1, static_cast<int>(ldb));
  const int lb = std::max(1, static_cast<int>(lda));
  const int lc = std::max(1, static_cast<int>(ldc));
  kSgemm(&ta, &tb, &mi, &ni, &ki, &alpha, b, &la, a, &lb, &beta, c, &lc);
}

void SetFallbackSgemm(SgemmFn fallback) {
  fallback_sgemm.store(fallback == nullptr ? &PlainSgemm : fallback,
                       std::memory_order_relaxed);
}

void SetBlasThreads(int threads) {
  for (const char* name : {"openblas_set_num_threads", "MKL_Set_Num_Threads",
                           "bli_thread_set_num_threads"}) {
    if (void* symbol = dlsym(RTLD_DEFAULT, name)) {
      reinterpret_cast<void (*)(int)>(symbol)(threads);
    }
  }
}

}  // namespace choir::model
