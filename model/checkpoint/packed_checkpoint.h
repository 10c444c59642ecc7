// Quantised weights in safetensors files, and the entry of config.json that
// announces them.
//
// A weight "NAME" (such as "model.layers.0.mlp.up_proj.weight"), always [out,
// in] whatever the family stores otherwise, becomes
//   int8  NAME.int8           I8  [out, in]
//         NAME.int8_scale     F32 [out]
//         NAME.int8_columns   I32 [k]       outlier columns; only if k > 0
//         NAME.int8_outliers  F32 [out, k]
//   nf4   NAME.nf4            U8  [ceil(out * in / 2)]  first weight in the
//                                                       upper four bits
//         NAME.nf4_shape      I64 [2]       out, in
//         NAME.nf4_absmax     I8  [ceil(out * in / 64)]
//         NAME.nf4_scale      F32 [ceil(blocks / 256)]
//         NAME.nf4_offset     F32 [1]
// (quantized_matrix.h says what the numbers mean.) Everything else keeps its
// name; the embedding and the head are bfloat16. config.json gains
//   "quantization_config": {"quant_method": "choir", "format": "nf4",
//                           "version": 1}
#ifndef CHOIR_MODEL_CHECKPOINT_PACKED_CHECKPOINT_H_
#define CHOIR_MODEL_CHECKPOINT_PACKED_CHECKPOINT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "model/checkpoint/safetensors.h"
#include "model/checkpoint/safetensors_writer.h"
#include "model/quantize/quantized_matrix.h"

namespace choir::model {

// What `config_json` says: no value if it is not quantised. Errors:
// INVALID_ARGUMENT naming `source` for another program's format (with the
// remedy), an unknown format or version.
absl::StatusOr<absl::optional<WeightFormat>> ParseQuantization(
    absl::string_view config_json, absl::string_view source);
// The same for a model's folder.
absl::StatusOr<absl::optional<WeightFormat>> ReadQuantization(
    const std::string& folder);
// OK if the model of `folder` is not quantised. Else INVALID_ARGUMENT with the
// folder, its format and `remedy`.
absl::Status CheckNotQuantised(const std::string& folder,
                               absl::string_view remedy);
// What to do about a folder with quantised weights that ReadQuantization() has
// no value for.
inline constexpr char kUnannouncedRemedy[] =
    "config.json does not say so: restore its \"quantization_config\"";
// config.json with the entry for `format`. `config_json` is an object.
absl::StatusOr<std::string> WithQuantization(absl::string_view config_json,
                                             WeightFormat format,
                                             absl::string_view source);

// Appends the tensors of the weight `name`; int8 or nf4.
absl::Status WritePacked(absl::string_view name, const QuantizedMatrix& matrix,
                         SafetensorsWriter& writer);

// True if `file` holds the weight `name` packed.
bool HasPacked(const SafetensorsFile& file, absl::string_view name);
// The weight `name`, [rows, columns]. Its codes stay in the mapped file, which
// the matrix keeps open. INVALID_ARGUMENT names file, weight and problem.
absl::StatusOr<QuantizedMatrix> ReadPacked(
    std::shared_ptr<const SafetensorsFile> file, absl::string_view name,
    int64_t rows, int64_t columns);

// A tensor as the model means it: packed ones under their weight's name with
// [out, in]. For checking a checkpoint's table of contents.
struct LogicalTensor {
  std::string name;
  std::vector<int64_t> shape;
  bool packed = false;
};
std::vector<LogicalTensor> LogicalTensors(const SafetensorsFile& file);

}  // namespace choir::model

#endif  // CHOIR_MODEL_CHECKPOINT_PACKED_CHECKPOINT_H_
