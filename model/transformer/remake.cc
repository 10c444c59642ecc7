#include "model/transformer/remake.h"

#include <ATen/core/ivalue.h>

#include <utility>

namespace choir::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

struct Forgotten : torch::CustomClassHolder {
  at::Tensor made;
  std::function<void(const at::Tensor&)> remake;
};

class ForgetFn : public Function<ForgetFn> {
 public:
  // The identity; what matters is when its backward runs.
  static variable_list forward(AutogradContext* ctx, at::TensorList outputs,
                               c10::intrusive_ptr<Forgotten> forgotten) {
    ctx->saved_data["forgotten"] = c10::IValue::make_capsule(forgotten);
    return outputs.vec();
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto forgotten = c10::static_intrusive_pointer_cast<Forgotten>(
        ctx->saved_data["forgotten"].toCapsule());
    if (forgotten->made.defined()) {
      c10::StorageImpl* storage =
          forgotten->made.storage().unsafeGetStorageImpl();
      storage->set_data_ptr(storage->allocator()->allocate(storage->nbytes()));
      forgotten->remake(forgotten->made);
      // This node outlives the pass; the memory belongs to those that use it.
      forgotten->made = at::Tensor();
      forgotten->remake = nullptr;
    }
    grads.emplace_back();  // nothing for what was forgotten
    return grads;
  }
};

}  // namespace

std::vector<at::Tensor> ForgetUntilBackward(
    const at::Tensor& made, std::function<void(const at::Tensor&)> remake,
    const std::vector<at::Tensor>& outputs) {
  bool gradient = false;
  for (const at::Tensor& output : outputs) gradient |= output.requires_grad();
  if (!at::GradMode::is_enabled() || !gradient) return outputs;
  auto forgotten = c10::make_intrusive<Forgotten>();
  forgotten->made = made.detach();
  forgotten->remake = std::move(remake);
  c10::StorageImpl* storage = made.storage().unsafeGetStorageImpl();
  // A storage that could not be allocated anew keeps its memory.
  if (storage->allocator() == nullptr || made.storage_offset() != 0 ||
      !made.is_contiguous()) {
    return outputs;
  }
  const at::TensorList list(outputs);
  std::vector<at::Tensor> result = ForgetFn::apply(list, forgotten);
  storage->set_data_ptr(at::DataPtr(nullptr, made.device()));
  return result;
}

}  // namespace choir::model
