#include "model/quantize/weight_format.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace choir::model {
namespace {

struct Named {
  WeightFormat format;
  const char* name;
};

constexpr Named kNames[] = {{WeightFormat::kFloat32, "fp32"},
                            {WeightFormat::kBf16, "bf16"},
                            {WeightFormat::kInt8, "int8"},
                            {WeightFormat::kNf4, "nf4"}};

}  // namespace

absl::string_view WeightFormatName(WeightFormat format) {
  for (const Named& named : kNames) {
    if (named.format == format) return named.name;
  }
  return "?";
}

absl::StatusOr<WeightFormat> ParseWeightFormat(absl::string_view name,
                                               absl::string_view what) {
  for (const Named& named : kNames) {
    if (name == named.name) return named.format;
  }
  return absl::InvalidArgumentError(
      absl::StrCat(what, " is \"", name, "\"; one of fp32, bf16, int8, nf4"));
}

absl::StatusOr<absl::optional<WeightFormat>> ParsePrecision(
    absl::string_view name, absl::string_view what) {
  if (name.empty() || name == "stored") return absl::optional<WeightFormat>();
  for (const Named& named : kNames) {
    if (name == named.name) return absl::optional<WeightFormat>(named.format);
  }
  return absl::InvalidArgumentError(absl::StrCat(
      what, " is \"", name, "\"; one of stored, fp32, bf16, int8, nf4"));
}

absl::string_view PrecisionName(absl::optional<WeightFormat> precision) {
  return precision ? WeightFormatName(*precision) : "stored";
}

const std::array<float, 16>& Nf4CodePoints() {
  static const std::array<float, 16> kPoints = {-1.0f,
                                                -0.6961928009986877f,
                                                -0.5250730514526367f,
                                                -0.39491748809814453f,
                                                -0.28444138169288635f,
                                                -0.18477343022823334f,
                                                -0.09105003625154495f,
                                                0.0f,
                                                0.07958029955625534f,
                                                0.16093020141124725f,
                                                0.24611230194568634f,
                                                0.33791524171829224f,
                                                0.44070982933044434f,
                                                0.5626170039176941f,
                                                0.7229568362236023f,
                                                1.0f};
  return kPoints;
}

int64_t WeightBytes(WeightFormat format, int64_t rows, int64_t columns,
                    int64_t outlier_columns) {
  const int64_t n = rows * columns;
  switch (format) {
    case WeightFormat::kFloat32:
      return 4 * n;
    case WeightFormat::kBf16:
      return 2 * n;
    case WeightFormat::kInt8:
      return n + 4 * rows + outlier_columns * (4 + 4 * rows);
    case WeightFormat::kNf4: {
      const int64_t blocks = (n + kNf4Block - 1) / kNf4Block;
      const int64_t supers = (blocks + kNf4SuperBlock - 1) / kNf4SuperBlock;
      return (n + 1) / 2 + blocks + 4 * supers + 4;
    }
  }
  return 4 * n;
}

}  // namespace choir::model
