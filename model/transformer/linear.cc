#include "model/transformer/linear.h"

#include <map>
#include <string>

#include "model/adapter/lora_layout.h"

namespace choir::model {

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
      if (!adapter.defined()) continue;
      // A gradient that is already there is added to in place.
      adapter.lora_a.set_requires_grad(true);
      adapter.lora_b.set_requires_grad(true);
      adapter.lora_a.mutable_grad() = gradients.blocks[b][i].lora_a;
      adapter.lora_b.mutable_grad() = gradients.blocks[b][i].lora_b;
    }
  }
}

std::vector<at::Tensor> ApplyLinear(Kernels kernels, const at::Tensor& x,
                                    absl::Span<const LinearUse> layers,
                                    const LoraUse& lora) {
  std::vector<LinearParts> parts(layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    parts[i].weight = layers[i].layer->weight;
    parts[i].bias = layers[i].layer->bias;
    if (layers[i].adapter == nullptr) continue;
    parts[i].lora_a = layers[i].adapter->lora_a;
    parts[i].lora_b = layers[i].adapter->lora_b;
  }
  return LinearGroup(kernels, x, parts, lora);
}

}  // namespace choir::model
