// How the frozen weights of a linear layer are stored.
#ifndef CHOIR_MODEL_QUANTIZE_WEIGHT_FORMAT_H_
#define CHOIR_MODEL_QUANTIZE_WEIGHT_FORMAT_H_

#include <array>
#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"

namespace choir::model {

// Whatever the format, products are computed in float32 on the CPU.
enum class WeightFormat {
  kFloat32,
  kBf16,  // 2 bytes per weight
  kInt8,  // 1 byte, one scale per row, outlier columns in float32
  kNf4,   // half a byte and a 64th, double quantisation
};

// "fp32", "bf16", "int8", "nf4".
absl::string_view WeightFormatName(WeightFormat format);
// INVALID_ARGUMENT names the value and lists the formats; `what` is the option.
absl::StatusOr<WeightFormat> ParseWeightFormat(absl::string_view name,
                                               absl::string_view what);

// A setting that may also be "stored" or empty: as the model's folder has the
// weights, no value. The name of such a setting.
absl::StatusOr<absl::optional<WeightFormat>> ParsePrecision(
    absl::string_view name, absl::string_view what);
absl::string_view PrecisionName(absl::optional<WeightFormat> precision);

// Consecutive weights (row after row) that share one absmax in NF4.
inline constexpr int64_t kNf4Block = 64;
// Consecutive absmax values that share one second-level scale.
inline constexpr int64_t kNf4SuperBlock = 256;

// The sixteen NF4 code points, ascending, from -1 to 1 with an exact 0: the
// quantiles of a normal distribution, equally likely on either side.
// Source: Dettmers et al., "QLoRA" (2023), appendix E.
const std::array<float, 16>& Nf4CodePoints();

// Bytes that `rows` x `columns` weights take in `format`; for int8, of
// `outlier_columns` that are kept apart.
int64_t WeightBytes(WeightFormat format, int64_t rows, int64_t columns,
                    int64_t outlier_columns = 0);

}  // namespace choir::model

#endif  // CHOIR_MODEL_QUANTIZE_WEIGHT_FORMAT_H_
