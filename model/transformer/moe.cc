#include "model/transformer/moe.h"

#include <algorithm>

#include "base/check.h"
#include "model/kernels/moe_kernels.h"

namespace choir::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// Where the choices of all tokens go: choice j of token t is slot t * k + j;
// positions are slots sorted by expert, in order of tokens within one.
struct Grouping {
  std::vector<int64_t> counts;  // positions of each expert
  at::Tensor slots;             // int64 [positions]: slot of a position
  at::Tensor positions;         // int64 [slots]: position of a slot
};

Grouping GroupByExpert(const at::Tensor& chosen, int64_t experts) {
  const at::Tensor host = chosen.to(at::kCPU).contiguous();
  const int64_t n = host.numel();
  const int64_t* expert = host.data_ptr<int64_t>();
  Grouping grouping;
  grouping.counts.assign(experts, 0);
  for (int64_t i = 0; i < n; ++i) ++grouping.counts[expert[i]];
  std::vector<int64_t> next(experts, 0);
  for (int64_t e = 1; e < experts; ++e) {
    next[e] = next[e - 1] + grouping.counts[e - 1];
  }
  at::Tensor slots = at::empty({n}, at::kLong);
  at::Tensor positions = at::empty({n}, at::kLong);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t position = next[expert[i]]++;
    slots.data_ptr<int64_t>()[position] = i;
    positions.data_ptr<int64_t>()[i] = position;
  }
  grouping.slots = slots.to(chosen.device());
  grouping.positions = positions.to(chosen.device());
  return grouping;
}

// A copy of each token's row for each of its choices, sorted by expert.
class DispatchFn : public Function<DispatchFn> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x,
                            const at::Tensor& slots,
                            const at::Tensor& positions, int64_t k,
                            bool fused) {
    ctx->save_for_backward({positions});
    ctx->saved_data["k"] = k;
    ctx->saved_data["fused"] = fused;
    if (!fused) return x.index_select(0, slots.floor_divide(k));
    const int64_t n = slots.size(0);
    const at::Tensor out = at::empty({n, x.size(1)}, x.options());
    CopyTokenRows(x.data_ptr<float>(), slots.data_ptr<int64_t>(), n, k,
                  x.size(1), out.data_ptr<float>());
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const at::Tensor positions = ctx->get_saved_variables()[0];
    const int64_t k = ctx->saved_data["k"].toInt();
    const at::Tensor grad = grads[0].contiguous();
    const int64_t tokens = positions.size(0) / k;
    at::Tensor grad_x;
    if (ctx->saved_data["fused"].toBool()) {
      grad_x = at::empty({tokens, grad.size(1)}, grad.options());
      SumChoiceRows(grad.data_ptr<float>(), positions.data_ptr<int64_t>(),
                    nullptr, tokens, k, grad.size(1), grad_x.data_ptr<float>());
    } else {
      grad_x = grad.index_select(0, positions)
                   .view({tokens, k, grad.size(1)})
                   .sum(1);
    }
    return {grad_x, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// sum over a token's choices of weight * row.
class CombineFn : public Function<CombineFn> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& y,
                            const at::Tensor& weights, const at::Tensor& slots,
                            const at::Tensor& positions, bool fused) {
    ctx->save_for_backward({y, weights, slots, positions});
    ctx->saved_data["fused"] = fused;
    const int64_t tokens = weights.size(0);
    const int64_t k = weights.size(1);
    if (!fused) {
      return (y.index_select(0, positions).view({tokens, k, y.size(1)}) *
              weights.unsqueeze(2).to(y.scalar_type()))
          .sum(1);
    }
    const at::Tensor out = at::empty({tokens, y.size(1)}, y.options());
    SumChoiceRows(y.data_ptr<float>(), positions.data_ptr<int64_t>(),
                  weights.data_ptr<float>(), tokens, k, y.size(1),
                  out.data_ptr<float>());
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& y = saved[0];
    const at::Tensor& weights = saved[1];
    const at::Tensor grad = grads[0].contiguous();
    const int64_t k = weights.size(1);
    at::Tensor grad_y, grad_weights;
    if (ctx->saved_data["fused"].toBool()) {
      grad_y = at::empty(y.sizes(), y.options());
      grad_weights = at::empty(weights.sizes(), weights.options());
      CombineBackward(grad.data_ptr<float>(), y.data_ptr<float>(),
                      weights.data_ptr<float>(), saved[2].data_ptr<int64_t>(),
                      y.size(0), k, y.size(1), grad_y.data_ptr<float>(),
                      grad_weights.data_ptr<float>());
    } else {
      const at::Tensor spread = grad.index_select(0, saved[2].floor_divide(k));
      const at::Tensor weight = weights.reshape({-1}).index_select(0, saved[2]);
      grad_y = spread * weight.unsqueeze(1).to(y.scalar_type());
      grad_weights = (spread * y)
                         .to(at::kFloat)
                         .sum(1)
                         .index_select(0, saved[3])
                         .view(weights.sizes());
    }
    return {grad_y, grad_weights, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// The logits of all layers, one under the other.
at::Tensor AllLogits(absl::Span<const RouterLog::Layer> layers) {
  std::vector<at::Tensor> logits;
  for (const RouterLog::Layer& layer : layers) logits.push_back(layer.logits);
  return at::cat(logits, 0);
}

// How often each expert is among the likeliest, float32 [experts].
at::Tensor Choices(const at::Tensor& probability, int64_t experts_per_token) {
  const int64_t k = std::min(experts_per_token, probability.size(1));
  const at::Tensor chosen = std::get<1>(probability.detach().topk(k, -1));
  return at::bincount(chosen.reshape({-1}), {}, probability.size(1))
      .to(at::kFloat);
}

}  // namespace

at::Tensor MixExperts(Kernels kernels, const at::Tensor& x,
                      const MoeParts& parts, const ExpertFn& expert,
                      bool keep_logits, RouterLog::Layer* layer) {
  const int64_t experts = parts.router.size(0);
  const int64_t k = parts.experts_per_token;
  const bool fused = UseFused(kernels, x);
  const at::Tensor logits =
      LinearGroup(kernels, x, {{parts.router, {}, {}, {}}}, {})[0].to(
          at::kFloat);
  const at::Tensor probability = at::softmax(logits, -1);
  at::Tensor weights, chosen;
  if (parts.bias.defined()) {
    chosen = std::get<1>(
        (probability.detach() + parts.bias.to(x.device())).topk(k, -1));
    weights = probability.gather(1, chosen);
  } else {
    std::tie(weights, chosen) = probability.topk(k, -1);
  }
  if (parts.renormalise) weights = weights / weights.sum(-1, true);
  const Grouping grouping = GroupByExpert(chosen, experts);
  if (layer != nullptr) {
    layer->tokens = grouping.counts;
    if (keep_logits) layer->logits = logits;
  }
  const at::Tensor rows =
      DispatchFn::apply(x, grouping.slots, grouping.positions, k, fused);
  std::vector<int64_t> sizes;
  std::vector<size_t> busy;
  for (int64_t e = 0; e < experts; ++e) {
    if (grouping.counts[e] == 0) continue;
    sizes.push_back(grouping.counts[e]);
    busy.push_back(static_cast<size_t>(e));
  }
  // One split and one concatenation: their gradients cost one copy in all,
  // where a slice for each expert would cost one for each.
  std::vector<at::Tensor> inputs = at::split_with_sizes(rows, sizes, 0);
  std::vector<at::Tensor> outputs;
  for (size_t i = 0; i < busy.size(); ++i) {
    outputs.push_back(expert(busy[i], inputs[i]));
  }
  const at::Tensor y = outputs.size() == 1 ? outputs[0] : at::cat(outputs, 0);
  return CombineFn::apply(y, weights.contiguous(), grouping.slots,
                          grouping.positions, fused);
}

at::Tensor LoadBalancingLoss(absl::Span<const RouterLog::Layer> layers,
                             int64_t experts_per_token) {
  CHOIR_CHECK(!layers.empty());
  const at::Tensor probability = at::softmax(AllLogits(layers), -1);
  const double tokens = static_cast<double>(probability.size(0));
  const at::Tensor share = Choices(probability, experts_per_token) / tokens;
  return (share * probability.mean(0)).sum() * probability.size(1);
}

void LoadBalancingMeter::Add(absl::Span<const RouterLog::Layer> layers) {
  if (layers.empty()) return;
  at::NoGradGuard no_grad;
  const at::Tensor probability = at::softmax(AllLogits(layers), -1);
  const at::Tensor choices = Choices(probability, experts_per_token_).cpu();
  const at::Tensor sums = probability.to(at::kDouble).sum(0).cpu();
  choices_.resize(sums.size(0), 0.0);
  probability_.resize(sums.size(0), 0.0);
  for (size_t e = 0; e < choices_.size(); ++e) {
    choices_[e] += choices.data_ptr<float>()[e];
    probability_[e] += sums.data_ptr<double>()[e];
  }
  tokens_ += static_cast<double>(probability.size(0));
}

double LoadBalancingMeter::loss() const {
  if (tokens_ == 0.0) return 0.0;
  double sum = 0.0;
  for (size_t e = 0; e < choices_.size(); ++e) {
    sum += choices_[e] / tokens_ * (probability_[e] / tokens_);
  }
  return sum * static_cast<double>(choices_.size());
}

at::Tensor RouterZLoss(absl::Span<const RouterLog::Layer> layers) {
  CHOIR_CHECK(!layers.empty());
  return at::logsumexp(AllLogits(layers), {-1}).pow(2).mean();
}

void BalanceRouterBias(absl::Span<const std::vector<int64_t>> tokens,
                       double rate, RouterBias& bias) {
  bias.resize(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    const int64_t experts = static_cast<int64_t>(tokens[i].size());
    if (!bias[i].defined()) bias[i] = at::zeros({experts}, at::kFloat);
    double mean = 0.0;
    for (const int64_t n : tokens[i]) mean += static_cast<double>(n);
    mean /= static_cast<double>(experts);
    float* values = bias[i].data_ptr<float>();
    for (int64_t e = 0; e < experts; ++e) {
      const double lack = mean - static_cast<double>(tokens[i][e]);
      values[e] += static_cast<float>(rate * ((lack > 0.0) - (lack < 0.0)));
    }
  }
}

}  // namespace choir::model
