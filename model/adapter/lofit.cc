#include "model/adapter/lofit.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <string>

#include "base/check.h"
#include "model/adapter/lora_layout.h"

namespace choir::model {

LofitState LofitStateOf(const ModelConfig& config,
                        const config::AdapterOptions& options,
                        const codec::Layout& layout,
                        absl::Span<const float> values) {
  std::map<std::string, int64_t> offsets;
  for (size_t i = 0; i < layout.tensors().size(); ++i) {
    offsets[layout.tensors()[i].name] = layout.offset(i);
  }
  LofitState state;
  std::vector<double> scores;  // squared norms
  for (const LinearSpec& layer : LinearLayers(config)) {
    if (layer.role != LinearRole::kOutput) continue;
    const auto found = offsets.find(LofitScaleName(layer.module));
    CHOIR_CHECK(found != offsets.end());
    const float* scale = values.data() + found->second;
    for (int64_t h = 0; h < config.num_heads; ++h) {
      double sum = 0.0;
      for (int64_t i = 0; i < config.head_dim; ++i, ++scale) {
        sum += static_cast<double>(*scale) * *scale;
      }
      scores.push_back(sum);
    }
  }
  state.chosen.assign(scores.size(), false);
  state.choosing = std::all_of(scores.begin(), scores.end(),
                               [](double score) { return score == 0.0; });
  if (state.choosing) return state;
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return scores[a] > scores[b];
  });
  const size_t heads = std::min<size_t>(
      static_cast<size_t>(LofitHeads(config, options)), order.size());
  for (size_t i = 0; i < heads; ++i) state.chosen[order[i]] = true;
  return state;
}

}  // namespace choir::model
