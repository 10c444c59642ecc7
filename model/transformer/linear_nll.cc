#include "model/transformer/linear_nll.h"

#include <algorithm>

#include "model/kernels/blas.h"
#include "model/kernels/cpu_kernels.h"

namespace choir::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

const float* Data(const at::Tensor& x) { return x.data_ptr<float>(); }
float* Mutable(const at::Tensor& x) { return x.data_ptr<float>(); }

int64_t SliceRows(int64_t vocabulary, int64_t rows) {
  return std::clamp<int64_t>((1 << 22) / vocabulary, 16,
                             std::clamp<int64_t>(rows, 16, 256));
}

// Calls visit(first, n, logits of those rows) slice by slice.
template <typename Visit>
void ForSlices(const at::Tensor& hidden, const at::Tensor& head,
               const Visit& visit) {
  const int64_t rows = hidden.size(0);
  const int64_t width = hidden.size(1);
  const int64_t vocabulary = head.size(0);
  const int64_t slice = SliceRows(vocabulary, rows);
  const at::Tensor logits = at::empty({slice, vocabulary}, at::kFloat);
  for (int64_t i = 0; i < rows; i += slice) {
    const int64_t n = std::min(slice, rows - i);
    MatMul(Op::kPlain, Op::kTransposed, n, vocabulary, width, 1.0f,
           Data(hidden) + i * width, width, Data(head), width, 0.0f,
           Mutable(logits), vocabulary);
    visit(i, n, Mutable(logits));
  }
}

class LinearNllFn : public Function<LinearNllFn> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& hidden,
                            const at::Tensor& head, const at::Tensor& targets) {
    const at::Tensor nll = at::empty({hidden.size(0)}, at::kFloat);
    const int64_t vocabulary = head.size(0);
    ForSlices(hidden, head, [&](int64_t first, int64_t n, float* logits) {
      for (int64_t i = 0; i < n; ++i) {
        Mutable(nll)[first + i] = static_cast<float>(CrossEntropy(
            logits + i * vocabulary, targets.data_ptr<int32_t>() + first + i, 1,
            vocabulary, 1.0f, /*make_gradient=*/false));
      }
    });
    ctx->save_for_backward({hidden, head, targets});
    return nll;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& hidden = saved[0];
    const at::Tensor& head = saved[1];
    const at::Tensor weights = grads[0].to(at::kFloat).contiguous();
    const int64_t width = hidden.size(1);
    const int64_t vocabulary = head.size(0);
    at::Tensor grad_hidden;
    at::Tensor grad_head;
    if (hidden.requires_grad()) {
      grad_hidden = at::empty(hidden.sizes(), at::kFloat);
    }
    if (head.requires_grad()) grad_head = at::zeros(head.sizes(), at::kFloat);
    ForSlices(hidden, head, [&](int64_t first, int64_t n, float* logits) {
      for (int64_t i = 0; i < n; ++i) {
        CrossEntropy(logits + i * vocabulary,
                     saved[2].data_ptr<int32_t>() + first + i, 1, vocabulary,
                     Data(weights)[first + i], /*make_gradient=*/true);
      }
      if (grad_hidden.defined()) {
        MatMul(Op::kPlain, Op::kPlain, n, width, vocabulary, 1.0f, logits,
               vocabulary, Data(head), width, 0.0f,
               Mutable(grad_hidden) + first * width, width);
      }
      if (grad_head.defined()) {
        MatMul(Op::kTransposed, Op::kPlain, vocabulary, width, n, 1.0f, logits,
               vocabulary, Data(hidden) + first * width, width, 1.0f,
               Mutable(grad_head), width);
      }
    });
    return {grad_hidden, grad_head, at::Tensor()};
  }
};

}  // namespace

at::Tensor LinearNll(Kernels kernels, const at::Tensor& hidden,
                     const at::Tensor& head, const at::Tensor& targets) {
  if (!UseFused(kernels, hidden) || head.scalar_type() != at::kFloat) {
    const at::Tensor logits =
        at::matmul(hidden, head.to(hidden.scalar_type()).t()).to(at::kFloat);
    const at::Tensor wide = targets.to(hidden.device(), at::kLong);
    return -at::log_softmax(logits, -1).gather(1, wide.unsqueeze(1)).squeeze(1);
  }
  return LinearNllFn::apply(hidden.contiguous(), head, targets);
}

}  // namespace choir::model
