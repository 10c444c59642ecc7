// What an adapter makes of one linear layer's stored weight and bias.
#ifndef CHOIR_MODEL_EXPORT_FOLDED_LAYER_H_
#define CHOIR_MODEL_EXPORT_FOLDED_LAYER_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/adapter/peft_folder.h"
#include "model/checkpoint/families.h"
#include "model/checkpoint/safetensors.h"

namespace choir::model {

// Works on rows of the stored matrix: rows are outputs, or inputs where the
// checkpoint stores the transpose (spec().transposed).
// Threads: safe once ReadWeight() has returned.
class FoldedLayer {
 public:
  const LinearSpec& spec() const { return spec_; }
  bool changes_weight() const { return kind_ != config::AdapterKind::kLofit; }
  bool changes_bias() const { return !output_factors_.empty() || needs_bias(); }
  // True if the folded layer has a bias whether or not the base's has one.
  bool needs_bias() const { return !offsets_.empty(); }

  // Call once, before ChangeBias(): an offset v of the input is W v in the
  // bias. `weight` is the stored matrix.
  absl::Status ReadWeight(const TensorView& weight);

  // What ChangeRow() needs of the whole matrix, one number a column, or none.
  absl::StatusOr<std::vector<float>> ColumnFactors(
      const TensorView& weight) const;
  // Changes row number `row` of the stored matrix.
  void ChangeRow(int64_t row, const std::vector<float>& column_factors,
                 absl::Span<float> values) const;
  void ChangeBias(absl::Span<float> bias) const;

 private:
  friend absl::StatusOr<std::vector<FoldedLayer>> FoldedLayers(
      const ModelConfig& config, const PeftAdapter& adapter);
  void SetFactors(const config::AdapterOptions& options, std::vector<float> a,
                  std::vector<float> b);
  void AddProduct(int64_t row, absl::Span<float> values) const;

  LinearSpec spec_;
  config::AdapterKind kind_ = config::AdapterKind::kLora;
  int64_t rank_ = 0;
  float scale_ = 0.0f;
  // One of both as stored, the other transposed: left_ [rows, rank] and right_
  // [rank, columns], so that a row's product is left_[row] right_.
  std::vector<float> left_, right_;
  std::vector<float> magnitude_;       // DoRA, [out]
  std::vector<float> input_factors_;   // (IA)^3, [in]
  std::vector<float> output_factors_;  // (IA)^3, [out]
  std::vector<float> offsets_;         // LoFiT, [in]
  std::vector<float> bias_change_;     // LoFiT: W offsets_
};

// Every linear layer that the adapter changes. A classification head, which
// replaces the base's, is none.
absl::StatusOr<std::vector<FoldedLayer>> FoldedLayers(
    const ModelConfig& config, const PeftAdapter& adapter);

}  // namespace choir::model

#endif  // CHOIR_MODEL_EXPORT_FOLDED_LAYER_H_
