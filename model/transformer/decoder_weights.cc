// Collecting a decoder's weights, block by block.
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/transformer/decoder.h"

namespace choir::model {
namespace {

class Collector {
 public:
  Collector(const ModelConfig& config, const FindTensor& find) : find_(find) {
    for (codec::TensorSpec& spec : ModelTensors(config)) {
      specs_[spec.name] = std::move(spec);
    }
  }

  // Sets `into` unless the model has no such tensor (an empty name).
  absl::Status Get(const std::string& name, at::Tensor& into) const {
    if (name.empty()) return absl::OkStatus();
    CHOIR_ASSIGN_OR_RETURN(into, find_(specs_.at(name)));
    return absl::OkStatus();
  }

 private:
  const FindTensor& find_;
  std::map<std::string, codec::TensorSpec> specs_;
};

absl::Status CollectBlock(const ModelConfig& config, int64_t layer,
                          const Collector& collector, const PackLinear& pack,
                          BlockWeights& block) {
  const BlockTensorNames names = BlockNames(config, layer);
  const std::pair<const std::string&, at::Tensor&> tensors[] = {
      {names.input_norm, block.input_norm.weight},
      {names.input_norm_bias, block.input_norm.bias},
      {names.post_norm, block.post_norm.weight},
      {names.post_norm_bias, block.post_norm.bias},
      {names.q_norm, block.q_norm},
      {names.k_norm, block.k_norm},
      {names.router, block.router}};
  for (const auto& [name, into] : tensors) {
    CHOIR_RETURN_IF_ERROR(collector.Get(name, into));
  }
  if (block.router.defined() && !config.moe.held.empty()) {
    const at::Tensor held =
        at::from_blob(const_cast<int64_t*>(config.moe.held.data()),
                      {static_cast<int64_t>(config.moe.held.size())}, at::kLong)
            .clone();
    block.router = block.router.index_select(0, held.to(block.router.device()));
  }
  for (Linear& linear : block.linear) {
    const std::string& module = linear.spec.module;
    if (pack) {
      CHOIR_ASSIGN_OR_RETURN(linear.packed, pack(linear.spec));
    }
    if (linear.packed == nullptr) {
      CHOIR_RETURN_IF_ERROR(
          collector.Get(absl::StrCat(module, ".weight"), linear.weight));
      if (linear.spec.transposed) {
        linear.weight = linear.weight.t().contiguous();
      }
    }
    if (linear.spec.bias) {
      CHOIR_RETURN_IF_ERROR(
          collector.Get(absl::StrCat(module, ".bias"), linear.bias));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<DecoderWeights> CollectWeights(const ModelConfig& config,
                                              const FindTensor& find,
                                              const PackLinear& pack) {
  const Collector collector(config, find);
  const TensorNames names = ModelTensorNames(config);
  DecoderWeights weights;
  CHOIR_RETURN_IF_ERROR(collector.Get(names.embedding, weights.embedding));
  CHOIR_RETURN_IF_ERROR(collector.Get(names.positions, weights.positions));
  weights.blocks.resize(config.num_layers);
  for (LinearSpec& spec : LinearLayers(config)) {
    Linear& linear = weights.blocks[spec.layer].linear.emplace_back();
    linear.spec = std::move(spec);
  }
  for (int64_t i = 0; i < config.num_layers; ++i) {
    CHOIR_RETURN_IF_ERROR(
        CollectBlock(config, i, collector, pack, weights.blocks[i]));
  }
  CHOIR_RETURN_IF_ERROR(collector.Get(names.norm, weights.norm.weight));
  CHOIR_RETURN_IF_ERROR(collector.Get(names.norm_bias, weights.norm.bias));
  CHOIR_RETURN_IF_ERROR(collector.Get(names.head, weights.head));
  CHOIR_RETURN_IF_ERROR(collector.Get(names.score, weights.score));
  if (!weights.head.defined()) weights.head = weights.embedding;
  return weights;
}

}  // namespace choir::model
