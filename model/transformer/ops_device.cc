#include "model/transformer/ops_device.h"

#include <algorithm>

#include "model/kernels/cpu_kernels.h"
#include "model/transformer/linear_parts.h"

namespace choir::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// Logits of so many numbers exist at a time.
constexpr int64_t kLogitsSlice = int64_t{1} << 26;

at::Tensor DenseWeight(const LinearParts& part, at::ScalarType type) {
  return part.packed != nullptr ? part.packed->Dense(type)
                                : part.weight.to(type);
}

// scale * B in the precision that is computed in.
at::Tensor ScaledB(const LinearParts& part, double scale, at::ScalarType type) {
  return (part.lora_b * scale).to(type);
}

class LinearGroupFn : public Function<LinearGroupFn> {
 public:
  static variable_list forward(AutogradContext* ctx, at::TensorList tensors,
                               int64_t mask, const std::vector<int64_t>& packed,
                               double scale) {
    const at::Tensor& x = tensors[0];
    const at::ScalarType type = x.scalar_type();
    const std::vector<LinearParts> parts = Unflatten(tensors, mask, packed);
    std::vector<at::Tensor> stack;
    for (const LinearParts& part : parts) {
      if (part.lora_a.defined()) stack.push_back(part.lora_a);
    }
    at::Tensor a, u;
    if (!stack.empty()) {
      a = at::cat(stack, 0).to(type);
      u = at::mm(x, a.t());
    }
    variable_list outputs;
    int64_t column = 0;
    for (const LinearParts& part : parts) {
      const at::Tensor weight = DenseWeight(part, type).t();
      at::Tensor y;
      if (part.lora_a.defined()) {
        // The thin product first: the large one adds to it as it writes.
        const int64_t rank = part.lora_a.size(0);
        y = at::mm(u.narrow(1, column, rank), ScaledB(part, scale, type).t());
        column += rank;
        y.addmm_(x, weight);
        if (part.bias.defined()) y.add_(part.bias);
      } else if (part.bias.defined()) {
        y = at::addmm(part.bias.to(type), x, weight);
      } else {
        y = at::mm(x, weight);
      }
      outputs.push_back(y);
    }
    variable_list saved = tensors.vec();
    if (a.defined()) saved.insert(saved.end(), {a, u});
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["mask"] = mask;
    ctx->saved_data["packed"] = packed;
    ctx->saved_data["scale"] = scale;
    ctx->saved_data["adapted"] = a.defined();
    return outputs;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list saved = ctx->get_saved_variables();
    const bool adapted = ctx->saved_data["adapted"].toBool();
    at::Tensor a, u;
    if (adapted) {
      u = saved.back();
      saved.pop_back();
      a = saved.back();
      saved.pop_back();
    }
    const int64_t mask = ctx->saved_data["mask"].toInt();
    const double scale = ctx->saved_data["scale"].toDouble();
    const std::vector<LinearParts> parts =
        Unflatten(saved, mask, ctx->saved_data["packed"].toIntVector());
    const at::Tensor& x = saved[0];
    const at::ScalarType type = x.scalar_type();
    for (at::Tensor& grad : grads) grad = grad.contiguous();
    variable_list results(1 + 4 * parts.size());
    at::Tensor grad_x;
    if (adapted) {
      const at::Tensor v = AdapterGradients(x, u, parts, grads, scale, results);
      if (x.requires_grad()) grad_x = at::mm(v, a);
    }
    if (x.requires_grad()) {
      for (size_t i = 0; i < parts.size(); ++i) {
        const at::Tensor weight = DenseWeight(parts[i], type);
        if (grad_x.defined()) {
          grad_x.addmm_(grads[i], weight);
        } else {
          grad_x = at::mm(grads[i], weight);
        }
      }
    }
    results[0] = grad_x;
    variable_list defined = DefinedGradients(results, mask);
    defined.resize(defined.size() + 3);  // mask, packed, scale
    return defined;
  }

 private:
  // Fills in the adapters' gradients; returns those of x A^T, side by side.
  static at::Tensor AdapterGradients(const at::Tensor& x, const at::Tensor& u,
                                     const std::vector<LinearParts>& parts,
                                     const variable_list& grads, double scale,
                                     variable_list& results) {
    std::vector<at::Tensor> through;
    bool want_a = false;
    int64_t column = 0;
    for (size_t i = 0; i < parts.size(); ++i) {
      const LinearParts& part = parts[i];
      if (!part.lora_a.defined()) continue;
      const int64_t rank = part.lora_a.size(0);
      through.push_back(
          at::mm(grads[i], ScaledB(part, scale, x.scalar_type())));
      if (part.lora_b.requires_grad()) {
        results[1 + 4 * i + 3] = at::mm(grads[i].t(), u.narrow(1, column, rank))
                                     .to(part.lora_b.scalar_type())
                                     .mul_(scale);
      }
      want_a |= part.lora_a.requires_grad();
      column += rank;
    }
    const at::Tensor v = through.size() == 1 ? through[0] : at::cat(through, 1);
    if (!want_a) return v;
    const at::Tensor grad_a = at::mm(v.t(), x);
    column = 0;
    for (size_t i = 0; i < parts.size(); ++i) {
      const LinearParts& part = parts[i];
      if (!part.lora_a.defined()) continue;
      const int64_t rank = part.lora_a.size(0);
      if (part.lora_a.requires_grad()) {
        results[1 + 4 * i + 2] =
            grad_a.narrow(0, column, rank).to(part.lora_a.scalar_type());
      }
      column += rank;
    }
    return v;
  }
};

class AddRmsNormFn : public Function<AddRmsNormFn> {
 public:
  // {x, weight} or {x, weight, delta}.
  static variable_list forward(AutogradContext* ctx, at::TensorList inputs,
                               double epsilon) {
    const bool delta = inputs.size() > 2;
    const at::Tensor sum = delta ? inputs[0] + inputs[2] : inputs[0];
    const auto [out, inverse] = compat::RmsNorm(sum, inputs[1], epsilon);
    ctx->save_for_backward({sum, inputs[1], inverse});
    ctx->saved_data["delta"] = delta;
    if (!delta) return {out};
    return {out, sum};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    at::Tensor grad =
        compat::RmsNormBackward(grads[0], saved[0], saved[2], saved[1]);
    if (!ctx->saved_data["delta"].toBool()) {
      return {grad, at::Tensor(), at::Tensor()};
    }
    grad = grad.add_(grads[1]);
    return {grad, at::Tensor(), grad, at::Tensor()};
  }
};

class SwiGluFn : public Function<SwiGluFn> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate,
                            const at::Tensor& up) {
    ctx->save_for_backward({gate, up});
    return at::silu(gate).mul_(up);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& gate = saved[0];
    return {at::silu_backward(grads[0] * saved[1], gate),
            at::silu(gate).mul_(grads[0])};
  }
};

// Makes the gradient on the way forward, while a slice of logits is at hand.
class LinearCrossEntropyFn : public Function<LinearCrossEntropyFn> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& hidden,
                            const at::Tensor& head, const at::Tensor& targets,
                            double weight, bool want_gradient) {
    const at::ScalarType type = hidden.scalar_type();
    const at::Tensor dense = head.to(type);
    const at::Tensor target =
        targets.to(hidden.device(), at::kLong).unsqueeze(1);
    const int64_t rows = hidden.size(0);
    const int64_t slice =
        std::clamp<int64_t>(kLogitsSlice / head.size(0), 16, 1 << 14);
    at::Tensor grad_hidden;
    if (want_gradient) grad_hidden = at::empty_like(hidden);
    at::Tensor loss = at::zeros({}, hidden.options().dtype(at::kDouble));
    for (int64_t i = 0; i < rows; i += slice) {
      const int64_t n = std::min(slice, rows - i);
      at::Tensor logits = at::mm(hidden.narrow(0, i, n), dense.t());
      const at::Tensor wanted = target.narrow(0, i, n);
      const at::Tensor log_p = at::log_softmax(logits, 1, at::kFloat);
      const at::Tensor chosen = log_p.gather(1, wanted);
      loss.sub_(chosen.sum(at::kDouble));
      if (!want_gradient) continue;
      // softmax - onehot, where the logits were; the target's element from
      // float32, for it cancels when the model is sure.
      at::exp_out(logits, log_p);
      logits.scatter_(1, wanted, (chosen.exp() - 1.0).to(type));
      grad_hidden.narrow(0, i, n).copy_(at::mm(logits, dense));
    }
    if (want_gradient) {
      grad_hidden.mul_(weight);
      ctx->save_for_backward({grad_hidden});
    }
    return loss * weight;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const at::Tensor grad_hidden = ctx->get_saved_variables()[0];
    // One, but where a loss is weighed again.
    return {grad_hidden * grads[0].to(grad_hidden.scalar_type()), at::Tensor(),
            at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

class RotateFn : public Function<RotateFn> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x,
                            const at::Tensor& cosine, const at::Tensor& sine,
                            int64_t heads) {
    ctx->save_for_backward({cosine, sine});
    ctx->saved_data["heads"] = heads;
    return Rotated(x, cosine, sine, heads, 1.0);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    return {Rotated(grads[0], saved[0], saved[1],
                    ctx->saved_data["heads"].toInt(), -1.0),
            at::Tensor(), at::Tensor(), at::Tensor()};
  }

 private:
  // Products in float32, written in x's precision by the same kernels.
  static at::Tensor Rotated(const at::Tensor& x, const at::Tensor& cosine,
                            const at::Tensor& sine, int64_t heads,
                            double sign) {
    const at::Tensor from = x.contiguous().view({x.size(0), heads, 2, -1});
    const at::Tensor out = at::empty(from.sizes(), from.options());
    const at::Tensor a = from.select(2, 0);
    const at::Tensor b = from.select(2, 1);
    at::Tensor first = out.select(2, 0);
    at::Tensor second = out.select(2, 1);
    at::Tensor other = at::empty(a.sizes(), a.options());
    at::mul_out(first, a, cosine).sub_(at::mul_out(other, b, sine), sign);
    at::mul_out(second, b, cosine).add_(at::mul_out(other, a, sine), sign);
    return out.view(x.sizes());
  }
};

}  // namespace

bool Frozen(const std::vector<LinearParts>& layers) {
  return std::none_of(layers.begin(), layers.end(), [](const LinearParts& p) {
    return (p.weight.defined() && p.weight.requires_grad()) ||
           (p.bias.defined() && p.bias.requires_grad());
  });
}

std::vector<at::Tensor> LinearGroupDevice(
    const at::Tensor& x, const std::vector<LinearParts>& layers, double scale) {
  const FlatLinears flat = Flatten(x, layers);
  const at::TensorList list(flat.tensors);
  return LinearGroupFn::apply(list, flat.mask, flat.packed, scale);
}

std::pair<at::Tensor, at::Tensor> AddRmsNormDevice(const at::Tensor& x,
                                                   const at::Tensor& delta,
                                                   const at::Tensor& weight,
                                                   double epsilon) {
  std::vector<at::Tensor> inputs = {x, weight};
  if (delta.defined()) inputs.push_back(delta);
  const at::TensorList list(inputs);
  const variable_list out = AddRmsNormFn::apply(list, epsilon);
  return {out.size() > 1 ? out[1] : x, out[0]};
}

at::Tensor SwiGluDevice(const at::Tensor& gate, const at::Tensor& up) {
  return SwiGluFn::apply(gate, up);
}

at::Tensor LinearCrossEntropyDevice(const at::Tensor& hidden,
                                    const at::Tensor& head,
                                    const at::Tensor& targets, double weight) {
  return LinearCrossEntropyFn::apply(
      hidden, head, targets, weight,
      at::GradMode::is_enabled() && hidden.requires_grad());
}

at::Tensor DropoutMask(at::IntArrayRef sizes, double probability, uint64_t seed,
                       at::Device device) {
  const at::NoGradGuard no_grad;
  if (device.is_cpu()) {
    const at::Tensor mask = at::ones(sizes, at::kFloat);
    Dropout(mask.data_ptr<float>(), mask.numel(), probability, seed,
            mask.data_ptr<float>());
    return mask;
  }
  return DropoutMaskByTensors(sizes, probability, seed, device);
}

at::Tensor DropoutMaskByTensors(at::IntArrayRef sizes, double probability,
                                uint64_t seed, at::Device device) {
  int64_t n = 1;
  for (const int64_t size : sizes) n *= size;
  at::Tensor z =
      at::arange(n, at::TensorOptions().dtype(at::kLong).device(device));
  // Unsigned arithmetic on signed numbers: sums and products wrap alike, shifts
  // must lose the copies of the sign.
  const auto shifted = [&z](int bits) {
    return at::bitwise_right_shift(z, bits).bitwise_and_(
        (int64_t{1} << (64 - bits)) - 1);
  };
  z.add_(static_cast<int64_t>(seed + 0x9e3779b97f4a7c15ull));
  z.bitwise_xor_(shifted(30)).mul_(static_cast<int64_t>(0xbf58476d1ce4e5b9ull));
  z.bitwise_xor_(shifted(27)).mul_(static_cast<int64_t>(0x94d049bb133111ebull));
  z.bitwise_xor_(shifted(31));
  z = shifted(32);
  const auto limit = static_cast<int64_t>(probability * 4294967296.0);
  return (z >= limit)
      .to(at::kFloat)
      .mul_(1.0 / (1.0 - probability))
      .view(sizes);
}

at::Tensor RotateDevice(const at::Tensor& x, const at::Tensor& cosine,
                        const at::Tensor& sine, int64_t heads) {
  return RotateFn::apply(x, cosine, sine, heads);
}

}  // namespace choir::model
