// From a dense checkpoint to few bits: written to a folder, or while loading.
#ifndef CHOIR_MODEL_CHECKPOINT_QUANTIZE_CHECKPOINT_H_
#define CHOIR_MODEL_CHECKPOINT_QUANTIZE_CHECKPOINT_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/checkpoint/safetensors_writer.h"
#include "model/checkpoint/tensor_files.h"
#include "model/quantize/quantized_matrix.h"

namespace choir::model {

struct QuantizeReport {
  int64_t weights = 0;        // numbers that were quantised
  int64_t parameters = 0;     // of the whole model
  uint64_t bytes_before = 0;  // of all tensors
  uint64_t bytes_after = 0;
  int64_t outlier_columns = 0;  // int8: of all layers together
  // sqrt(sum of squared errors / sum of squared weights), quantised ones only.
  double relative_error = 0.0;
  double bits_per_weight() const {
    return parameters == 0 ? 0.0
                           : 8.0 * static_cast<double>(bytes_after) /
                                 static_cast<double>(parameters);
  }
};

// Writes the model of `folder` to the new folder `out`: the linear layers of
// the decoder blocks in `format` (int8 or nf4), embedding and head in bfloat16,
// all else as it is; config.json with its quantisation entry; and the side
// files (side_files.h). A few rows are in memory at a time, and one layer's
// codes.
//
// Errors: INVALID_ARGUMENT for another format, an outlier_rms that is not a
//   number from 0 on, a model that is quantised already or cannot be read;
//   those of CheckNewFolder() for `out`, of `stop` and of base/files.h. On an
//   error nothing is left of `out`.
absl::StatusOr<QuantizeReport> QuantizeCheckpoint(
    const std::string& folder, WeightFormat format, const std::string& out,
    const QuantizeOptions& options = {}, const StopFn& stop = nullptr);

// A weight of `files` in `format`: as packed there, or quantised now. bfloat16
// from a bfloat16 file stays in the file. INVALID_ARGUMENT if it is packed in
// another format.
absl::StatusOr<QuantizedMatrix> LoadWeight(const TensorFiles& files,
                                           absl::string_view name, int64_t rows,
                                           int64_t columns, bool transposed,
                                           WeightFormat format);

}  // namespace choir::model

#endif  // CHOIR_MODEL_CHECKPOINT_QUANTIZE_CHECKPOINT_H_
