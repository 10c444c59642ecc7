#include "model/export/folded_layer.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "model/adapter/lofit.h"
#include "model/adapter/lora_layout.h"
#include "model/adapter/targets.h"

namespace choir::model {
namespace {

using config::AdapterKind;

// Calls `use(row, values)` for each row of a stored matrix, as floats.
template <typename Use>
absl::Status ForEachRow(const TensorView& matrix, const Use& use) {
  CHOIR_CHECK(matrix.shape.size() == 2);
  const int64_t rows = matrix.shape[0];
  const int64_t width = matrix.shape[1];
  const int64_t row_bytes = width * DTypeBytes(matrix.dtype);
  std::vector<float> values(width);
  TensorView row = matrix;
  row.shape = {width};
  for (int64_t i = 0; i < rows; ++i) {
    row.bytes = matrix.bytes.substr(i * row_bytes, row_bytes);
    CHOIR_RETURN_IF_ERROR(ReadFloatsInto(row, absl::MakeSpan(values)));
    use(i, values);
  }
  base::ReleasePages(matrix.bytes);
  return absl::OkStatus();
}

std::vector<float> Transposed(absl::Span<const float> matrix, int64_t rows,
                              int64_t columns) {
  std::vector<float> out(matrix.size());
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      out[j * rows + i] = matrix[i * columns + j];
    }
  }
  return out;
}

// magnitude / norm; a row of zeros stays one.
float Factor(float magnitude, double squared_norm) {
  if (squared_norm == 0.0) return 0.0f;
  return static_cast<float>(magnitude / std::sqrt(squared_norm));
}

// The tensors of an adapter by name.
class TensorLookup {
 public:
  explicit TensorLookup(const PeftAdapter& adapter) : adapter_(adapter) {
    for (size_t i = 0; i < adapter.layout.tensors().size(); ++i) {
      index_[adapter.layout.tensors()[i].name] = i;
    }
  }
  std::vector<float> Copy(const std::string& name) const {
    const auto found = index_.find(name);
    CHOIR_CHECK(found != index_.end());
    const auto begin =
        adapter_.values.begin() + adapter_.layout.offset(found->second);
    return std::vector<float>(
        begin, begin + adapter_.layout.tensors()[found->second].num_elements());
  }

 private:
  const PeftAdapter& adapter_;
  std::map<std::string, size_t> index_;
};

}  // namespace

void FoldedLayer::SetFactors(const config::AdapterOptions& options,
                             std::vector<float> a, std::vector<float> b) {
  rank_ = options.rank_of(spec_.module);
  scale_ = static_cast<float>(options.scale_of(spec_.module));
  if (spec_.transposed) {
    left_ = Transposed(a, rank_, spec_.in_features);
    right_ = Transposed(b, spec_.out_features, rank_);
  } else {
    left_ = std::move(b);
    right_ = std::move(a);
  }
}

void FoldedLayer::AddProduct(int64_t row, absl::Span<float> values) const {
  const size_t width = values.size();
  for (int64_t r = 0; r < rank_; ++r) {
    const float factor = scale_ * left_[row * rank_ + r];
    const float* right = right_.data() + r * width;
    for (size_t i = 0; i < width; ++i) values[i] += factor * right[i];
  }
}

absl::StatusOr<std::vector<float>> FoldedLayer::ColumnFactors(
    const TensorView& weight) const {
  if (magnitude_.empty() || !spec_.transposed) return std::vector<float>();
  std::vector<double> sums(magnitude_.size(), 0.0);
  CHOIR_RETURN_IF_ERROR(
      ForEachRow(weight, [&](int64_t row, std::vector<float>& values) {
        AddProduct(row, absl::MakeSpan(values));
        for (size_t i = 0; i < values.size(); ++i) {
          sums[i] += static_cast<double>(values[i]) * values[i];
        }
      }));
  std::vector<float> factors(magnitude_.size());
  for (size_t i = 0; i < factors.size(); ++i) {
    factors[i] = Factor(magnitude_[i], sums[i]);
  }
  return factors;
}

void FoldedLayer::ChangeRow(int64_t row,
                            const std::vector<float>& column_factors,
                            absl::Span<float> values) const {
  if (rank_ > 0) AddProduct(row, values);
  const std::vector<float>* by_column = nullptr;
  float by_row = 1.0f;
  if (!column_factors.empty()) {
    by_column = &column_factors;
  } else if (!magnitude_.empty()) {
    double sum = 0.0;
    for (const float v : values) sum += static_cast<double>(v) * v;
    by_row = Factor(magnitude_[row], sum);
  } else if (!output_factors_.empty()) {
    if (spec_.transposed) {
      by_column = &output_factors_;
    } else {
      by_row = output_factors_[row];
    }
  } else if (!input_factors_.empty()) {
    if (spec_.transposed) {
      by_row = input_factors_[row];
    } else {
      by_column = &input_factors_;
    }
  }
  if (by_column != nullptr) {
    for (size_t i = 0; i < values.size(); ++i) values[i] *= (*by_column)[i];
  } else if (by_row != 1.0f) {
    for (float& v : values) v *= by_row;
  }
}

absl::Status FoldedLayer::ReadWeight(const TensorView& weight) {
  if (offsets_.empty()) return absl::OkStatus();
  std::vector<double> sums(spec_.out_features, 0.0);
  CHOIR_RETURN_IF_ERROR(
      ForEachRow(weight, [&](int64_t row, const std::vector<float>& values) {
        for (size_t i = 0; i < values.size(); ++i) {
          if (spec_.transposed) {
            sums[i] += static_cast<double>(values[i]) * offsets_[row];
          } else {
            sums[row] += static_cast<double>(values[i]) * offsets_[i];
          }
        }
      }));
  bias_change_.assign(sums.begin(), sums.end());
  return absl::OkStatus();
}

void FoldedLayer::ChangeBias(absl::Span<float> bias) const {
  CHOIR_CHECK(offsets_.empty() || bias_change_.size() == bias.size());
  for (size_t i = 0; i < output_factors_.size(); ++i) {
    bias[i] *= output_factors_[i];
  }
  for (size_t i = 0; i < bias_change_.size(); ++i) bias[i] += bias_change_[i];
}

absl::StatusOr<std::vector<FoldedLayer>> FoldedLayers(
    const ModelConfig& config, const PeftAdapter& adapter) {
  const config::AdapterOptions options = WithTargets(config, adapter.options);
  const TensorLookup lookup(adapter);
  LofitState lofit;
  if (options.kind == AdapterKind::kLofit) {
    lofit = LofitStateOf(config, options, adapter.layout, adapter.values);
  }
  CHOIR_ASSIGN_OR_RETURN(const std::vector<LinearSpec> specs,
                         AdaptedLayers(config, options));
  std::vector<FoldedLayer> layers;
  for (const LinearSpec& spec : specs) {
    FoldedLayer layer;
    layer.spec_ = spec;
    layer.kind_ = options.kind;
    const std::string& module = spec.module;
    if (options.has_lora()) {
      layer.SetFactors(options, lookup.Copy(LoraAName(module)),
                       lookup.Copy(LoraBName(module)));
      if (options.kind == AdapterKind::kDora) {
        layer.magnitude_ = lookup.Copy(MagnitudeName(module));
      }
    } else if (options.kind == AdapterKind::kIa3) {
      (IsFeedforward(options, module) ? layer.input_factors_
                                      : layer.output_factors_) =
          lookup.Copy(Ia3Name(module));
    } else {
      layer.offsets_ = lookup.Copy(LofitOffsetName(module));
      bool any = false;
      for (size_t i = 0; i < layer.offsets_.size(); ++i) {
        const size_t head = spec.layer * config.num_heads + i / config.head_dim;
        if (!lofit.chosen[head]) layer.offsets_[i] = 0.0f;
        any |= layer.offsets_[i] != 0.0f;
      }
      if (!any) continue;
    }
    layers.push_back(std::move(layer));
  }
  return layers;
}

}  // namespace choir::model
