#include "model/transformer/remake.h"

#include <ATen/core/ivalue.h>

#include <utility>

#include "base/check.h"

namespace choir::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

struct Forgotten : torch::CustomClassHolder {
  at::Tensor made;
  std::function<at::Tensor()> remake;
};

c10::StorageImpl* StorageOf(const at::Tensor& tensor) {
  return tensor.storage().unsafeGetStorageImpl();
}

at::DataPtr TakeMemory(const at::Tensor& tensor) {
  return StorageOf(tensor)->set_data_ptr(at::DataPtr(nullptr, tensor.device()));
}

class ForgetFn : public Function<ForgetFn> {
 public:
  // The identity; what matters is when its backward runs.
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& output,
                            c10::intrusive_ptr<Forgotten> forgotten) {
    ctx->saved_data["forgotten"] = c10::IValue::make_capsule(forgotten);
    return output;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto forgotten = c10::static_intrusive_pointer_cast<Forgotten>(
        ctx->saved_data["forgotten"].toCapsule());
    if (forgotten->remake != nullptr) {
      at::NoGradGuard no_grad;
      const at::Tensor again = forgotten->remake();
      CHOIR_CHECK(again.sizes() == forgotten->made.sizes() &&
                  again.is_contiguous());
      StorageOf(forgotten->made)->set_data_ptr(TakeMemory(again));
      // This node outlives the pass; the memory belongs to those that use it.
      forgotten->made = at::Tensor();
      forgotten->remake = nullptr;
    }
    return {grads[0], at::Tensor()};
  }
};

}  // namespace

at::Tensor ForgetUntilBackward(const at::Tensor& made,
                               std::function<at::Tensor()> remake,
                               const at::Tensor& output) {
  if (!at::GradMode::is_enabled() || !output.requires_grad()) return output;
  CHOIR_CHECK(made.is_contiguous() && made.storage_offset() == 0);
  auto forgotten = c10::make_intrusive<Forgotten>();
  forgotten->made = made.detach();
  forgotten->remake = std::move(remake);
  const at::Tensor result = ForgetFn::apply(output, forgotten);
  TakeMemory(made);
  return result;
}

}  // namespace choir::model
