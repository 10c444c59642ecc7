#include "model/loaded_adapter.h"

#include <algorithm>

#include "base/status_macros.h"
#include "model/export/read_adapter.h"
#include "model/torch_guard.h"

namespace choir::model {

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
  LoraBank bank = BindAdapter(decoder.config(), adapter.options,
                              adapter.layout, flat.to(decoder.device()));
  FixDora(BlockLayersOf(decoder), bank);
  if (adapter.options.kind == config::AdapterKind::kLofit) {
    SetLofitState(decoder.config(),
                  LofitStateOf(decoder.config(), adapter.options,
                               adapter.layout, adapter.values),
                  bank);
  }
  return bank;
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
