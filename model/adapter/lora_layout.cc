#include "model/adapter/lora_layout.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/sim_random.h"
#include "base/status_macros.h"
#include "model/adapter/targets.h"
#include "model/checkpoint/tensor_files.h"

namespace choir::model {
namespace {

using config::AdapterKind;

constexpr char kASuffix[] = ".lora_A.weight";
constexpr char kIa3Suffix[] = ".ia3_l";

std::string Name(absl::string_view module, absl::string_view suffix) {
  return absl::StrCat(LoraPrefix(), module, suffix);
}

void DrawA(const std::string& name, int64_t in_features, uint64_t seed,
           absl::Span<float> out) {
  base::SimRandom random(base::DeriveSeed(seed, {"adapter", name}));
  const double bound = 1.0 / std::sqrt(static_cast<double>(in_features));
  for (float& value : out) {
    value = static_cast<float>((2.0 * random.Uniform() - 1.0) * bound);
  }
}

absl::Status CheckTargets(const ModelConfig& config,
                          const config::AdapterOptions& options,
                          absl::Span<const LinearSpec> layers) {
  const std::string known = absl::StrJoin(LinearKinds(config), ", ");
  for (const std::string& target : options.target_modules) {
    if (std::none_of(layers.begin(), layers.end(), [&](const LinearSpec& spec) {
          return TargetMatches(target, spec.module);
        })) {
      return absl::InvalidArgumentError(absl::StrCat(
          "adapter.target_modules names '", target,
          "', which this model does not have; known modules: ", known));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckRanks(const config::AdapterOptions& options,
                        absl::Span<const LinearSpec> layers) {
  int64_t widest = 0;
  for (const LinearSpec& layer : layers) {
    widest = std::max({widest, layer.in_features, layer.out_features});
  }
  for (const LinearSpec& layer : layers) {
    const int rank = options.rank_of(layer.module);
    if (rank >= 1 && rank <= widest) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("adapter.rank is ", rank, ", not from 1 to ", widest,
                     ", the widest adapted layer"));
  }
  return absl::OkStatus();
}

void AddTensors(const ModelConfig& config,
                const config::AdapterOptions& options, const LinearSpec& layer,
                bool stored, std::vector<codec::TensorSpec>& tensors) {
  const int64_t in = layer.in_features;
  const int64_t out = layer.out_features;
  const std::string& module = layer.module;
  if (options.has_lora()) {
    const int64_t rank = options.rank_of(module);
    if (stored || options.kind != AdapterKind::kFrozenA) {
      tensors.push_back({LoraAName(module), {rank, in}});
    }
    tensors.push_back({LoraBName(module), {out, rank}});
    if (options.kind == AdapterKind::kDora) {
      tensors.push_back({MagnitudeName(module), {out}});
    }
  } else if (options.kind == AdapterKind::kIa3) {
    if (IsFeedforward(options, module)) {
      tensors.push_back({Ia3Name(module), {1, in}});
    } else {
      tensors.push_back({Ia3Name(module), {out, 1}});
    }
  } else {
    const std::vector<int64_t> shape = {config.num_heads, config.head_dim};
    tensors.push_back({LofitScaleName(module), shape});
    tensors.push_back({LofitOffsetName(module), shape});
  }
}

absl::StatusOr<codec::Layout> MakeLayout(const ModelConfig& config,
                                         const config::AdapterOptions& given,
                                         bool stored) {
  const config::AdapterOptions options = WithTargets(config, given);
  CHOIR_ASSIGN_OR_RETURN(const std::vector<LinearSpec> layers,
                         AdaptedLayers(config, options));
  std::vector<codec::TensorSpec> tensors;
  for (const LinearSpec& layer : layers) {
    AddTensors(config, options, layer, stored, tensors);
  }
  if (options.num_labels > 0) {
    tensors.push_back({ScoreName(), {options.num_labels, config.hidden_size}});
  }
  return codec::Layout::Create(std::move(tensors));
}

// L2 norms of the rows of W, [out], of the numbers that W is read back as.
absl::StatusOr<std::vector<float>> RowNorms(const TensorFiles& files,
                                            const LinearSpec& layer) {
  CHOIR_ASSIGN_OR_RETURN(const ReadRows read, files.RowsOf(layer));
  const int64_t out = layer.out_features;
  const int64_t in = layer.in_features;
  const int64_t step = std::clamp<int64_t>((1 << 16) / in, 1, out);
  std::vector<float> rows(step * in), norms(out);
  for (int64_t row = 0; row < out; ++row) {
    const int64_t within = row % step;
    if (within == 0) read(row, std::min(step, out - row), rows.data());
    double sum = 0.0;
    for (int64_t i = 0; i < in; ++i) {
      const double weight = rows[within * in + i];
      sum += weight * weight;
    }
    norms[row] = static_cast<float>(std::sqrt(sum));
    if (std::isfinite(norms[row])) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("tensor '", layer.module, ".weight', row ", row,
                     ": the norm, where DoRA begins, is not a finite number"));
  }
  return norms;
}

}  // namespace

std::string LoraAName(absl::string_view module) {
  return Name(module, kASuffix);
}
std::string LoraBName(absl::string_view module) {
  return Name(module, ".lora_B.weight");
}
std::string MagnitudeName(absl::string_view module) {
  return Name(module, ".lora_magnitude_vector");
}
std::string Ia3Name(absl::string_view module) {
  return Name(module, kIa3Suffix);
}
std::string LofitScaleName(absl::string_view module) {
  return Name(module, ".lofit_scale");
}
std::string LofitOffsetName(absl::string_view module) {
  return Name(module, ".lofit_offset");
}
std::string ScoreName() { return absl::StrCat(LoraPrefix(), "score.weight"); }

bool IsFeedforward(const config::AdapterOptions& options,
                   absl::string_view module) {
  return std::any_of(options.feedforward_modules.begin(),
                     options.feedforward_modules.end(),
                     [module](const std::string& target) {
                       return TargetMatches(target, module);
                     });
}

int LofitHeads(const ModelConfig& config,
               const config::AdapterOptions& options) {
  if (options.lofit_heads > 0) return options.lofit_heads;
  return std::max(
      1, static_cast<int>(config.num_layers * config.num_heads * 3 / 100));
}

absl::StatusOr<std::vector<LinearSpec>> AdaptedLayers(
    const ModelConfig& config, const config::AdapterOptions& given) {
  const config::AdapterOptions options = WithTargets(config, given);
  std::vector<LinearSpec> layers = LinearLayers(config);
  if (options.kind == AdapterKind::kLofit) {
    const int64_t heads = config.num_layers * config.num_heads;
    if (options.lofit_heads > heads) {
      return absl::InvalidArgumentError(
          absl::StrCat("adapter.lofit_heads is ", options.lofit_heads,
                       ", but the model has ", heads, " attention heads"));
    }
    layers.erase(std::remove_if(layers.begin(), layers.end(),
                                [](const LinearSpec& layer) {
                                  return layer.role != LinearRole::kOutput;
                                }),
                 layers.end());
    return layers;
  }
  CHOIR_RETURN_IF_ERROR(CheckTargets(config, options, layers));
  layers.erase(std::remove_if(layers.begin(), layers.end(),
                              [&options](const LinearSpec& layer) {
                                return std::none_of(
                                    options.target_modules.begin(),
                                    options.target_modules.end(),
                                    [&layer](const std::string& target) {
                                      return TargetMatches(target,
                                                           layer.module);
                                    });
                              }),
               layers.end());
  if (options.has_lora()) CHOIR_RETURN_IF_ERROR(CheckRanks(options, layers));
  return layers;
}

absl::StatusOr<codec::Layout> AdapterLayout(
    const ModelConfig& config, const config::AdapterOptions& options) {
  return MakeLayout(config, options, /*stored=*/false);
}

absl::StatusOr<codec::Layout> StoredLayout(
    const ModelConfig& config, const config::AdapterOptions& options) {
  return MakeLayout(config, options, /*stored=*/true);
}

absl::StatusOr<std::vector<float>> StoredValues(
    const ModelConfig& config, const config::AdapterOptions& options,
    absl::Span<const float> values) {
  CHOIR_ASSIGN_OR_RETURN(const codec::Layout layout,
                         AdapterLayout(config, options));
  CHOIR_CHECK(static_cast<int64_t>(values.size()) == layout.num_elements());
  if (options.kind != AdapterKind::kFrozenA) {
    return std::vector<float>(values.begin(), values.end());
  }
  CHOIR_ASSIGN_OR_RETURN(const codec::Layout stored,
                         StoredLayout(config, options));
  // What is not an A is in both, in the same order.
  std::vector<float> all = InitialAdapter(stored, options.frozen_seed);
  size_t next = 0;
  for (size_t i = 0; i < stored.tensors().size(); ++i) {
    if (absl::EndsWith(stored.tensors()[i].name, kASuffix)) continue;
    const absl::Span<const float> from = values.subspan(
        layout.offset(next), layout.tensors()[next].num_elements());
    std::copy(from.begin(), from.end(), all.begin() + stored.offset(i));
    ++next;
  }
  return all;
}

std::vector<float> FrozenA(absl::string_view module, int64_t rank,
                           int64_t in_features, uint64_t seed) {
  std::vector<float> values(rank * in_features);
  DrawA(LoraAName(module), in_features, seed, absl::MakeSpan(values));
  return values;
}

std::vector<float> InitialAdapter(const codec::Layout& layout, uint64_t seed) {
  std::vector<float> values(layout.num_elements(), 0.0f);
  for (size_t i = 0; i < layout.tensors().size(); ++i) {
    const codec::TensorSpec& tensor = layout.tensors()[i];
    const absl::Span<float> out =
        absl::MakeSpan(values).subspan(layout.offset(i), tensor.num_elements());
    if (absl::EndsWith(tensor.name, kASuffix)) {
      DrawA(tensor.name, tensor.shape[1], seed, out);
    } else if (absl::EndsWith(tensor.name, kIa3Suffix)) {
      std::fill(out.begin(), out.end(), 1.0f);
    }
  }
  return values;
}

absl::StatusOr<std::vector<float>> InitialAdapterOf(
    const std::string& base_folder, const ModelConfig& config,
    const config::AdapterOptions& options, const codec::Layout& layout,
    uint64_t seed) {
  std::vector<float> values = InitialAdapter(layout, seed);
  const bool dora = options.kind == AdapterKind::kDora;
  // A base that is a classifier of as many labels has a head to go on with.
  const bool head =
      options.num_labels > 0 && options.num_labels == config.num_labels;
  if (!dora && !head) return values;
  std::map<std::string, int64_t> offsets;
  for (size_t i = 0; i < layout.tensors().size(); ++i) {
    offsets[layout.tensors()[i].name] = layout.offset(i);
  }
  CHOIR_ASSIGN_OR_RETURN(const TensorFiles files,
                         TensorFiles::Open(base_folder, config));
  if (head) {
    const TensorView& score = *files.Find(ModelTensorNames(config).score).view;
    CHOIR_RETURN_IF_ERROR(ReadFloatsInto(
        score, absl::MakeSpan(values).subspan(offsets.at(ScoreName()),
                                              score.num_elements())));
  }
  if (!dora) return values;
  CHOIR_ASSIGN_OR_RETURN(const std::vector<LinearSpec> layers,
                         AdaptedLayers(config, options));
  for (const LinearSpec& layer : layers) {
    const auto found = offsets.find(MagnitudeName(layer.module));
    CHOIR_CHECK(found != offsets.end());
    CHOIR_ASSIGN_OR_RETURN(const std::vector<float> norms,
                           RowNorms(files, layer));
    std::copy(norms.begin(), norms.end(), values.begin() + found->second);
  }
  return values;
}

}  // namespace choir::model
