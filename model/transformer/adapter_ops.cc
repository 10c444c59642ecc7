#include "model/transformer/adapter_ops.h"

#include <algorithm>
#include <utility>

#include "model/adapter/lora_layout.h"

namespace choir::model {
namespace {

// One value per row of W, as an autograd-visible float32 vector times y. In
// float32 whatever y is: factors near one differ by less than bfloat16 can say.
at::Tensor ScaleColumns(const at::Tensor& y, const at::Tensor& factors) {
  return (y * factors).to(y.scalar_type());
}

// What the layer sees of x.
at::Tensor AdaptedInput(const at::Tensor& x, const LinearAdapter& adapter) {
  if (adapter.ia3_in.defined()) {
    return ScaleColumns(x, adapter.ia3_in.view({-1}));
  }
  if (!adapter.lofit_scale.defined()) return x;
  if (!adapter.lofit_mask.defined()) {
    return x + ScaleColumns(x, adapter.lofit_scale.view({-1}));
  }
  return x + (adapter.lofit_offset.view({-1}) * adapter.lofit_mask)
                 .to(x.scalar_type());
}

// A W^T, float32 [rows of A, out], whatever W is stored as. No gradients.
at::Tensor ThinProduct(Kernels kernels, const Linear& layer,
                       const at::Tensor& a) {
  LinearParts parts;
  parts.weight = layer.weight;
  parts.packed = layer.packed.get();
  const at::ScalarType type =
      layer.weight.defined() ? layer.weight.scalar_type() : a.scalar_type();
  return LinearGroup(kernels, a.to(type), {parts}, LoraUse())[0].to(at::kFloat);
}

at::Tensor SquaredRowNorms(const at::Tensor& weight) {
  // float32 sums of a few thousand squares are not enough: they are what the
  // small changes by B A are added to.
  at::Tensor norms =
      at::empty({weight.size(0)}, weight.options().dtype(at::kDouble));
  constexpr int64_t kRows = 256;
  for (int64_t row = 0; row < weight.size(0); row += kRows) {
    const int64_t n = std::min(kRows, weight.size(0) - row);
    norms.narrow(0, row, n).copy_(
        weight.narrow(0, row, n).to(at::kDouble).square().sum(1));
  }
  return norms;
}

at::Tensor SquaredNorms(Kernels kernels, const Linear& layer,
                        const LinearAdapter& adapter, double scale) {
  const at::Tensor a = adapter.lora_a.detach();
  const at::Tensor b = adapter.lora_b.detach();
  if (kernels == Kernels::kReference || !adapter.base_norms.defined()) {
    return SquaredRowNorms(layer.Dense().to(at::kFloat) +
                           at::matmul(b, a) * scale);
  }
  // |w + s b A|^2 = |w|^2 + 2 s b (A w) + s^2 b (A A^T) b^T, row by row.
  const at::Tensor wide = b.to(at::kDouble);
  const at::Tensor cross =
      (wide * ThinProduct(kernels, layer, a).t()).sum(1) * (2.0 * scale);
  const at::Tensor gram = at::matmul(a, a.t()).to(at::kDouble);
  const at::Tensor square =
      (at::matmul(wide, gram) * wide).sum(1) * (scale * scale);
  return at::clamp_min(adapter.base_norms + cross + square, 0.0);
}

at::Tensor ApplyOne(Kernels kernels, const at::Tensor& x, const LinearUse& use,
                    const LoraUse& lora) {
  const LinearAdapter& adapter = *use.adapter;
  const Linear& layer = *use.layer;
  LinearParts parts;
  parts.weight = layer.weight;
  parts.packed = layer.packed.get();
  parts.lora_a = adapter.lora_a;
  parts.lora_b = adapter.lora_b;
  const bool dora = adapter.magnitude.defined();
  if (!dora) parts.bias = layer.bias;
  at::Tensor y =
      LinearGroup(kernels, AdaptedInput(x, adapter), {parts}, lora)[0];
  if (dora) {
    y = ScaleColumns(y, adapter.row_factors.defined()
                            ? adapter.row_factors
                            : DoraFactors(kernels, layer, adapter, lora.scale));
    if (layer.bias.defined()) y = y + layer.bias;
  }
  if (adapter.ia3_out.defined()) {
    y = ScaleColumns(y, adapter.ia3_out.view({-1}));
  }
  return y;
}

}  // namespace

at::Tensor DoraFactors(Kernels kernels, const Linear& layer,
                       const LinearAdapter& adapter, double scale) {
  at::Tensor inverse;
  {
    at::NoGradGuard no_grad;
    // A row of zeros has no direction: it stays zero.
    const at::Tensor norms =
        at::sqrt(SquaredNorms(kernels, layer, adapter, scale));
    inverse =
        at::where(norms > 0.0, at::reciprocal(norms), at::zeros_like(norms))
            .to(at::kFloat);
  }
  return adapter.magnitude * inverse;
}

std::vector<at::Tensor> ApplyAdapted(Kernels kernels, const at::Tensor& x,
                                     absl::Span<const LinearUse> layers,
                                     const LoraUse& lora) {
  std::vector<LinearUse> together;
  for (const LinearUse& use : layers) {
    if (use.adapter == nullptr || use.adapter->plain()) together.push_back(use);
  }
  std::vector<at::Tensor> joint;
  if (!together.empty()) joint = ApplyLinear(kernels, x, together, lora);
  std::vector<at::Tensor> outputs;
  size_t next = 0;
  for (const LinearUse& use : layers) {
    outputs.push_back(use.adapter == nullptr || use.adapter->plain()
                          ? joint[next++]
                          : ApplyOne(kernels, x, use, lora));
  }
  return outputs;
}

LoraBank BindAdapter(const ModelConfig& config,
                     const config::AdapterOptions& options,
                     const codec::Layout& layout, const at::Tensor& flat) {
  const std::vector<LinearSpec> layers = LinearLayers(config);
  LoraBank bank = BindLora(layers, layout, flat,
                           options.has_lora() ? options.scale() : 0.0);
  if (options.kind != config::AdapterKind::kFrozenA) return bank;
  std::vector<size_t> next(bank.blocks.size(), 0);
  for (const LinearSpec& spec : layers) {
    LinearAdapter& adapter = bank.blocks[spec.layer][next[spec.layer]++];
    if (!adapter.lora_b.defined() || adapter.lora_a.defined()) continue;
    const int64_t rank = adapter.lora_b.size(1);
    const std::vector<float> a =
        FrozenA(spec.module, rank, spec.in_features, options.frozen_seed);
    const at::Tensor host = at::empty({rank, spec.in_features}, at::kFloat);
    std::copy(a.begin(), a.end(), host.data_ptr<float>());
    adapter.lora_a = host.to(flat.device());
  }
  return bank;
}

void PrepareDora(const BlockLayers& blocks, LoraBank& bank) {
  at::NoGradGuard no_grad;
  for (size_t b = 0; b < bank.blocks.size(); ++b) {
    for (size_t i = 0; i < bank.blocks[b].size(); ++i) {
      LinearAdapter& adapter = bank.blocks[b][i];
      if (!adapter.magnitude.defined()) continue;
      adapter.base_norms = SquaredRowNorms(blocks[b][i].Dense());
    }
  }
}

void FixDora(const BlockLayers& blocks, LoraBank& bank) {
  at::NoGradGuard no_grad;
  for (size_t b = 0; b < bank.blocks.size(); ++b) {
    for (size_t i = 0; i < bank.blocks[b].size(); ++i) {
      LinearAdapter& adapter = bank.blocks[b][i];
      if (!adapter.magnitude.defined()) continue;
      adapter.row_factors =
          DoraFactors(Kernels::kFused, blocks[b][i], adapter, bank.scale);
    }
  }
}

void SetLofitState(const ModelConfig& config, const LofitState& state,
                   LoraBank& bank) {
  for (size_t b = 0; b < bank.blocks.size(); ++b) {
    for (LinearAdapter& adapter : bank.blocks[b]) {
      if (!adapter.lofit_scale.defined()) continue;
      adapter.lofit_mask = at::Tensor();
      if (state.choosing) continue;
      const at::Tensor mask =
          at::zeros({config.num_heads, config.head_dim}, at::kFloat);
      for (int64_t h = 0; h < config.num_heads; ++h) {
        if (state.chosen[b * config.num_heads + h]) mask[h].fill_(1.0);
      }
      adapter.lofit_mask = mask.view({-1}).to(adapter.lofit_scale.device());
    }
  }
}

}  // namespace choir::model
