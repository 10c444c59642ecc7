#include "model/transformer/mlp_channels.h"

namespace choir::model {

void ChannelActivity::Add(size_t block, const at::Tensor& activations) {
  if (sums.size() <= block) sums.resize(block + 1);
  const at::Tensor sum = activations.detach().abs().sum({0}, false, at::kFloat);
  sums[block] = sums[block].defined() ? sums[block] + sum : sum;
}

KeptMlp KeepChannels(absl::Span<const Linear> layers,
                     absl::Span<const LinearAdapter> adapters,
                     const at::Tensor& kept) {
  KeptMlp mlp;
  mlp.layers.assign(layers.begin(), layers.end());
  mlp.adapters.assign(adapters.begin(), adapters.end());
  for (size_t i = 0; i < layers.size(); ++i) {
    const bool output = i + 1 == layers.size();
    Linear& layer = mlp.layers[i];
    layer.weight = layer.weight.index_select(output ? 1 : 0, kept);
    if (!output && layer.bias.defined()) {
      layer.bias = layer.bias.index_select(0, kept);
    }
    if (adapters.empty()) continue;
    LinearAdapter& adapter = mlp.adapters[i];
    if (!adapter.lora_a.defined()) continue;
    if (output) {
      adapter.lora_a = adapter.lora_a.index_select(1, kept);
    } else {
      adapter.lora_b = adapter.lora_b.index_select(0, kept);
    }
  }
  return mlp;
}

}  // namespace choir::model
