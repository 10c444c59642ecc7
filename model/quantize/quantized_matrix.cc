#include "model/quantize/quantized_matrix.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/quantize/dequantize.h"
#include "model/quantize/float_formats.h"

namespace choir::model {
namespace {

// Weights that are read at a time.
constexpr int64_t kReadFloats = 1 << 16;

absl::Status Bad(absl::string_view problem) {
  return absl::InvalidArgumentError(
      absl::StrCat("quantised matrix: ", problem));
}

// Hands the matrix to `body` a few rows at a time, checked to be finite.
absl::Status ForRows(int64_t rows, int64_t columns, const ReadRows& read,
                     const std::function<void(int64_t begin, int64_t count,
                                              const float*)>& body) {
  const int64_t step =
      std::clamp<int64_t>(kReadFloats / std::max<int64_t>(columns, 1), 1, rows);
  std::vector<float> buffer(step * columns);
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t count = std::min(step, rows - begin);
    read(begin, count, buffer.data());
    for (int64_t i = 0; i < count * columns; ++i) {
      if (!std::isfinite(buffer[i])) {
        return absl::InvalidArgumentError(
            absl::StrCat("the weight in row ", begin + i / columns, ", column ",
                         i % columns, " is not finite"));
      }
    }
    body(begin, count, buffer.data());
  }
  return absl::OkStatus();
}

// Memory for codes, shared with the matrix.
char* Allocate(int64_t bytes, std::shared_ptr<std::string>& owner) {
  owner = std::make_shared<std::string>(bytes, '\0');
  return &(*owner)[0];
}

absl::StatusOr<std::vector<int32_t>> OutlierColumns(
    int64_t rows, int64_t columns, const ReadRows& read,
    const QuantizeOptions& options) {
  std::vector<int32_t> chosen;
  for (const int32_t column : options.outlier_columns) {
    if (column < 0 || column >= columns) {
      return absl::InvalidArgumentError(absl::StrCat("outlier column ", column,
                                                     " is not one of the ",
                                                     columns, " columns"));
    }
    chosen.push_back(column);
  }
  if (options.outlier_rms > 0.0) {
    std::vector<float> largest(columns, 0.0f);
    double squares = 0.0;
    CHOIR_RETURN_IF_ERROR(ForRows(
        rows, columns, read, [&](int64_t, int64_t count, const float* block) {
          for (int64_t r = 0; r < count; ++r) {
            const float* row = block + r * columns;
            for (int64_t c = 0; c < columns; ++c) {
              largest[c] = std::max(largest[c], std::fabs(row[c]));
              squares += static_cast<double>(row[c]) * row[c];
            }
          }
        }));
    const double limit =
        options.outlier_rms *
        std::sqrt(squares / static_cast<double>(rows * columns));
    std::vector<int32_t> found;
    for (int64_t c = 0; c < columns; ++c) {
      if (largest[c] > limit) found.push_back(static_cast<int32_t>(c));
    }
    std::stable_sort(found.begin(), found.end(), [&](int32_t a, int32_t b) {
      return largest[a] > largest[b];
    });
    const size_t most = static_cast<size_t>(std::max(
        1.0, options.max_outlier_share * static_cast<double>(columns)));
    if (found.size() > most) found.resize(most);
    chosen.insert(chosen.end(), found.begin(), found.end());
  }
  std::sort(chosen.begin(), chosen.end());
  chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
  return chosen;
}

absl::StatusOr<QuantizedMatrix::Parts> ToBf16(QuantizedMatrix::Parts parts,
                                              const ReadRows& read) {
  std::shared_ptr<std::string> owner;
  char* codes = Allocate(2 * parts.rows * parts.columns, owner);
  CHOIR_RETURN_IF_ERROR(
      ForRows(parts.rows, parts.columns, read,
              [&](int64_t begin, int64_t count, const float* block) {
                char* out = codes + 2 * begin * parts.columns;
                for (int64_t i = 0; i < count * parts.columns; ++i) {
                  const uint16_t half = FloatToBf16(block[i]);
                  std::memcpy(out + 2 * i, &half, sizeof(half));
                }
              }));
  parts.codes = *owner;
  parts.owner = std::move(owner);
  return parts;
}

absl::StatusOr<QuantizedMatrix::Parts> ToInt8(QuantizedMatrix::Parts parts,
                                              const ReadRows& read,
                                              const QuantizeOptions& options) {
  const int64_t columns = parts.columns;
  CHOIR_ASSIGN_OR_RETURN(parts.outlier_columns,
                         OutlierColumns(parts.rows, columns, read, options));
  const size_t kept = parts.outlier_columns.size();
  parts.scales.resize(parts.rows);
  parts.outliers.resize(parts.rows * kept);
  std::shared_ptr<std::string> owner;
  auto* codes =
      reinterpret_cast<int8_t*>(Allocate(parts.rows * columns, owner));
  std::vector<float> rest(columns);
  CHOIR_RETURN_IF_ERROR(
      ForRows(parts.rows, columns, read,
              [&](int64_t begin, int64_t count, const float* block) {
                for (int64_t r = 0; r < count; ++r) {
                  const int64_t row = begin + r;
                  std::copy_n(block + r * columns, columns, rest.begin());
                  for (size_t k = 0; k < kept; ++k) {
                    float& value = rest[parts.outlier_columns[k]];
                    parts.outliers[row * kept + k] = value;
                    value = 0.0f;
                  }
                  float absmax = 0.0f;
                  for (const float v : rest)
                    absmax = std::max(absmax, std::fabs(v));
                  const float scale = absmax / 127.0f;
                  parts.scales[row] = scale;
                  if (scale == 0.0f) continue;  // codes are 0 already
                  for (int64_t c = 0; c < columns; ++c) {
                    codes[row * columns + c] = static_cast<int8_t>(std::clamp(
                        std::nearbyint(rest[c] / scale), -127.0f, 127.0f));
                  }
                }
              }));
  parts.codes = *owner;
  parts.owner = std::move(owner);
  return parts;
}

// The second quantisation: absmax values to 8 bits.
void QuantizeAbsmax(const std::vector<float>& absmax, char* codes,
                    QuantizedMatrix::Parts& parts) {
  const double sum = std::accumulate(absmax.begin(), absmax.end(), 0.0);
  parts.absmax_offset =
      static_cast<float>(sum / static_cast<double>(absmax.size()));
  const int64_t blocks = static_cast<int64_t>(absmax.size());
  for (int64_t begin = 0; begin < blocks; begin += kNf4SuperBlock) {
    const int64_t end = std::min(blocks, begin + kNf4SuperBlock);
    float deviation = 0.0f;
    for (int64_t b = begin; b < end; ++b) {
      deviation =
          std::max(deviation, std::fabs(absmax[b] - parts.absmax_offset));
    }
    const float scale = deviation / 127.0f;
    parts.scales.push_back(scale);
    for (int64_t b = begin; b < end && scale > 0.0f; ++b) {
      codes[b] = static_cast<char>(static_cast<int8_t>(
          std::clamp(std::nearbyint((absmax[b] - parts.absmax_offset) / scale),
                     -127.0f, 127.0f)));
    }
  }
}

absl::StatusOr<QuantizedMatrix::Parts> ToNf4(QuantizedMatrix::Parts parts,
                                             const ReadRows& read) {
  const int64_t columns = parts.columns;
  const int64_t n = parts.rows * columns;
  const int64_t blocks = (n + kNf4Block - 1) / kNf4Block;
  const int64_t code_bytes = (n + 1) / 2;
  std::vector<float> absmax(blocks, 0.0f);
  CHOIR_RETURN_IF_ERROR(
      ForRows(parts.rows, columns, read,
              [&](int64_t begin, int64_t count, const float* block) {
                const int64_t first = begin * columns;
                for (int64_t i = 0; i < count * columns; ++i) {
                  float& largest = absmax[(first + i) / kNf4Block];
                  largest = std::max(largest, std::fabs(block[i]));
                }
              }));
  std::shared_ptr<std::string> owner;
  char* codes = Allocate(code_bytes + blocks, owner);
  char* absmax_codes = codes + code_bytes;
  QuantizeAbsmax(absmax, absmax_codes, parts);
  CHOIR_RETURN_IF_ERROR(ForRows(
      parts.rows, columns, read,
      [&](int64_t begin, int64_t count, const float* block) {
        const int64_t first = begin * columns;
        int64_t of = -1;
        float inverse = 0.0f;
        for (int64_t i = 0; i < count * columns; ++i) {
          const int64_t at = first + i;
          if (at / kNf4Block != of) {
            of = at / kNf4Block;
            // What reading will multiply by, so that the codes make up for
            // what the second quantisation lost.
            const float scale = Nf4Absmax(absmax_codes, parts.scales.data(),
                                          parts.absmax_offset, of);
            inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
          }
          const int code = NearestNf4(block[i] * inverse);
          codes[at / 2] = static_cast<char>(codes[at / 2] |
                                            (at % 2 == 0 ? code << 4 : code));
        }
      }));
  parts.codes = absl::string_view(codes, code_bytes);
  parts.absmax = absl::string_view(absmax_codes, blocks);
  parts.owner = std::move(owner);
  return parts;
}

absl::Status CheckInt8(const QuantizedMatrix::Parts& parts) {
  if (static_cast<int64_t>(parts.codes.size()) != parts.rows * parts.columns ||
      static_cast<int64_t>(parts.scales.size()) != parts.rows) {
    return Bad("int8 codes or scales do not fit its shape");
  }
  if (parts.outliers.size() !=
      parts.outlier_columns.size() * static_cast<size_t>(parts.rows)) {
    return Bad("int8 outliers do not fit its outlier columns");
  }
  for (size_t i = 0; i < parts.outlier_columns.size(); ++i) {
    const int32_t column = parts.outlier_columns[i];
    if (column < 0 || column >= parts.columns ||
        (i > 0 && column <= parts.outlier_columns[i - 1])) {
      return Bad("int8 outlier columns are not ascending columns of it");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckNf4(const QuantizedMatrix::Parts& parts) {
  const int64_t n = parts.rows * parts.columns;
  const int64_t blocks = (n + kNf4Block - 1) / kNf4Block;
  if (static_cast<int64_t>(parts.codes.size()) != (n + 1) / 2 ||
      static_cast<int64_t>(parts.absmax.size()) != blocks ||
      static_cast<int64_t>(parts.scales.size()) !=
          (blocks + kNf4SuperBlock - 1) / kNf4SuperBlock) {
    return Bad("nf4 codes, absmax or scales do not fit its shape");
  }
  if (!std::isfinite(parts.absmax_offset)) {
    return Bad("the nf4 absmax offset is not finite");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<QuantizedMatrix> QuantizedMatrix::Quantize(
    WeightFormat format, int64_t rows, int64_t columns,
    const ReadRows& read_rows, const QuantizeOptions& options) {
  if (rows < 1 || columns < 1) {
    return Bad(absl::StrCat("its shape is ", rows, " x ", columns));
  }
  Parts parts;
  parts.format = format;
  parts.rows = rows;
  parts.columns = columns;
  absl::StatusOr<Parts> made = Bad("fp32 is not a quantised format");
  if (format == WeightFormat::kBf16) made = ToBf16(parts, read_rows);
  if (format == WeightFormat::kInt8) made = ToInt8(parts, read_rows, options);
  if (format == WeightFormat::kNf4) made = ToNf4(parts, read_rows);
  CHOIR_RETURN_IF_ERROR(made.status());
  return QuantizedMatrix(*std::move(made));
}

absl::StatusOr<QuantizedMatrix> QuantizedMatrix::FromParts(Parts parts) {
  constexpr int64_t kMost = int64_t{1} << 46;
  if (parts.rows < 1 || parts.columns < 1 ||
      parts.rows > kMost / parts.columns) {
    return Bad(absl::StrCat("its shape is ", parts.rows, " x ", parts.columns));
  }
  for (const float scale : parts.scales) {
    if (!std::isfinite(scale) || scale < 0.0f) {
      return Bad("a scale is negative or not finite");
    }
  }
  switch (parts.format) {
    case WeightFormat::kFloat32:
      return Bad("fp32 is not a quantised format");
    case WeightFormat::kBf16:
      if (static_cast<int64_t>(parts.codes.size()) !=
          2 * parts.rows * parts.columns) {
        return Bad("bf16 codes do not fit its shape");
      }
      break;
    case WeightFormat::kInt8:
      CHOIR_RETURN_IF_ERROR(CheckInt8(parts));
      break;
    case WeightFormat::kNf4:
      CHOIR_RETURN_IF_ERROR(CheckNf4(parts));
      break;
  }
  return QuantizedMatrix(std::move(parts));
}

int64_t QuantizedMatrix::storage_bytes() const {
  return WeightBytes(parts_.format, parts_.rows, parts_.columns,
                     static_cast<int64_t>(parts_.outlier_columns.size()));
}

void QuantizedMatrix::Dequantize(int64_t begin, int64_t count,
                                 float* out) const {
  const int64_t columns = parts_.columns;
  const int64_t first = begin * columns;
  switch (parts_.format) {
    case WeightFormat::kFloat32:
      break;
    case WeightFormat::kBf16:
      DequantizeBf16(parts_.codes.data() + 2 * first, count * columns, out);
      break;
    case WeightFormat::kNf4:
      DequantizeNf4(parts_.codes.data(), parts_.absmax.data(),
                    parts_.scales.data(), parts_.absmax_offset, first,
                    count * columns, out);
      break;
    case WeightFormat::kInt8: {
      const size_t kept = parts_.outlier_columns.size();
      for (int64_t r = 0; r < count; ++r) {
        const int64_t row = begin + r;
        float* to = out + r * columns;
        DequantizeInt8(parts_.codes.data() + row * columns, parts_.scales[row],
                       columns, to);
        for (size_t k = 0; k < kept; ++k) {
          to[parts_.outlier_columns[k]] = parts_.outliers[row * kept + k];
        }
      }
      break;
    }
  }
}

}  // namespace choir::model
