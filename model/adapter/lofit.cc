#include "model/adapter/lofit.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <string>

#include "absl/strings/match.h"
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
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  const size_t heads = std::min<size_t>(
      static_cast<size_t>(LofitHeads(config, options)), order.size());
  for (size_t i = 0; i < heads; ++i) state.chosen[order[i]] = true;
  return state;
}

LofitTraining::LofitTraining(const config::AdapterOptions& options,
                             const codec::Layout& layout)
    : l1_(options.lofit_l1) {
  if (options.kind != config::AdapterKind::kLofit) return;
  for (size_t i = 0; i < layout.tensors().size(); ++i) {
    const codec::TensorSpec& spec = layout.tensors()[i];
    const Range range{layout.offset(i), spec.num_elements()};
    if (absl::EndsWith(spec.name, ".lofit_scale")) scales_.push_back(range);
    if (absl::EndsWith(spec.name, ".lofit_offset")) offsets_.push_back(range);
  }
}

void LofitTraining::AddPenalty(const LofitState& state,
                               absl::Span<const float> values,
                               absl::Span<float> gradient) const {
  if (!state.choosing) return;
  const float l1 = static_cast<float>(l1_);
  for (const Range& range : scales_) {
    for (int64_t i = range.begin; i < range.begin + range.size; ++i) {
      if (values[i] != 0.0f) gradient[i] += values[i] > 0.0f ? l1 : -l1;
    }
  }
}

void LofitTraining::KeepUntrained(const LofitState& state,
                                  absl::Span<const float> start,
                                  absl::Span<float> values) const {
  for (const Range& range : state.choosing ? offsets_ : scales_) {
    std::copy_n(start.begin() + range.begin, range.size,
                values.begin() + range.begin);
  }
}

}  // namespace choir::model
