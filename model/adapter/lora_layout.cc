#include "model/adapter/lora_layout.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/sim_random.h"

namespace choir::model {
namespace {

constexpr char kPrefix[] = "base_model.model.";
constexpr char kASuffix[] = ".lora_A.weight";

}  // namespace

std::string LoraAName(absl::string_view module) {
  return absl::StrCat(kPrefix, module, kASuffix);
}

std::string LoraBName(absl::string_view module) {
  return absl::StrCat(kPrefix, module, ".lora_B.weight");
}

absl::StatusOr<codec::Layout> AdapterLayout(
    const ModelConfig& config, const config::AdapterOptions& options) {
  const std::vector<std::string>& known = LinearKinds();
  if (options.target_modules.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("adapter.target_modules is empty; known modules: ",
                     absl::StrJoin(known, ", ")));
  }
  for (const std::string& target : options.target_modules) {
    if (std::find(known.begin(), known.end(), target) == known.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("adapter.target_modules names '", target,
                       "', which this model does not have; known modules: ",
                       absl::StrJoin(known, ", ")));
    }
  }
  std::vector<codec::TensorSpec> tensors;
  int64_t widest = 0;
  for (const LinearSpec& linear : LinearLayers(config)) {
    if (std::find(options.target_modules.begin(), options.target_modules.end(),
                  linear.kind) == options.target_modules.end()) {
      continue;
    }
    widest = std::max({widest, linear.in_features, linear.out_features});
    tensors.push_back({LoraAName(linear.module),
                       {options.rank, linear.in_features}});
    tensors.push_back({LoraBName(linear.module),
                       {linear.out_features, options.rank}});
  }
  if (options.rank < 1 || options.rank > widest) {
    return absl::InvalidArgumentError(
        absl::StrCat("adapter.rank is ", options.rank, ", not from 1 to ",
                     widest, ", the widest adapted layer"));
  }
  return codec::Layout::Create(std::move(tensors));
}

std::vector<float> InitialAdapter(const codec::Layout& layout, uint64_t seed) {
  std::vector<float> values(layout.num_elements(), 0.0f);
  for (size_t i = 0; i < layout.tensors().size(); ++i) {
    const codec::TensorSpec& tensor = layout.tensors()[i];
    if (!absl::EndsWith(tensor.name, kASuffix)) continue;
    base::SimRandom random(base::DeriveSeed(seed, {"adapter", tensor.name}));
    const double bound = 1.0 / std::sqrt(static_cast<double>(tensor.shape[1]));
    float* out = values.data() + layout.offset(i);
    for (int64_t j = 0; j < tensor.num_elements(); ++j) {
      out[j] = static_cast<float>((2.0 * random.Uniform() - 1.0) * bound);
    }
  }
  return values;
}

}  // namespace choir::model
