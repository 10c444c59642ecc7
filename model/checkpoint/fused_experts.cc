#include "model/checkpoint/fused_experts.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace choir::model {
namespace {

using Shape = std::vector<int64_t>;

class Splitter {
 public:
  Splitter(const ModelConfig& config, std::vector<TensorView>& out)
      : mixtral_(config.family == Family::kMixtral),
        experts_(config.moe.num_experts),
        inner_(config.moe.intermediate_size),
        hidden_(config.hidden_size),
        out_(out) {}

  void Add(const TensorView& tensor) {
    absl::string_view block = tensor.name;
    if (tensor.shape == Shape{experts_, 2 * inner_, hidden_} &&
        absl::ConsumeSuffix(&block, "mlp.experts.gate_up_proj")) {
      AddParts(tensor, block, mixtral_ ? "w1" : "gate_proj", 0, 2,
               {inner_, hidden_});
      AddParts(tensor, block, mixtral_ ? "w3" : "up_proj", 1, 2,
               {inner_, hidden_});
    } else if (tensor.shape == Shape{experts_, hidden_, inner_} &&
               absl::ConsumeSuffix(&block, "mlp.experts.down_proj")) {
      AddParts(tensor, block, mixtral_ ? "w2" : "down_proj", 0, 1,
               {hidden_, inner_});
    } else if (mixtral_ && absl::ConsumeSuffix(&block, "mlp.gate.weight")) {
      out_.push_back(tensor);
      out_.back().name = absl::StrCat(block, Folder(), "gate.weight");
    } else {
      out_.push_back(tensor);
    }
  }

 private:
  const char* Folder() const { return mixtral_ ? "block_sparse_moe." : "mlp."; }

  // Of each expert, which has `parts` matrices of `shape`, the one at `index`.
  void AddParts(const TensorView& tensor, absl::string_view block,
                const char* kind, int64_t index, int64_t parts, Shape shape) {
    const int64_t bytes = shape[0] * shape[1] * DTypeBytes(tensor.dtype);
    for (int64_t e = 0; e < experts_; ++e) {
      TensorView part;
      part.name =
          absl::StrCat(block, Folder(), "experts.", e, ".", kind, ".weight");
      part.dtype = tensor.dtype;
      part.shape = shape;
      part.bytes = tensor.bytes.substr((e * parts + index) * bytes, bytes);
      out_.push_back(std::move(part));
    }
  }

  const bool mixtral_;
  const int64_t experts_, inner_, hidden_;
  std::vector<TensorView>& out_;
};

}  // namespace

std::vector<TensorView> SplitFusedExperts(
    const ModelConfig& config, const std::vector<TensorView>& stored) {
  if (config.moe.num_experts == 0) return stored;
  std::vector<TensorView> out;
  Splitter splitter(config, out);
  for (const TensorView& tensor : stored) splitter.Add(tensor);
  return out;
}

}  // namespace choir::model
