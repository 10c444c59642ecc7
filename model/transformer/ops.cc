#include "model/transformer/ops.h"

#include <algorithm>
#include <cstring>

#include "absl/types/optional.h"
#include "base/check.h"
#include "model/kernels/blas.h"
#include "model/kernels/cpu_kernels.h"
#include "model/kernels/quantized_matmul.h"
#include "model/transformer/linear_parts.h"
#include "model/transformer/ops_device.h"
#include "model/transformer/ops_reference.h"

namespace choir::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

const float* Data(const at::Tensor& x) { return x.data_ptr<float>(); }
float* Mutable(const at::Tensor& x) { return x.data_ptr<float>(); }

at::Tensor NewFloats(at::IntArrayRef sizes) {
  return at::empty(sizes, at::TensorOptions().dtype(at::kFloat));
}

// From so many rows on, adding B*A to a copy of W is cheaper than two thin
// products for each row.
constexpr int64_t kMergeRows = 32;

// W + scale * B A.
at::Tensor Merged(const LinearParts& layer, double scale) {
  at::Tensor merged = NewFloats(layer.weight.sizes());
  const int64_t out = layer.weight.size(0);
  const int64_t in = layer.weight.size(1);
  const int64_t rank = layer.lora_a.size(0);
  std::memcpy(Mutable(merged), Data(layer.weight), out * in * sizeof(float));
  MatMul(Op::kPlain, Op::kPlain, out, in, rank, static_cast<float>(scale),
         Data(layer.lora_b), rank, Data(layer.lora_a), in, 1.0f,
         Mutable(merged), in);
  return merged;
}

// The low-rank term that is merged into a packed weight as it is read.
LowRankTerm MergedTerm(const LinearParts& layer, double scale, bool merge) {
  if (!merge || !layer.lora_a.defined()) return {};
  return {Data(layer.lora_a), Data(layer.lora_b), layer.lora_a.size(0),
          static_cast<float>(scale)};
}

at::Tensor LinearForward(const at::Tensor& x, const at::Tensor& dropped,
                         const LinearParts& layer, const LoraUse& lora,
                         bool merge) {
  const int64_t rows = x.size(0);
  const int64_t in = x.size(1);
  const int64_t out = layer.out_features();
  at::Tensor y = NewFloats({rows, out});
  float beta = 0.0f;
  if (layer.bias.defined()) {
    for (int64_t i = 0; i < rows; ++i) {
      std::memcpy(Mutable(y) + i * out, Data(layer.bias), out * sizeof(float));
    }
    beta = 1.0f;
  }
  const bool adapted = layer.lora_a.defined();
  if (layer.packed != nullptr) {
    MatMulQuantized(layer.packed->matrix(),
                    MergedTerm(layer, lora.scale, merge), rows, Data(x), beta,
                    Mutable(y));
  } else {
    const at::Tensor weight =
        adapted && merge ? Merged(layer, lora.scale) : layer.weight;
    MatMul(Op::kPlain, Op::kTransposed, rows, out, in, 1.0f, Data(x), in,
           Data(weight), in, beta, Mutable(y), out);
  }
  if (adapted && !merge) {
    const int64_t rank = layer.lora_a.size(0);
    const at::Tensor u = NewFloats({rows, rank});
    MatMul(Op::kPlain, Op::kTransposed, rows, rank, in, 1.0f, Data(dropped), in,
           Data(layer.lora_a), in, 0.0f, Mutable(u), rank);
    MatMul(Op::kPlain, Op::kTransposed, rows, out, rank,
           static_cast<float>(lora.scale), Data(u), rank, Data(layer.lora_b),
           rank, 1.0f, Mutable(y), out);
  }
  return y;
}

at::Tensor Dropped(const at::Tensor& x, const LoraUse& lora) {
  if (lora.dropout <= 0.0) return x;
  at::Tensor out = NewFloats(x.sizes());
  Dropout(Data(x), x.numel(), lora.dropout, lora.seed, Mutable(out));
  return out;
}

// Gradients of the adapters of a group, computed together: their A matrices
// side by side make one product where there would be one thin one for each.
void AdapterGradients(const at::Tensor& x,
                      const std::vector<LinearParts>& parts,
                      const variable_list& grads, const LoraUse& lora,
                      at::Tensor* grad_x, variable_list& results) {
  const int64_t rows = x.size(0);
  const int64_t in = x.size(1);
  std::vector<at::Tensor> stack;
  for (const LinearParts& part : parts) {
    if (part.lora_a.defined()) stack.push_back(part.lora_a);
  }
  if (stack.empty()) return;
  const at::Tensor a = stack.size() == 1 ? stack[0] : at::cat(stack, 0);
  const int64_t total = a.size(0);
  const at::Tensor dropped = Dropped(x, lora);
  const at::Tensor u = NewFloats({rows, total});
  const at::Tensor v = NewFloats({rows, total});
  const float scale = static_cast<float>(lora.scale);
  MatMul(Op::kPlain, Op::kTransposed, rows, total, in, 1.0f, Data(dropped), in,
         Data(a), in, 0.0f, Mutable(u), total);
  int64_t column = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (!parts[i].lora_a.defined()) continue;
    const int64_t rank = parts[i].lora_a.size(0);
    const int64_t out = parts[i].out_features();
    const at::Tensor grad_b = NewFloats({out, rank});
    MatMul(Op::kTransposed, Op::kPlain, out, rank, rows, scale, Data(grads[i]),
           out, Data(u) + column, total, 0.0f, Mutable(grad_b), rank);
    MatMul(Op::kPlain, Op::kPlain, rows, rank, out, scale, Data(grads[i]), out,
           Data(parts[i].lora_b), rank, 0.0f, Mutable(v) + column, total);
    results[1 + 4 * i + 3] = grad_b;
    column += rank;
  }
  const at::Tensor grad_a = NewFloats({total, in});
  MatMul(Op::kTransposed, Op::kPlain, total, in, rows, 1.0f, Data(v), total,
         Data(dropped), in, 0.0f, Mutable(grad_a), in);
  column = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (!parts[i].lora_a.defined()) continue;
    const int64_t rank = parts[i].lora_a.size(0);
    results[1 + 4 * i + 2] = grad_a.narrow(0, column, rank);
    column += rank;
  }
  if (grad_x == nullptr) return;  // else: what flows through A, and its mask
  at::Tensor through = NewFloats({rows, in});
  MatMul(Op::kPlain, Op::kPlain, rows, in, total, 1.0f, Data(v), total, Data(a),
         in, 0.0f, Mutable(through), in);
  grad_x->add_(Dropped(through, lora));
}

class LinearGroupFn : public Function<LinearGroupFn> {
 public:
  static variable_list forward(AutogradContext* ctx, at::TensorList tensors,
                               int64_t mask, const std::vector<int64_t>& packed,
                               double scale, double dropout, int64_t seed) {
    const at::Tensor& x = tensors[0];
    const LoraUse lora{scale, dropout, static_cast<uint64_t>(seed)};
    const bool merge = dropout <= 0.0 && x.size(0) >= kMergeRows;
    const std::vector<LinearParts> parts = Unflatten(tensors, mask, packed);
    bool adapted = false;
    for (const LinearParts& part : parts) adapted |= part.lora_a.defined();
    const at::Tensor dropped = adapted && !merge ? Dropped(x, lora) : x;
    variable_list outputs;
    for (const LinearParts& part : parts) {
      outputs.push_back(LinearForward(x, dropped, part, lora, merge));
    }
    ctx->save_for_backward(tensors.vec());
    ctx->saved_data["mask"] = mask;
    ctx->saved_data["packed"] = packed;
    ctx->saved_data["scale"] = scale;
    ctx->saved_data["dropout"] = dropout;
    ctx->saved_data["seed"] = seed;
    return outputs;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& x = saved[0];
    const int64_t mask = ctx->saved_data["mask"].toInt();
    const std::vector<LinearParts> parts =
        Unflatten(saved, mask, ctx->saved_data["packed"].toIntVector());
    const LoraUse lora{ctx->saved_data["scale"].toDouble(),
                       ctx->saved_data["dropout"].toDouble(),
                       static_cast<uint64_t>(ctx->saved_data["seed"].toInt())};
    const bool merge = lora.dropout <= 0.0 && x.size(0) >= kMergeRows;
    for (at::Tensor& grad : grads) grad = grad.contiguous();
    variable_list results(1 + 4 * parts.size());
    const int64_t rows = x.size(0);
    const int64_t in = x.size(1);
    at::Tensor grad_x;
    if (x.requires_grad()) {
      grad_x = NewFloats(x.sizes());
      for (size_t i = 0; i < parts.size(); ++i) {
        const int64_t out = parts[i].out_features();
        if (parts[i].packed != nullptr) {
          MatMulQuantizedBackward(parts[i].packed->matrix(),
                                  MergedTerm(parts[i], lora.scale, merge), rows,
                                  Data(grads[i]), i == 0 ? 0.0f : 1.0f,
                                  Mutable(grad_x));
          continue;
        }
        const at::Tensor weight = merge && parts[i].lora_a.defined()
                                      ? Merged(parts[i], lora.scale)
                                      : parts[i].weight;
        MatMul(Op::kPlain, Op::kPlain, rows, in, out, 1.0f, Data(grads[i]), out,
               Data(weight), in, i == 0 ? 0.0f : 1.0f, Mutable(grad_x), in);
      }
    }
    for (size_t i = 0; i < parts.size(); ++i) {
      const int64_t out = parts[i].out_features();
      if (parts[i].weight.defined() && parts[i].weight.requires_grad()) {
        const at::Tensor grad_w = NewFloats({out, in});
        MatMul(Op::kTransposed, Op::kPlain, out, in, rows, 1.0f, Data(grads[i]),
               out, Data(x), in, 0.0f, Mutable(grad_w), in);
        results[1 + 4 * i] = grad_w;
      }
      if (parts[i].bias.defined() && parts[i].bias.requires_grad()) {
        results[1 + 4 * i + 1] = grads[i].sum(0);
      }
    }
    AdapterGradients(x, parts, grads, lora,
                     merge || !grad_x.defined() ? nullptr : &grad_x, results);
    results[0] = grad_x;
    variable_list defined = DefinedGradients(results, mask);
    defined.resize(defined.size() + 5);  // mask, packed, scale, dropout, seed
    return defined;
  }
};

class AddRmsNormFn : public Function<AddRmsNormFn> {
 public:
  // {x, weight} or {x, weight, delta}.
  static variable_list forward(AutogradContext* ctx, at::TensorList inputs,
                               double epsilon) {
    const at::Tensor& x = inputs[0];
    const at::Tensor& weight = inputs[1];
    const at::Tensor delta = inputs.size() > 2 ? inputs[2] : at::Tensor();
    const int64_t rows = x.size(0);
    const int64_t columns = x.size(1);
    const at::Tensor sum = delta.defined() ? NewFloats(x.sizes()) : x;
    const at::Tensor out = NewFloats(x.sizes());
    const at::Tensor inverse = NewFloats({rows});
    AddRmsNorm(Data(x), delta.defined() ? Data(delta) : nullptr, Data(weight),
               rows, columns, static_cast<float>(epsilon), Mutable(sum),
               Mutable(out), Mutable(inverse));
    ctx->save_for_backward({sum, weight, inverse});
    ctx->saved_data["delta"] = delta.defined();
    if (!delta.defined()) return {out};
    return {out, sum};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& sum = saved[0];
    const at::Tensor& weight = saved[1];
    const at::Tensor grad_out = grads[0].contiguous();
    at::Tensor grad_sum;
    if (grads.size() > 1) grad_sum = grads[1].contiguous();
    const at::Tensor grad_x = NewFloats(sum.sizes());
    at::Tensor grad_weight;
    if (weight.requires_grad()) {
      grad_weight = at::zeros(weight.sizes(), at::kFloat);
    }
    AddRmsNormBackward(Data(grad_out),
                       grad_sum.defined() ? Data(grad_sum) : nullptr, Data(sum),
                       Data(weight), Data(saved[2]), sum.size(0), sum.size(1),
                       Mutable(grad_x),
                       grad_weight.defined() ? Mutable(grad_weight) : nullptr);
    const bool delta = ctx->saved_data["delta"].toBool();
    if (!delta) return {grad_x, grad_weight, at::Tensor()};
    return {grad_x, grad_weight, grad_x, at::Tensor()};
  }
};

class SwiGluFn : public Function<SwiGluFn> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate,
                            const at::Tensor& up) {
    const at::Tensor out = NewFloats(gate.sizes());
    SwiGlu(Data(gate), Data(up), gate.numel(), Mutable(out));
    ctx->save_for_backward({gate, up});
    ctx->saved_data["spent"] = false;
    return out;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    // Nobody else keeps gate and up: their memory becomes the gradients'.
    variable_list saved = ctx->get_saved_variables();
    CHOIR_CHECK(!ctx->saved_data["spent"].toBool());
    ctx->saved_data["spent"] = true;
    const at::Tensor grad = grads[0].contiguous();
    SwiGluBackward(Data(grad), Data(saved[0]), Data(saved[1]), grad.numel(),
                   Mutable(saved[0]), Mutable(saved[1]));
    return {saved[0].detach(), saved[1].detach()};
  }
};

// Makes the gradients on the way forward, while a slice of logits is at hand.
class LinearCrossEntropyFn : public Function<LinearCrossEntropyFn> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& hidden,
                            const at::Tensor& head, const at::Tensor& targets,
                            double weight, bool want_hidden, bool want_head) {
    const int64_t rows = hidden.size(0);
    const int64_t width = hidden.size(1);
    const int64_t vocabulary = head.size(0);
    // A bfloat16 head is read back block by block for each slice: larger
    // slices share that cost.
    const bool packed = head.scalar_type() == at::kBFloat16;
    const absl::optional<QuantizedMatrix> half =
        packed ? absl::make_optional(Bf16View(head)) : absl::nullopt;
    // A BLAS copies the whole head for each slice, too, but 256 rows make up
    // for that.
    const int64_t most = packed ? rows : std::min<int64_t>(rows, 256);
    const int64_t slice = std::clamp<int64_t>((1 << 22) / vocabulary, 16,
                                              std::max<int64_t>(most, 16));
    const at::Tensor logits = NewFloats({slice, vocabulary});
    at::Tensor grad_hidden;
    at::Tensor grad_head;
    if (want_hidden) grad_hidden = NewFloats(hidden.sizes());
    if (want_head) grad_head = at::zeros(head.sizes(), at::kFloat);
    double loss = 0.0;
    for (int64_t i = 0; i < rows; i += slice) {
      const int64_t n = std::min(slice, rows - i);
      const float* x = Data(hidden) + i * width;
      if (half) {
        MatMulQuantized(*half, {}, n, x, 0.0f, Mutable(logits));
      } else {
        MatMul(Op::kPlain, Op::kTransposed, n, vocabulary, width, 1.0f, x,
               width, Data(head), width, 0.0f, Mutable(logits), vocabulary);
      }
      loss += CrossEntropy(Mutable(logits), targets.data_ptr<int32_t>() + i, n,
                           vocabulary, static_cast<float>(weight),
                           want_hidden || want_head);
      if (want_hidden && half) {
        MatMulQuantizedBackward(*half, {}, n, Data(logits), 0.0f,
                                Mutable(grad_hidden) + i * width);
      } else if (want_hidden) {
        MatMul(Op::kPlain, Op::kPlain, n, width, vocabulary, 1.0f, Data(logits),
               vocabulary, Data(head), width, 0.0f,
               Mutable(grad_hidden) + i * width, width);
      }
      if (want_head) {
        MatMul(Op::kTransposed, Op::kPlain, vocabulary, width, n, 1.0f,
               Data(logits), vocabulary, x, width, 1.0f, Mutable(grad_head),
               width);
      }
    }
    ctx->save_for_backward({grad_hidden, grad_head});
    return at::scalar_tensor(loss * weight, at::kDouble);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list results = ctx->get_saved_variables();
    const double factor = grads[0].item<double>();
    for (at::Tensor& result : results) {
      if (result.defined() && factor != 1.0) result = result * factor;
    }
    results.resize(6);
    return results;
  }
};

}  // namespace

std::vector<at::Tensor> LinearGroup(Kernels kernels, const at::Tensor& x,
                                    const std::vector<LinearParts>& layers,
                                    const LoraUse& lora) {
  if (!UseFused(kernels, x)) {
    return kernels == Kernels::kFused && lora.dropout <= 0.0 && Frozen(layers)
               ? LinearGroupDevice(x, layers, lora.scale)
               : LinearGroupReference(x, layers, lora);
  }
  const FlatLinears flat = Flatten(x, layers);
  const at::TensorList list(flat.tensors);
  return LinearGroupFn::apply(list, flat.mask, flat.packed, lora.scale,
                              lora.dropout, static_cast<int64_t>(lora.seed));
}

std::pair<at::Tensor, at::Tensor> AddRmsNorm(Kernels kernels,
                                             const at::Tensor& x,
                                             const at::Tensor& delta,
                                             const at::Tensor& weight,
                                             double epsilon) {
  if (!UseFused(kernels, x)) {
    return kernels == Kernels::kFused && !weight.requires_grad()
               ? AddRmsNormDevice(x, delta, weight, epsilon)
               : AddRmsNormReference(x, delta, weight, epsilon);
  }
  std::vector<at::Tensor> inputs = {x, weight};
  if (delta.defined()) inputs.push_back(delta);
  at::TensorList list(inputs);
  const variable_list out = AddRmsNormFn::apply(list, epsilon);
  return {out.size() > 1 ? out[1] : x, out[0]};
}

at::Tensor SwiGlu(Kernels kernels, const at::Tensor& gate,
                  const at::Tensor& up) {
  if (!UseFused(kernels, gate)) {
    return kernels == Kernels::kFused ? SwiGluDevice(gate, up)
                                      : at::silu(gate) * up;
  }
  return SwiGluFn::apply(gate, up);
}

at::Tensor HeadLogits(const at::Tensor& hidden, const at::Tensor& head) {
  if (hidden.scalar_type() == head.scalar_type()) {
    return at::matmul(hidden, head.t()).to(at::kFloat);
  }
  const bool gradient = at::GradMode::is_enabled() && hidden.requires_grad();
  if (gradient || !hidden.device().is_cpu() ||
      hidden.scalar_type() != at::kFloat) {
    return at::matmul(hidden, head.to(hidden.scalar_type()).t()).to(at::kFloat);
  }
  const at::Tensor logits = NewFloats({hidden.size(0), head.size(0)});
  MatMulQuantized(Bf16View(head), {}, hidden.size(0), Data(hidden.contiguous()),
                  0.0f, Mutable(logits));
  return logits;
}

at::Tensor LinearCrossEntropy(Kernels kernels, const at::Tensor& hidden,
                              const at::Tensor& head, const at::Tensor& targets,
                              double weight) {
  if (!UseFused(kernels, hidden)) {
    return kernels == Kernels::kFused && !head.requires_grad()
               ? LinearCrossEntropyDevice(hidden, head, targets, weight)
               : LinearCrossEntropyReference(hidden, head, targets, weight);
  }
  const bool grad = at::GradMode::is_enabled();
  return LinearCrossEntropyFn::apply(hidden, head, targets, weight,
                                     grad && hidden.requires_grad(),
                                     grad && head.requires_grad());
}

}  // namespace choir::model
