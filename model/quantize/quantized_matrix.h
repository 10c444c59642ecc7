// A frozen weight matrix in few bits, read back a block of rows at a time.
//
// Formats (weight_format.h):
//   bf16  the upper half of each float32, rounded to nearest even.
//   int8  q = round(127 w / absmax of the row). Columns with outliers are left
//         out of the row's absmax and kept apart in float32, exactly.
//   nf4   64 consecutive weights share an absmax; each weight is the nearest of
//         16 code points times it. The absmax values are themselves stored in 8
//         bits: minus their mean, in steps of (largest deviation / 127) of 256
//         of them.
// Sources: Dettmers et al., "LLM.int8()" (2022): row-wise absmax and outlier
//   features; there outliers are found in activations while computing, here in
//   the weights, or given. Dettmers et al., "QLoRA" (2023): NF4, double
//   quantisation; there the second level is an 8-bit float, here an integer.
#ifndef CHOIR_MODEL_QUANTIZE_QUANTIZED_MATRIX_H_
#define CHOIR_MODEL_QUANTIZE_QUANTIZED_MATRIX_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/quantize/weight_format.h"

namespace choir::model {

// Fills `out` [count, columns] with rows begin .. begin + count.
using ReadRows = std::function<void(int64_t begin, int64_t count, float* out)>;

struct QuantizeOptions {
  // int8: a column whose largest magnitude exceeds so many root mean squares
  // of the matrix is an outlier; 0 looks for none.
  double outlier_rms = 6.0;
  // At most this share of the columns (but always one), the largest first.
  double max_outlier_share = 1.0 / 64.0;
  // Kept in any case, besides those found.
  std::vector<int32_t> outlier_columns;
};

// Threads: safe, nothing changes after making. Copies share the storage.
class QuantizedMatrix {
 public:
  // What is stored; `codes` and `absmax` are borrowed from `owner` (memory or
  // a mapped file) and need not be aligned.
  struct Parts {
    WeightFormat format = WeightFormat::kBf16;
    int64_t rows = 0;
    int64_t columns = 0;
    absl::string_view codes;  // bf16: 2 n bytes; int8: n; nf4: (n + 1) / 2, the
                              // first of two weights in the upper four bits
    std::vector<float> scales;  // int8: per row; nf4: per 256 absmax values
    std::vector<int32_t> outlier_columns;  // int8: ascending
    std::vector<float> outliers;           // int8: [rows, outlier columns]
    absl::string_view absmax;              // nf4: int8, one per block of 64
    float absmax_offset = 0.0f;            // nf4: mean absmax
    std::shared_ptr<const void> owner;
  };

  // Quantises a matrix that is read, once or twice, a few rows at a time: the
  // whole is never in memory. Errors: INVALID_ARGUMENT for a weight that is
  // not finite, kFloat32, or an outlier column that is not there.
  static absl::StatusOr<QuantizedMatrix> Quantize(
      WeightFormat format, int64_t rows, int64_t columns,
      const ReadRows& read_rows, const QuantizeOptions& options = {});
  // INVALID_ARGUMENT if the parts do not fit each other or a scale is not
  // finite.
  static absl::StatusOr<QuantizedMatrix> FromParts(Parts parts);

  const Parts& parts() const { return parts_; }
  WeightFormat format() const { return parts_.format; }
  int64_t rows() const { return parts_.rows; }
  int64_t columns() const { return parts_.columns; }
  int64_t storage_bytes() const;

  // Rows begin .. begin + count as float32 into `out` [count, columns].
  void Dequantize(int64_t begin, int64_t count, float* out) const;

 private:
  explicit QuantizedMatrix(Parts parts) : parts_(std::move(parts)) {}
  Parts parts_;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_QUANTIZE_QUANTIZED_MATRIX_H_
