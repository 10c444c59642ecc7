#include "model/torch/sgemm.h"

#include "model/torch/compat.h"

namespace choir::model {

void TorchSgemm(const char* transa, const char* transb, const int* m,
                const int* n, const int* k, const float* alpha, const float* a,
                const int* lda, const float* b, const int* ldb,
                const float* beta, float* c, const int* ldc) {
  const at::NoGradGuard no_grad;
  // op(X) [rows, columns] of a column-major X, as a view.
  const auto view = [](const float* data, int rows, int columns, int ld,
                       bool transposed) {
    const int64_t down = transposed ? ld : 1;
    const int64_t right = transposed ? 1 : ld;
    return at::from_blob(const_cast<float*>(data), {rows, columns},
                         {down, right}, at::TensorOptions().dtype(at::kFloat));
  };
  const at::Tensor left = view(a, *m, *k, *lda, *transa == 'T');
  const at::Tensor right = view(b, *k, *n, *ldb, *transb == 'T');
  at::Tensor out = view(c, *m, *n, *ldc, false);
  if (*beta == 0.0f) {
    // What C held may be anything, also not a number.
    out.copy_(at::mm(left, right));
    if (*alpha != 1.0f) out.mul_(*alpha);
    return;
  }
  out.addmm_(left, right, *beta, *alpha);
}

}  // namespace choir::model
