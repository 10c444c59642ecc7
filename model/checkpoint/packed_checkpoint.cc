#include "model/checkpoint/packed_checkpoint.h"

#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "base/files.h"
#include "base/json_text.h"
#include "base/status_macros.h"

namespace choir::model {
namespace {

constexpr char kMethod[] = "choir";
constexpr int kVersion = 1;

absl::Status Wrong(absl::string_view source, absl::string_view name,
                   absl::string_view problem) {
  return absl::InvalidArgumentError(
      absl::StrCat(source, ": packed weight '", name, "' ", problem));
}

template <typename T>
absl::string_view BytesOf(const std::vector<T>& values) {
  return absl::string_view(reinterpret_cast<const char*>(values.data()),
                           values.size() * sizeof(T));
}

template <typename T>
absl::StatusOr<std::vector<T>> ReadNumbers(const SafetensorsFile& file,
                                           const std::string& name,
                                           DType dtype) {
  const TensorView* view = file.Find(name);
  if (view == nullptr || view->dtype != dtype) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.source(), ": tensor '", name, "' is not there as ",
                     DTypeName(dtype), "; the quantised model is incomplete"));
  }
  std::vector<T> values(view->num_elements());
  if (!values.empty()) {
    std::memcpy(values.data(), view->bytes.data(), view->bytes.size());
  }
  return values;
}

// The shape that an NF4 weight says it has; empty if it says none.
std::vector<int64_t> Nf4Shape(const SafetensorsFile& file,
                              absl::string_view name) {
  auto shape =
      ReadNumbers<int64_t>(file, absl::StrCat(name, ".nf4_shape"), DType::kI64);
  if (!shape.ok() || shape->size() != 2) return {};
  return *std::move(shape);
}

absl::Status Add(SafetensorsWriter& writer, std::string name, DType dtype,
                 std::vector<int64_t> shape, absl::string_view bytes) {
  TensorView view;
  view.name = std::move(name);
  view.dtype = dtype;
  view.shape = std::move(shape);
  view.bytes = bytes;
  return writer.Add(view);
}

}  // namespace

absl::StatusOr<absl::optional<WeightFormat>> ParseQuantization(
    absl::string_view config_json, absl::string_view source) {
  CHOIR_ASSIGN_OR_RETURN(const nlohmann::json json,
                         base::ParseJsonObject(config_json, source, {}));
  const auto entry = json.find("quantization_config");
  if (entry == json.end() || entry->is_null()) {
    return absl::optional<WeightFormat>();
  }
  const auto text = [&](const char* key) {
    if (!entry->is_object()) return std::string();
    const auto found = entry->find(key);
    return found != entry->end() && found->is_string()
               ? found->get<std::string>()
               : std::string();
  };
  if (text("quant_method") != kMethod) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": quantization_config.quant_method is \"",
                     text("quant_method"),
                     "\", which Choir does not read; take the "
                     "checkpoint that was not quantised and quantise it with "
                     "'choir-model quantize'"));
  }
  const auto version = entry->find("version");
  if (version == entry->end() || !version->is_number_integer() ||
      version->get<int64_t>() != kVersion) {
    return absl::InvalidArgumentError(absl::StrCat(
        source, ": quantization_config.version is not ", kVersion,
        ", the only one that this Choir reads; quantise the model again"));
  }
  CHOIR_ASSIGN_OR_RETURN(
      const WeightFormat format,
      ParseWeightFormat(text("format"),
                        absl::StrCat(source, ": quantization_config.format")));
  if (format != WeightFormat::kInt8 && format != WeightFormat::kNf4) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": quantization_config.format is \"",
                     text("format"), "\"; one of int8, nf4"));
  }
  return absl::optional<WeightFormat>(format);
}

absl::StatusOr<absl::optional<WeightFormat>> ReadQuantization(
    const std::string& folder) {
  const std::string path = base::JoinPath(folder, "config.json");
  CHOIR_ASSIGN_OR_RETURN(const std::string text,
                         base::ReadFile(path, 1u << 20));
  return ParseQuantization(text, path);
}

absl::Status CheckNotQuantised(const std::string& folder,
                               absl::string_view remedy) {
  CHOIR_ASSIGN_OR_RETURN(const absl::optional<WeightFormat> format,
                         ReadQuantization(folder));
  if (!format) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the model in ", folder, " is quantised to ",
                   WeightFormatName(*format), "; ", remedy));
}

absl::StatusOr<std::string> WithQuantization(absl::string_view config_json,
                                             WeightFormat format,
                                             absl::string_view source) {
  // Checked first; then read again in a form that keeps the order.
  CHOIR_RETURN_IF_ERROR(
      base::ParseJsonObject(config_json, source, {}).status());
  auto json = nlohmann::ordered_json::parse(config_json.begin(),
                                            config_json.end(), nullptr, false);
  json["quantization_config"] = {
      {"quant_method", kMethod},
      {"format", std::string(WeightFormatName(format))},
      {"version", kVersion}};
  return json.dump(2) + "\n";
}

absl::Status WritePacked(absl::string_view name, const QuantizedMatrix& matrix,
                         SafetensorsWriter& writer) {
  const QuantizedMatrix::Parts& p = matrix.parts();
  const auto named = [&](absl::string_view suffix) {
    return absl::StrCat(name, ".", suffix);
  };
  if (p.format == WeightFormat::kInt8) {
    const int64_t kept = static_cast<int64_t>(p.outlier_columns.size());
    CHOIR_RETURN_IF_ERROR(
        Add(writer, named("int8"), DType::kI8, {p.rows, p.columns}, p.codes));
    CHOIR_RETURN_IF_ERROR(Add(writer, named("int8_scale"), DType::kF32,
                              {p.rows}, BytesOf(p.scales)));
    if (kept == 0) return absl::OkStatus();
    CHOIR_RETURN_IF_ERROR(Add(writer, named("int8_columns"), DType::kI32,
                              {kept}, BytesOf(p.outlier_columns)));
    return Add(writer, named("int8_outliers"), DType::kF32, {p.rows, kept},
               BytesOf(p.outliers));
  }
  CHOIR_CHECK(p.format == WeightFormat::kNf4);
  const std::vector<int64_t> shape = {p.rows, p.columns};
  const std::vector<float> offset = {p.absmax_offset};
  CHOIR_RETURN_IF_ERROR(Add(writer, named("nf4"), DType::kU8,
                            {static_cast<int64_t>(p.codes.size())}, p.codes));
  CHOIR_RETURN_IF_ERROR(
      Add(writer, named("nf4_shape"), DType::kI64, {2}, BytesOf(shape)));
  CHOIR_RETURN_IF_ERROR(Add(writer, named("nf4_absmax"), DType::kI8,
                            {static_cast<int64_t>(p.absmax.size())}, p.absmax));
  CHOIR_RETURN_IF_ERROR(Add(writer, named("nf4_scale"), DType::kF32,
                            {static_cast<int64_t>(p.scales.size())},
                            BytesOf(p.scales)));
  return Add(writer, named("nf4_offset"), DType::kF32, {1}, BytesOf(offset));
}

bool HasPacked(const SafetensorsFile& file, absl::string_view name) {
  return file.Find(absl::StrCat(name, ".int8")) != nullptr ||
         file.Find(absl::StrCat(name, ".nf4")) != nullptr;
}

absl::StatusOr<QuantizedMatrix> ReadPacked(
    std::shared_ptr<const SafetensorsFile> file, absl::string_view name,
    int64_t rows, int64_t columns) {
  const auto named = [&](absl::string_view suffix) {
    return absl::StrCat(name, ".", suffix);
  };
  QuantizedMatrix::Parts parts;
  parts.rows = rows;
  parts.columns = columns;
  if (const TensorView* codes = file->Find(named("int8"))) {
    parts.format = WeightFormat::kInt8;
    if (codes->dtype != DType::kI8 ||
        codes->shape != std::vector<int64_t>{rows, columns}) {
      return Wrong(file->source(), name,
                   absl::StrCat("is not I8 [", rows, ", ", columns, "]"));
    }
    parts.codes = codes->bytes;
    CHOIR_ASSIGN_OR_RETURN(
        parts.scales,
        ReadNumbers<float>(*file, named("int8_scale"), DType::kF32));
    if (file->Find(named("int8_columns")) != nullptr) {
      CHOIR_ASSIGN_OR_RETURN(
          parts.outlier_columns,
          ReadNumbers<int32_t>(*file, named("int8_columns"), DType::kI32));
      CHOIR_ASSIGN_OR_RETURN(
          parts.outliers,
          ReadNumbers<float>(*file, named("int8_outliers"), DType::kF32));
    }
  } else if (const TensorView* nibbles = file->Find(named("nf4"))) {
    parts.format = WeightFormat::kNf4;
    if (Nf4Shape(*file, name) != std::vector<int64_t>{rows, columns}) {
      return Wrong(file->source(), name,
                   absl::StrCat("does not say that its shape is [", rows, ", ",
                                columns, "] (nf4_shape)"));
    }
    const TensorView* absmax = file->Find(named("nf4_absmax"));
    if (absmax == nullptr || absmax->dtype != DType::kI8 ||
        nibbles->dtype != DType::kU8) {
      return Wrong(file->source(), name, "lacks its nf4_absmax or its type");
    }
    parts.codes = nibbles->bytes;
    parts.absmax = absmax->bytes;
    CHOIR_ASSIGN_OR_RETURN(
        parts.scales,
        ReadNumbers<float>(*file, named("nf4_scale"), DType::kF32));
    CHOIR_ASSIGN_OR_RETURN(
        const std::vector<float> offset,
        ReadNumbers<float>(*file, named("nf4_offset"), DType::kF32));
    if (offset.size() != 1) {
      return Wrong(file->source(), name, "has not one nf4_offset");
    }
    parts.absmax_offset = offset[0];
  } else {
    return Wrong(file->source(), name, "is not there");
  }
  const std::string source = file->source();
  parts.owner = std::move(file);
  absl::StatusOr<QuantizedMatrix> matrix =
      QuantizedMatrix::FromParts(std::move(parts));
  if (!matrix.ok()) return Wrong(source, name, matrix.status().message());
  return matrix;
}

std::vector<LogicalTensor> LogicalTensors(const SafetensorsFile& file) {
  static constexpr absl::string_view kParts[] = {
      ".int8_scale", ".int8_columns", ".int8_outliers", ".nf4_shape",
      ".nf4_absmax", ".nf4_scale",    ".nf4_offset"};
  std::vector<LogicalTensor> logical;
  for (const TensorView& tensor : file.tensors()) {
    absl::string_view name = tensor.name;
    if (absl::ConsumeSuffix(&name, ".int8")) {
      logical.push_back({std::string(name), tensor.shape, true});
      continue;
    }
    if (absl::ConsumeSuffix(&name, ".nf4")) {
      logical.push_back({std::string(name), Nf4Shape(file, name), true});
      continue;
    }
    bool part = false;
    for (const absl::string_view suffix : kParts) {
      absl::string_view weight = tensor.name;
      part |= absl::ConsumeSuffix(&weight, suffix) && HasPacked(file, weight);
    }
    if (!part) logical.push_back({tensor.name, tensor.shape, false});
  }
  return logical;
}

}  // namespace choir::model
