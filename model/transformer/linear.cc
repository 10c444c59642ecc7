#include "model/transformer/linear.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "model/adapter/lora_layout.h"
#include "model/transformer/adapter_ops.h"

namespace choir::model {

at::Tensor Linear::Dense() const {
  if (packed == nullptr) return weight;
  return packed->Dense(packed->device().is_cpu() ? at::kFloat : at::kBFloat16);
}

LoraBank BindLora(absl::Span<const LinearSpec> layers,
                  const codec::Layout& layout, const at::Tensor& flat,
                  double scale) {
  std::map<std::string, size_t> index;
  for (size_t i = 0; i < layout.tensors().size(); ++i) {
    index[layout.tensors()[i].name] = i;
  }
  const auto view = [&](const std::string& name) {
    const auto it = index.find(name);
    if (it == index.end()) return at::Tensor();
    const codec::TensorSpec& spec = layout.tensors()[it->second];
    return flat.narrow(0, layout.offset(it->second), spec.num_elements())
        .view(spec.shape)
        .detach();
  };
  LoraBank bank;
  bank.scale = scale;
  for (const LinearSpec& spec : layers) {
    if (static_cast<int64_t>(bank.blocks.size()) <= spec.layer) {
      bank.blocks.resize(spec.layer + 1);
    }
    LinearAdapter& adapter = bank.blocks[spec.layer].emplace_back();
    adapter.lora_a = view(LoraAName(spec.module));
    adapter.lora_b = view(LoraBName(spec.module));
    adapter.magnitude = view(MagnitudeName(spec.module));
    const at::Tensor ia3 = view(Ia3Name(spec.module));
    if (ia3.defined()) {
      (ia3.size(1) == 1 ? adapter.ia3_out : adapter.ia3_in) = ia3;
    }
    adapter.lofit_scale = view(LofitScaleName(spec.module));
    adapter.lofit_offset = view(LofitOffsetName(spec.module));
  }
  return bank;
}

LoraBank BindLora(const ModelConfig& config, const codec::Layout& layout,
                  const at::Tensor& flat, double scale) {
  return BindLora(LinearLayers(config), layout, flat, scale);
}

void GatherGradients(const LoraBank& gradients, LoraBank& bank) {
  for (size_t b = 0; b < bank.blocks.size(); ++b) {
    for (size_t i = 0; i < bank.blocks[b].size(); ++i) {
      LinearAdapter& adapter = bank.blocks[b][i];
      const LinearAdapter& gradient = gradients.blocks[b][i];
      const std::pair<at::Tensor&, const at::Tensor&> pairs[] = {
          {adapter.lora_a, gradient.lora_a},
          {adapter.lora_b, gradient.lora_b},
          {adapter.magnitude, gradient.magnitude},
          {adapter.ia3_in, gradient.ia3_in},
          {adapter.ia3_out, gradient.ia3_out},
          {adapter.lofit_scale, gradient.lofit_scale},
          {adapter.lofit_offset, gradient.lofit_offset}};
      for (const auto& [tensor, grad] : pairs) {
        // What is not in the layout has no gradient: a frozen A.
        if (!grad.defined()) continue;
        // A gradient that is already there is added to in place.
        tensor.set_requires_grad(true);
        tensor.mutable_grad() = grad;
      }
    }
  }
}

std::vector<at::Tensor> ApplyLinear(Kernels kernels, const at::Tensor& x,
                                    absl::Span<const LinearUse> layers,
                                    const LoraUse& lora) {
  if (std::any_of(layers.begin(), layers.end(), [](const LinearUse& use) {
        return use.adapter != nullptr && !use.adapter->plain();
      })) {
    return ApplyAdapted(kernels, x, layers, lora);
  }
  std::vector<LinearParts> parts(layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    parts[i].weight = layers[i].layer->weight;
    parts[i].packed = layers[i].layer->packed.get();
    parts[i].bias = layers[i].layer->bias;
    if (layers[i].adapter == nullptr) continue;
    parts[i].lora_a = layers[i].adapter->lora_a;
    parts[i].lora_b = layers[i].adapter->lora_b;
  }
  return LinearGroup(kernels, x, parts, lora);
}

}  // namespace choir::model
