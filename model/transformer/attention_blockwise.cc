#include "model/transformer/attention_blockwise.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace choir::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

TiledAttentionPlan PlanOf(const BlockwiseOptions& options) {
  TiledAttentionPlan plan;
  plan.key_chunk = options.chunk;
  if (options.sparse) plan.pattern = &options.pattern;
  return plan;
}

int64_t QueryRows(const BlockwiseOptions& options, int64_t position,
                  int64_t left) {
  int64_t rows = std::min(options.chunk, left);
  if (options.sparse) {
    rows = std::min(rows,
                    options.pattern.block - position % options.pattern.block);
  }
  return rows;
}

// True where queries [first, first + rows) must not see keys of the tile;
// undefined if they see all of them.
at::Tensor Hidden(const KeyTile& tile, int64_t first, int64_t rows,
                  int64_t window, at::Device device) {
  const bool causal = tile.end > first + 1;
  const bool windowed = window > 0 && first + rows - window > tile.begin;
  if (!causal && !windowed) return {};
  const auto options = at::TensorOptions().dtype(at::kLong).device(device);
  const at::Tensor distance =
      at::arange(first, first + rows, options).unsqueeze(1) -
      at::arange(tile.begin, tile.end, options).unsqueeze(0);
  at::Tensor hidden = distance < 0;
  if (windowed) hidden = hidden.logical_or(distance >= window);
  return hidden;
}

// Tensors with the heads of a group next to each other: q as [batch, kv_heads,
// group * rows, head_dim], so that one product serves the group.
class Chunks {
 public:
  Chunks(const at::Tensor& q, const at::Tensor& k)
      : batch_(q.size(0)),
        kv_heads_(k.size(1)),
        queries_(q.size(2)),
        group_(q.size(1) / k.size(1)),
        head_dim_(q.size(3)),
        scale_(1.0 / std::sqrt(static_cast<double>(q.size(3)))) {}

  // Rows [i, i + rows) of x, which is like q (or has one column).
  at::Tensor Rows(const at::Tensor& x, int64_t i, int64_t rows) const {
    return x.view({batch_, kv_heads_, group_, queries_, x.size(3)})
        .narrow(3, i, rows)
        .reshape({batch_, kv_heads_, group_ * rows, x.size(3)});
  }
  void Store(const at::Tensor& chunk, int64_t i, int64_t rows,
             at::Tensor& x) const {
    x.view({batch_, kv_heads_, group_, queries_, x.size(3)})
        .narrow(3, i, rows)
        .copy_(chunk.view({batch_, kv_heads_, group_, rows, x.size(3)}));
  }
  // float32 [batch, kv_heads, group * rows, keys], -infinity where hidden.
  at::Tensor Scores(const at::Tensor& q, const at::Tensor& k,
                    const at::Tensor& hidden) const {
    at::Tensor scores =
        at::matmul(q, k.transpose(2, 3)).to(at::kFloat).mul_(scale_);
    if (hidden.defined()) {
      scores.view({batch_, kv_heads_, group_, hidden.size(0), hidden.size(1)})
          .masked_fill_(hidden, -INFINITY);
    }
    return scores;
  }
  double scale() const { return scale_; }

 private:
  int64_t batch_, kv_heads_, queries_, group_, head_dim_;
  double scale_;
};

// The ring's state at one chunk of queries.
struct Running {
  at::Tensor top, sum, out;  // float32 [.., rows, 1], [.., rows, head_dim]

  void Visit(const at::Tensor& scores, const at::Tensor& v) {
    at::Tensor now = scores.amax({-1}, /*keepdim=*/true);
    if (top.defined()) now = at::maximum(top, now);
    // A row that has seen nothing yet must not become NaN.
    const at::Tensor shift = now.clamp_min(-1e30);
    const at::Tensor p = (scores - shift).exp_();
    const at::Tensor part = at::matmul(p.to(v.scalar_type()), v).to(at::kFloat);
    const at::Tensor part_sum = p.sum({-1}, /*keepdim=*/true);
    if (top.defined()) {
      const at::Tensor factor = (top - shift).exp_();
      sum.mul_(factor).add_(part_sum);
      out.mul_(factor).add_(part);
    } else {
      sum = part_sum;
      out = part;
    }
    top = now;
  }
};

class BlockwiseFn : public Function<BlockwiseFn> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q,
                            const at::Tensor& k, const at::Tensor& v,
                            const std::vector<int64_t>& settings) {
    const BlockwiseOptions options = Unpack(settings);
    const TiledAttentionPlan plan = PlanOf(options);
    const Chunks chunks(q, k);
    at::Tensor out = at::empty(q.sizes(), q.options());
    at::Tensor log_sum = at::empty({q.size(0), q.size(1), q.size(2), 1},
                                   q.options().dtype(at::kFloat));
    const int64_t past = k.size(2) - q.size(2);
    int64_t rows = 0;
    for (int64_t i = 0; i < q.size(2); i += rows) {
      rows = QueryRows(options, past + i, q.size(2) - i);
      const at::Tensor block = chunks.Rows(q, i, rows);
      Running running;
      for (const KeyTile& tile :
           VisibleTiles(plan, options.window, past + i, rows)) {
        const int64_t n = tile.end - tile.begin;
        running.Visit(chunks.Scores(block, k.narrow(2, tile.begin, n),
                                    Hidden(tile, past + i, rows, options.window,
                                           q.device())),
                      v.narrow(2, tile.begin, n));
      }
      chunks.Store(running.out.div_(running.sum), i, rows, out);
      chunks.Store(running.sum.log_().add_(running.top), i, rows, log_sum);
    }
    ctx->save_for_backward({q, k, v, out, log_sum});
    ctx->saved_data["settings"] = settings;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& q = saved[0];
    const at::Tensor& k = saved[1];
    const at::Tensor& v = saved[2];
    const BlockwiseOptions options =
        Unpack(ctx->saved_data["settings"].toIntVector());
    const TiledAttentionPlan plan = PlanOf(options);
    const Chunks chunks(q, k);
    const at::Tensor grad = grads[0].contiguous();
    at::Tensor grad_q = at::empty(q.sizes(), q.options());
    const at::Tensor grad_k =
        at::zeros(k.sizes(), k.options().dtype(at::kFloat));
    const at::Tensor grad_v = at::zeros_like(grad_k);
    int64_t rows = 0;
    for (int64_t i = 0; i < q.size(2); i += rows) {
      rows = QueryRows(options, i, q.size(2) - i);
      const at::Tensor q_rows = chunks.Rows(q, i, rows);
      const at::Tensor g_rows = chunks.Rows(grad, i, rows);
      const at::Tensor log_sum = chunks.Rows(saved[4], i, rows);
      const at::Tensor delta =
          (g_rows.to(at::kFloat) * chunks.Rows(saved[3], i, rows))
              .sum({-1}, /*keepdim=*/true);
      at::Tensor grad_rows;
      for (const KeyTile& tile : VisibleTiles(plan, options.window, i, rows)) {
        const int64_t n = tile.end - tile.begin;
        const at::Tensor k_tile = k.narrow(2, tile.begin, n);
        const at::Tensor p =
            chunks
                .Scores(q_rows, k_tile,
                        Hidden(tile, i, rows, options.window, q.device()))
                .sub_(log_sum)
                .exp_();
        const at::Tensor s =
            at::matmul(g_rows, v.narrow(2, tile.begin, n).transpose(2, 3))
                .to(at::kFloat)
                .sub_(delta)
                .mul_(p)
                .mul_(chunks.scale())
                .to(q.scalar_type());
        grad_v.narrow(2, tile.begin, n)
            .add_(at::matmul(p.to(q.scalar_type()).transpose(2, 3), g_rows));
        grad_k.narrow(2, tile.begin, n)
            .add_(at::matmul(s.transpose(2, 3), q_rows));
        const at::Tensor part = at::matmul(s, k_tile).to(at::kFloat);
        grad_rows = grad_rows.defined() ? grad_rows.add_(part) : part;
      }
      chunks.Store(grad_rows, i, rows, grad_q);
    }
    return {grad_q, grad_k.to(k.scalar_type()), grad_v.to(v.scalar_type()),
            at::Tensor()};
  }

  static std::vector<int64_t> Pack(const BlockwiseOptions& o) {
    return {o.chunk,
            o.window,
            o.sparse ? 1 : 0,
            o.pattern.block,
            o.pattern.local_blocks,
            o.pattern.global_blocks,
            o.pattern.stride};
  }
  static BlockwiseOptions Unpack(const std::vector<int64_t>& s) {
    return {s[0], s[1], s[2] != 0, {s[3], s[4], s[5], s[6]}};
  }
};

}  // namespace

at::Tensor BlockwiseAttention(const at::Tensor& q, const at::Tensor& k,
                              const at::Tensor& v,
                              const BlockwiseOptions& options) {
  return BlockwiseFn::apply(q.contiguous(), k.contiguous(), v.contiguous(),
                            BlockwiseFn::Pack(options));
}

}  // namespace choir::model
