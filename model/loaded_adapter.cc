#include "model/loaded_adapter.h"

#include <algorithm>

#include "base/status_macros.h"
#include "model/adapter/lora_layout.h"
#include "model/export/read_adapter.h"
#include "model/torch/guard.h"

namespace choir::model {

namespace {

// A bank has one scale: what a layer's own differs by goes into its B.
void ScaleLayers(const ModelConfig& config, const PeftAdapter& adapter,
                 float* values) {
  const config::AdapterOptions& options = adapter.options;
  if (!options.has_lora() || options.uniform()) return;
  const std::vector<codec::TensorSpec>& tensors = adapter.layout.tensors();
  for (const LinearSpec& layer : LinearLayers(config)) {
    const std::string name = LoraBName(layer.module);
    const auto factor =
        static_cast<float>(options.scale_of(layer.module) / options.scale());
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (tensors[i].name != name) continue;
      float* begin = values + adapter.layout.offset(i);
      std::for_each(begin, begin + tensors[i].num_elements(),
                    [&](float& value) { value *= factor; });
    }
  }
}

}  // namespace

BlockLayers BlockLayersOf(const Decoder& decoder) {
  BlockLayers layers;
  for (const BlockWeights& block : decoder.weights().blocks) {
    layers.push_back(block.linear);
  }
  return layers;
}

LoraBank BindForUse(const PeftAdapter& adapter, const Decoder& decoder) {
  at::NoGradGuard no_grad;
  const at::Tensor flat =
      at::empty({static_cast<int64_t>(adapter.values.size())}, at::kFloat);
  std::copy(adapter.values.begin(), adapter.values.end(),
            flat.data_ptr<float>());
  ScaleLayers(decoder.config(), adapter, flat.data_ptr<float>());
  LoraBank bank = BindAdapter(decoder.config(), adapter.options, adapter.layout,
                              flat.to(decoder.device()));
  FixDora(BlockLayersOf(decoder), bank);
  if (adapter.options.kind == config::AdapterKind::kLofit) {
    SetLofitState(decoder.config(),
                  LofitStateOf(decoder.config(), adapter.options,
                               adapter.layout, adapter.values),
                  bank);
  }
  return bank;
}

at::Tensor ScoreOf(const PeftAdapter& adapter, const Decoder& decoder) {
  const std::vector<codec::TensorSpec>& tensors = adapter.layout.tensors();
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].name != ScoreName()) continue;
    const at::Tensor score = at::empty(tensors[i].shape, at::kFloat);
    std::copy_n(adapter.values.begin() + adapter.layout.offset(i),
                tensors[i].num_elements(), score.data_ptr<float>());
    return score.to(decoder.device());
  }
  return at::Tensor();
}

absl::StatusOr<LoraBank> LoadAdapter(const std::string& path,
                                     const Decoder& decoder) {
  CHOIR_ASSIGN_OR_RETURN(const PeftAdapter adapter,
                         ReadAdapter(path, decoder.config()));
  return TorchGuard("binding the adapter", [&]() -> absl::StatusOr<LoraBank> {
    return BindForUse(adapter, decoder);
  });
}

}  // namespace choir::model
