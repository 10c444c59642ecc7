#include "model/transformer/checkpointing.h"

#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

namespace choir::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// An autograd node's context keeps only values that LibTorch knows, or this.
struct SegmentHolder : torch::CustomClassHolder {
  explicit SegmentHolder(Segment s) : segment(std::move(s)) {}
  const Segment segment;
};

class CheckpointFn : public Function<CheckpointFn> {
 public:
  // tensors: an anchor that makes the outputs require gradients, then the
  // inputs. Runs without gradient mode, as every node's forward does.
  static variable_list forward(AutogradContext* ctx, at::TensorList tensors,
                               c10::intrusive_ptr<SegmentHolder> holder) {
    const variable_list inputs(tensors.begin() + 1, tensors.end());
    ctx->save_for_backward(inputs);
    ctx->saved_data["segment"] = c10::IValue::make_capsule(holder);
    ctx->set_materialize_grads(false);
    return holder->segment(inputs);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto holder = c10::static_intrusive_pointer_cast<SegmentHolder>(
        ctx->saved_data["segment"].toCapsule());
    variable_list inputs;
    for (const at::Tensor& saved : ctx->get_saved_variables()) {
      inputs.push_back(saved.detach().set_requires_grad(saved.requires_grad()));
    }
    {
      at::AutoGradMode with_gradients(true);
      const variable_list outputs = holder->segment(inputs);
      variable_list roots, root_grads;
      for (size_t i = 0; i < outputs.size(); ++i) {
        if (!outputs[i].requires_grad() || !grads[i].defined()) continue;
        roots.push_back(outputs[i]);
        root_grads.push_back(grads[i]);
      }
      if (!roots.empty()) torch::autograd::backward(roots, root_grads);
    }
    variable_list results(1);  // nothing for the anchor
    for (const at::Tensor& input : inputs) results.push_back(input.grad());
    results.emplace_back();  // nor for the segment
    return results;
  }
};

}  // namespace

std::vector<at::Tensor> Checkpointed(const Segment& segment,
                                     const std::vector<at::Tensor>& inputs) {
  if (!at::GradMode::is_enabled()) return segment(inputs);
  std::vector<at::Tensor> tensors = {
      at::zeros({}, at::kFloat).set_requires_grad(true)};
  tensors.insert(tensors.end(), inputs.begin(), inputs.end());
  const at::TensorList list(tensors);
  return CheckpointFn::apply(list, c10::make_intrusive<SegmentHolder>(segment));
}

}  // namespace choir::model
