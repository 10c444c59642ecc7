#include "model/transformer/lora_runs.h"

#include <utility>

#include "base/check.h"
#include "model/kernels/blas.h"
#include "model/kernels/cpu_kernels.h"
#include "model/transformer/ops_device.h"

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

// Rows of x of one run, dropped out.
at::Tensor RunInput(const at::Tensor& x, int64_t begin, int64_t rows,
                    double dropout, uint64_t seed) {
  const at::Tensor part = x.narrow(0, begin, rows);
  if (dropout <= 0.0) return part;
  const at::Tensor out = NewFloats(part.sizes());
  Dropout(Data(part), part.numel(), dropout, seed, Mutable(out));
  return out;
}

// The runs as numbers that an autograd node can keep: begin, end, adapter and
// seed of each.
std::vector<int64_t> Flat(const RunUse& use) {
  std::vector<int64_t> flat;
  for (const AdapterRun& run : use.runs) {
    flat.insert(flat.end(),
                {run.begin, run.end, static_cast<int64_t>(run.adapter),
                 static_cast<int64_t>(use.seeds[run.adapter])});
  }
  return flat;
}

// Tensors: x, y, then A and B of each adapter.
class LoraRunsFn : public Function<LoraRunsFn> {
 public:
  static variable_list forward(AutogradContext* ctx, at::TensorList tensors,
                               const std::vector<int64_t>& runs, double scale,
                               double dropout) {
    const at::Tensor& x = tensors[0];
    const int64_t in = x.size(1);
    const int64_t out = tensors[1].size(1);
    at::Tensor y = tensors[1].clone();
    for (size_t i = 0; i < runs.size(); i += 4) {
      const int64_t begin = runs[i];
      const int64_t rows = runs[i + 1] - begin;
      const at::Tensor& a = tensors[2 + 2 * runs[i + 2]];
      const at::Tensor& b = tensors[3 + 2 * runs[i + 2]];
      const int64_t rank = a.size(0);
      const at::Tensor input =
          RunInput(x, begin, rows, dropout, static_cast<uint64_t>(runs[i + 3]));
      const at::Tensor u = NewFloats({rows, rank});
      MatMul(Op::kPlain, Op::kTransposed, rows, rank, in, 1.0f, Data(input), in,
             Data(a), in, 0.0f, Mutable(u), rank);
      MatMul(Op::kPlain, Op::kTransposed, rows, out, rank,
             static_cast<float>(scale), Data(u), rank, Data(b), rank, 1.0f,
             Mutable(y) + begin * out, out);
    }
    variable_list saved = tensors.vec();
    saved[1] = at::Tensor();  // y itself is not needed again
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["runs"] = runs;
    ctx->saved_data["scale"] = scale;
    ctx->saved_data["dropout"] = dropout;
    return {y};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& x = saved[0];
    const std::vector<int64_t> runs = ctx->saved_data["runs"].toIntVector();
    const float scale = static_cast<float>(ctx->saved_data["scale"].toDouble());
    const double dropout = ctx->saved_data["dropout"].toDouble();
    const at::Tensor g = grads[0].contiguous();
    const int64_t in = x.size(1);
    const int64_t out = g.size(1);
    variable_list results(saved.size());
    results[1] = g;
    for (size_t i = 2; i < saved.size(); ++i) {
      // A frozen A has no gradient, but an undefined one is not expected.
      results[i] = at::zeros_like(saved[i]);
    }
    if (x.requires_grad()) results[0] = NewFloats(x.sizes());
    for (size_t i = 0; i < runs.size(); i += 4) {
      const int64_t begin = runs[i];
      const int64_t rows = runs[i + 1] - begin;
      const size_t at = static_cast<size_t>(2 + 2 * runs[i + 2]);
      const uint64_t seed = static_cast<uint64_t>(runs[i + 3]);
      const at::Tensor& a = saved[at];
      const at::Tensor& b = saved[at + 1];
      const int64_t rank = a.size(0);
      const float* gradient = Data(g) + begin * out;
      const at::Tensor input = RunInput(x, begin, rows, dropout, seed);
      const at::Tensor u = NewFloats({rows, rank});
      const at::Tensor v = NewFloats({rows, rank});
      MatMul(Op::kPlain, Op::kTransposed, rows, rank, in, 1.0f, Data(input), in,
             Data(a), in, 0.0f, Mutable(u), rank);
      MatMul(Op::kPlain, Op::kPlain, rows, rank, out, scale, gradient, out,
             Data(b), rank, 0.0f, Mutable(v), rank);
      MatMul(Op::kTransposed, Op::kPlain, out, rank, rows, scale, gradient, out,
             Data(u), rank, 1.0f, Mutable(results[at + 1]), rank);
      if (a.requires_grad()) {
        MatMul(Op::kTransposed, Op::kPlain, rank, in, rows, 1.0f, Data(v), rank,
               Data(input), in, 1.0f, Mutable(results[at]), in);
      }
      if (!results[0].defined()) continue;
      float* through = Mutable(results[0]) + begin * in;
      MatMul(Op::kPlain, Op::kPlain, rows, in, rank, 1.0f, Data(v), rank,
             Data(a), in, 0.0f, through, in);
      if (dropout > 0.0) Dropout(through, rows * in, dropout, seed, through);
    }
    results.resize(results.size() + 3);  // runs, scale, dropout
    return results;
  }
};

at::Tensor AddLoraRunsReference(const at::Tensor& x, const at::Tensor& y,
                                const RunUse& use) {
  std::vector<at::Tensor> parts;
  for (const AdapterRun& run : use.runs) {
    const LinearAdapter& adapter = *use.adapters[run.adapter];
    at::Tensor input = x.narrow(0, run.begin, run.end - run.begin);
    if (use.dropout > 0.0) {
      input = input * DropoutMask(input.sizes(), use.dropout,
                                  use.seeds[run.adapter], x.device())
                          .to(x.scalar_type());
    }
    const at::Tensor u =
        at::matmul(input, adapter.lora_a.to(x.scalar_type()).t());
    parts.push_back(at::matmul(u, adapter.lora_b.to(x.scalar_type()).t()) *
                    use.scale);
  }
  return y + at::cat(parts, 0);
}

}  // namespace

std::vector<AdapterRun> RunsOf(absl::Span<const int32_t> adapter_of_row) {
  std::vector<AdapterRun> runs;
  for (size_t i = 0; i < adapter_of_row.size(); ++i) {
    const int64_t row = static_cast<int64_t>(i);
    const size_t adapter = static_cast<size_t>(adapter_of_row[i]);
    if (runs.empty() || runs.back().adapter != adapter) {
      runs.push_back({row, row, adapter});
    }
    runs.back().end = row + 1;
  }
  return runs;
}

at::Tensor AddLoraRuns(Kernels kernels, const at::Tensor& x,
                       const at::Tensor& y, const RunUse& use) {
  CHOIR_CHECK(!use.runs.empty() && use.runs.front().begin == 0 &&
              use.runs.back().end == x.size(0));
  if (!UseFused(kernels, x)) return AddLoraRunsReference(x, y, use);
  std::vector<at::Tensor> tensors = {x, y};
  for (const LinearAdapter* adapter : use.adapters) {
    tensors.push_back(adapter->lora_a);
    tensors.push_back(adapter->lora_b);
  }
  at::TensorList list(tensors);
  return LoraRunsFn::apply(list, Flat(use), use.scale, use.dropout)[0];
}

}  // namespace choir::model
