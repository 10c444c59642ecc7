#include "model/checkpoint/quantize_checkpoint.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "model/checkpoint/families.h"
#include "model/checkpoint/new_folder.h"
#include "model/checkpoint/packed_checkpoint.h"
#include "model/checkpoint/side_files.h"

namespace choir::model {
namespace {

constexpr char kWeights[] = "model.safetensors";
constexpr char kConfig[] = "config.json";
constexpr char kRemedy[] = "start from the checkpoint that was not";

struct Squares {
  double error = 0.0;
  double weight = 0.0;
};

// Adds what quantising lost, reading both a few rows at a time.
void AddError(const QuantizedMatrix& matrix, const ReadRows& read,
              Squares& sums) {
  const int64_t columns = matrix.columns();
  const int64_t step =
      std::clamp<int64_t>((1 << 16) / columns, 1, matrix.rows());
  std::vector<float> dense(step * columns), back(step * columns);
  for (int64_t begin = 0; begin < matrix.rows(); begin += step) {
    const int64_t count = std::min(step, matrix.rows() - begin);
    read(begin, count, dense.data());
    matrix.Dequantize(begin, count, back.data());
    for (int64_t i = 0; i < count * columns; ++i) {
      const double difference = static_cast<double>(dense[i]) - back[i];
      sums.error += difference * difference;
      sums.weight += static_cast<double>(dense[i]) * dense[i];
    }
  }
}

// One tensor as it is, a piece at a time; float32 as bfloat16 if `half`.
absl::Status CopyTensor(const TensorView& view, const std::string& name,
                        bool half, SafetensorsWriter& writer) {
  const bool convert = half && view.dtype == DType::kF32;
  CHOIR_RETURN_IF_ERROR(
      writer.Begin(name, convert ? DType::kBf16 : view.dtype, view.shape));
  constexpr size_t kPiece = 1 << 20;
  for (size_t at = 0; at < view.bytes.size(); at += kPiece) {
    TensorView piece;
    piece.dtype = view.dtype;
    piece.bytes = view.bytes.substr(at, kPiece);
    if (convert) {
      piece.shape = {static_cast<int64_t>(piece.bytes.size() / 4)};
      CHOIR_ASSIGN_OR_RETURN(const std::vector<float> values,
                             ReadFloats(piece));
      CHOIR_RETURN_IF_ERROR(writer.Append(FloatsToBytes(values, DType::kBf16)));
    } else {
      CHOIR_RETURN_IF_ERROR(writer.Append(piece.bytes));
    }
    base::ReleasePages(piece.bytes);
  }
  return absl::OkStatus();
}

absl::Status CheckSource(const std::string& folder, WeightFormat format,
                         const QuantizeOptions& options) {
  if (format != WeightFormat::kInt8 && format != WeightFormat::kNf4) {
    return absl::InvalidArgumentError(
        absl::StrCat("a model is quantised to int8 or nf4, not to ",
                     WeightFormatName(format)));
  }
  if (!std::isfinite(options.outlier_rms) || options.outlier_rms < 0.0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "outliers begin at ", options.outlier_rms,
        " root mean squares; give a number from 0 (none are looked for) on"));
  }
  return CheckNotQuantised(folder, kRemedy);
}

absl::Status WriteWeights(const TensorFiles& files, const ModelConfig& config,
                          WeightFormat format, const QuantizeOptions& options,
                          SafetensorsWriter& writer, QuantizeReport& report) {
  std::map<std::string, LinearSpec> linears;
  for (const LinearSpec& linear : LinearLayers(config)) {
    linears[absl::StrCat(linear.module, ".weight")] = linear;
  }
  const TensorNames names = ModelTensorNames(config);
  Squares sums;
  for (const codec::TensorSpec& spec : ModelTensors(config)) {
    const TensorFiles::Found found = files.Find(spec.name);
    report.bytes_before += found.view->bytes.size();
    report.parameters += found.view->num_elements();
    const auto linear = linears.find(spec.name);
    if (linear == linears.end()) {
      const bool half = spec.name == names.embedding || spec.name == names.head;
      CHOIR_RETURN_IF_ERROR(CopyTensor(*found.view, spec.name, half, writer));
      continue;
    }
    CHOIR_ASSIGN_OR_RETURN(const ReadRows rows, files.RowsOf(linear->second));
    absl::StatusOr<QuantizedMatrix> matrix =
        QuantizedMatrix::Quantize(format, linear->second.out_features,
                                  linear->second.in_features, rows, options);
    if (!matrix.ok()) {
      return absl::Status(
          matrix.status().code(),
          absl::StrCat(found.file->source(), ": tensor '", spec.name,
                       "': ", matrix.status().message()));
    }
    report.weights += matrix->rows() * matrix->columns();
    report.outlier_columns +=
        static_cast<int64_t>(matrix->parts().outlier_columns.size());
    AddError(*matrix, rows, sums);
    CHOIR_RETURN_IF_ERROR(WritePacked(spec.name, *matrix, writer));
  }
  if (sums.weight > 0.0) {
    report.relative_error = std::sqrt(sums.error / sums.weight);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<QuantizeReport> QuantizeCheckpoint(
    const std::string& folder, WeightFormat format, const std::string& out,
    const QuantizeOptions& options, const StopFn& stop) {
  CHOIR_RETURN_IF_ERROR(CheckSource(folder, format, options));
  const std::string config_path = base::JoinPath(folder, kConfig);
  CHOIR_ASSIGN_OR_RETURN(const std::string config_text,
                         base::ReadFile(config_path, 1u << 20));
  CHOIR_ASSIGN_OR_RETURN(const ModelConfig config,
                         ParseModelConfig(config_text, config_path));
  CHOIR_ASSIGN_OR_RETURN(const TensorFiles files,
                         TensorFiles::Open(folder, config));
  CHOIR_RETURN_IF_ERROR(files.CheckNonePacked(kRemedy));
  CHOIR_ASSIGN_OR_RETURN(const std::unique_ptr<NewFolder> target,
                         NewFolder::Create(out));
  const std::string weights = base::JoinPath(target->partial(), kWeights);
  CHOIR_ASSIGN_OR_RETURN(const std::unique_ptr<SafetensorsWriter> writer,
                         SafetensorsWriter::Create(weights, stop));
  QuantizeReport report;
  CHOIR_RETURN_IF_ERROR(
      WriteWeights(files, config, format, options, *writer, report));
  CHOIR_RETURN_IF_ERROR(CopySideFiles(folder, target->partial()));
  CHOIR_RETURN_IF_ERROR(writer->Finish());
  CHOIR_ASSIGN_OR_RETURN(report.bytes_after, base::FileSize(weights));
  CHOIR_ASSIGN_OR_RETURN(const std::string quantised,
                         WithQuantization(config_text, format, config_path));
  CHOIR_RETURN_IF_ERROR(base::WriteFileAtomic(
      base::JoinPath(target->partial(), kConfig), quantised));
  CHOIR_RETURN_IF_ERROR(target->Finish());
  return report;
}

absl::StatusOr<QuantizedMatrix> LoadWeight(const TensorFiles& files,
                                           absl::string_view name, int64_t rows,
                                           int64_t columns, bool transposed,
                                           WeightFormat format) {
  if (files.IsPacked(name)) {
    CHOIR_ASSIGN_OR_RETURN(const QuantizedMatrix matrix,
                           files.Packed(name, rows, columns));
    if (matrix.format() == format) return matrix;
    return absl::InvalidArgumentError(absl::StrCat(
        "weight '", name, "' is stored in ", WeightFormatName(matrix.format()),
        ", but precision ", WeightFormatName(format),
        " was asked for; leave the precision away or take the checkpoint that "
        "was not quantised"));
  }
  const TensorFiles::Found found = files.Find(name);
  if (format == WeightFormat::kBf16 && found.view->dtype == DType::kBf16 &&
      !transposed) {
    QuantizedMatrix::Parts parts;
    parts.format = format;
    parts.rows = rows;
    parts.columns = columns;
    parts.codes = found.view->bytes;
    parts.owner = found.file;
    return QuantizedMatrix::FromParts(std::move(parts));
  }
  CHOIR_ASSIGN_OR_RETURN(const ReadRows read,
                         files.RowsOf(name, rows, columns, transposed));
  absl::StatusOr<QuantizedMatrix> matrix =
      QuantizedMatrix::Quantize(format, rows, columns, read);
  if (!matrix.ok()) {
    return absl::Status(matrix.status().code(),
                        absl::StrCat(found.file->source(), ": tensor '", name,
                                     "': ", matrix.status().message()));
  }
  return matrix;
}

}  // namespace choir::model
