#include "model/checkpoint/safetensors.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/json_text.h"
#include "base/status_macros.h"
#include "model/quantize/float_formats.h"

namespace choir::model {
namespace {

struct DTypeInfo {
  DType dtype;
  const char* name;
  int bytes;
};

constexpr DTypeInfo kDTypes[] = {
    {DType::kBool, "BOOL", 1},      {DType::kU8, "U8", 1},
    {DType::kI8, "I8", 1},          {DType::kF8E5M2, "F8_E5M2", 1},
    {DType::kF8E4M3, "F8_E4M3", 1}, {DType::kI16, "I16", 2},
    {DType::kU16, "U16", 2},        {DType::kF16, "F16", 2},
    {DType::kBf16, "BF16", 2},      {DType::kI32, "I32", 4},
    {DType::kU32, "U32", 4},        {DType::kF32, "F32", 4},
    {DType::kF64, "F64", 8},        {DType::kI64, "I64", 8},
    {DType::kU64, "U64", 8},
};

constexpr size_t kPrefixBytes = 8;
constexpr size_t kMostDimensions = 16;

const DTypeInfo& InfoOf(DType dtype) {
  for (const DTypeInfo& info : kDTypes) {
    if (info.dtype == dtype) return info;
  }
  CHOIR_CHECK(false);
  return kDTypes[0];
}

void SortByName(std::vector<TensorView>& tensors) {
  std::sort(
      tensors.begin(), tensors.end(),
      [](const TensorView& a, const TensorView& b) { return a.name < b.name; });
}

absl::Status Bad(absl::string_view source, absl::string_view problem) {
  return absl::InvalidArgumentError(absl::StrCat(source, ": ", problem));
}

absl::Status BadTensor(absl::string_view source, absl::string_view name,
                       absl::string_view problem) {
  return Bad(source, absl::StrCat("tensor '", name, "' ", problem));
}

uint64_t ReadUint64(const char* bytes) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) {
    value = value << 8 | static_cast<uint8_t>(bytes[i]);
  }
  return value;
}

// Sets `shape` and returns the bytes that it needs.
absl::StatusOr<uint64_t> ParseShape(const nlohmann::json& entry,
                                    absl::string_view source,
                                    const DTypeInfo& info, TensorView& tensor) {
  const auto shape = entry.find("shape");
  if (shape == entry.end() || !shape->is_array() ||
      shape->size() > kMostDimensions) {
    return BadTensor(source, tensor.name,
                     absl::StrCat("needs a 'shape', a list of at most ",
                                  kMostDimensions, " sizes"));
  }
  uint64_t bytes = info.bytes;
  constexpr uint64_t kMostBytes = uint64_t{1} << 50;
  for (const nlohmann::json& dimension : *shape) {
    if (!dimension.is_number_unsigned()) {
      return BadTensor(source, tensor.name,
                       "has a dimension that is not a whole number from 0");
    }
    const uint64_t size = dimension.get<uint64_t>();
    if (size > kMostBytes || (size > 0 && bytes > kMostBytes / size)) {
      return BadTensor(source, tensor.name, "has a shape above 2^50 bytes");
    }
    bytes *= size;
    tensor.shape.push_back(static_cast<int64_t>(size));
  }
  return bytes;
}

// Parses one entry of the header; `data` are the bytes after it.
absl::StatusOr<TensorView> ParseTensor(const std::string& name,
                                       const nlohmann::json& entry,
                                       absl::string_view source,
                                       absl::string_view data) {
  TensorView tensor;
  tensor.name = name;
  if (!entry.is_object()) {
    return BadTensor(source, name, "is not described by a JSON object");
  }
  const auto dtype = entry.find("dtype");
  if (dtype == entry.end() || !dtype->is_string()) {
    return BadTensor(source, name, "has no 'dtype'");
  }
  const std::string& dtype_name = dtype->get_ref<const std::string&>();
  const DTypeInfo* info =
      std::find_if(std::begin(kDTypes), std::end(kDTypes),
                   [&](const DTypeInfo& i) { return dtype_name == i.name; });
  if (info == std::end(kDTypes)) {
    return BadTensor(source, name,
                     absl::StrCat("has the unknown dtype '", dtype_name, "'"));
  }
  tensor.dtype = info->dtype;
  CHOIR_ASSIGN_OR_RETURN(const uint64_t needed,
                         ParseShape(entry, source, *info, tensor));
  const auto offsets = entry.find("data_offsets");
  if (offsets == entry.end() || !offsets->is_array() || offsets->size() != 2 ||
      !(*offsets)[0].is_number_unsigned() ||
      !(*offsets)[1].is_number_unsigned()) {
    return BadTensor(source, name, "needs 'data_offsets': [begin, end]");
  }
  const uint64_t begin = (*offsets)[0].get<uint64_t>();
  const uint64_t end = (*offsets)[1].get<uint64_t>();
  if (begin > end || end > data.size()) {
    return BadTensor(
        source, name,
        absl::StrCat("claims bytes ", begin, " to ", end, " of the ",
                     data.size(), " there are; the file may be truncated"));
  }
  if (end - begin != needed) {
    return BadTensor(source, name,
                     absl::StrCat("has ", end - begin, " bytes; its shape [",
                                  absl::StrJoin(tensor.shape, ", "), "] in ",
                                  info->name, " needs ", needed));
  }
  tensor.bytes = data.substr(begin, end - begin);
  return tensor;
}

// Every byte of `data` must belong to exactly one tensor.
absl::Status CheckCoverage(const std::vector<TensorView>& tensors,
                           absl::string_view source, absl::string_view data) {
  std::vector<const TensorView*> by_offset;
  for (const TensorView& tensor : tensors) by_offset.push_back(&tensor);
  std::sort(by_offset.begin(), by_offset.end(),
            [](const TensorView* a, const TensorView* b) {
              return std::make_pair(a->bytes.data(), a->bytes.size()) <
                     std::make_pair(b->bytes.data(), b->bytes.size());
            });
  uint64_t covered = 0;
  for (const TensorView* tensor : by_offset) {
    const uint64_t begin = tensor->bytes.data() - data.data();
    if (begin < covered) {
      return BadTensor(
          source, tensor->name,
          absl::StrCat("begins at byte ", begin, ", inside another tensor"));
    }
    if (begin > covered) {
      return BadTensor(
          source, tensor->name,
          absl::StrCat("begins at byte ", begin, "; bytes ", covered, " to ",
                       begin, " belong to no tensor"));
    }
    covered = begin + tensor->bytes.size();
  }
  if (covered != data.size()) {
    return Bad(source, absl::StrCat(data.size() - covered,
                                    " bytes follow the last tensor"));
  }
  return absl::OkStatus();
}

absl::Status ParseMetadata(const nlohmann::json& entry,
                           absl::string_view source,
                           std::map<std::string, std::string>& metadata) {
  if (!entry.is_object()) {
    return Bad(source, "__metadata__ is not a JSON object");
  }
  for (const auto& [key, value] : entry.items()) {
    if (!value.is_string()) {
      return Bad(source,
                 absl::StrCat("__metadata__ entry '", key, "' is not text"));
    }
    metadata[key] = value.get<std::string>();
  }
  return absl::OkStatus();
}

}  // namespace

absl::string_view DTypeName(DType dtype) { return InfoOf(dtype).name; }
int DTypeBytes(DType dtype) { return InfoOf(dtype).bytes; }

int64_t TensorView::num_elements() const {
  int64_t elements = 1;
  for (const int64_t dimension : shape) elements *= dimension;
  return elements;
}

absl::StatusOr<SafetensorsFile> ParseSafetensors(absl::string_view bytes,
                                                 absl::string_view source) {
  if (bytes.size() < kPrefixBytes) {
    return Bad(source, absl::StrCat("has ", bytes.size(),
                                    " bytes; a safetensors file begins with "
                                    "8 bytes that give the header's size"));
  }
  const uint64_t header_bytes = ReadUint64(bytes.data());
  if (header_bytes > kMaxSafetensorsHeaderBytes) {
    return Bad(source, absl::StrCat("claims a header of ", header_bytes,
                                    " bytes; at most ",
                                    kMaxSafetensorsHeaderBytes, " are read"));
  }
  if (header_bytes > bytes.size() - kPrefixBytes) {
    return Bad(source, absl::StrCat("claims a header of ", header_bytes,
                                    " bytes but has only ", bytes.size(),
                                    " in all; the file may be truncated"));
  }
  base::JsonLimits limits;
  limits.max_bytes = kMaxSafetensorsHeaderBytes;
  limits.max_depth = 8;
  limits.unique_top_keys = true;
  CHOIR_ASSIGN_OR_RETURN(
      const nlohmann::json header,
      base::ParseJsonObject(bytes.substr(kPrefixBytes, header_bytes),
                            absl::StrCat(source, " (header)"), limits));
  SafetensorsFile file;
  file.source_ = std::string(source);
  const absl::string_view data = bytes.substr(kPrefixBytes + header_bytes);
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      CHOIR_RETURN_IF_ERROR(ParseMetadata(entry, source, file.metadata_));
      continue;
    }
    CHOIR_ASSIGN_OR_RETURN(TensorView tensor,
                           ParseTensor(name, entry, source, data));
    file.tensors_.push_back(std::move(tensor));
  }
  SortByName(file.tensors_);
  CHOIR_RETURN_IF_ERROR(CheckCoverage(file.tensors_, source, data));
  return file;
}

SafetensorsFile SafetensorsFile::WithTensors(
    std::vector<TensorView> tensors) const {
  SafetensorsFile file = *this;
  file.tensors_ = std::move(tensors);
  SortByName(file.tensors_);
  return file;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  CHOIR_ASSIGN_OR_RETURN(std::shared_ptr<const base::MappedFile> mapping,
                         base::MappedFile::Open(path));
  CHOIR_ASSIGN_OR_RETURN(SafetensorsFile file,
                         ParseSafetensors(mapping->bytes(), path));
  file.mapping_ = std::move(mapping);
  return file;
}

const TensorView* SafetensorsFile::Find(absl::string_view name) const {
  const auto found =
      std::lower_bound(tensors_.begin(), tensors_.end(), name,
                       [](const TensorView& tensor, absl::string_view wanted) {
                         return absl::string_view(tensor.name) < wanted;
                       });
  return found != tensors_.end() && found->name == name ? &*found : nullptr;
}

absl::StatusOr<const TensorView*> SafetensorsFile::Get(
    absl::string_view name, absl::Span<const int64_t> shape) const {
  const TensorView* tensor = Find(name);
  if (tensor == nullptr) return BadTensor(source_, name, "is not there");
  if (absl::MakeConstSpan(tensor->shape) != shape) {
    return BadTensor(
        source_, name,
        absl::StrCat("has shape [", absl::StrJoin(tensor->shape, ", "),
                     "], not [", absl::StrJoin(shape, ", "), "]"));
  }
  return tensor;
}

absl::Status ReadFloatsInto(const TensorView& tensor, absl::Span<float> out) {
  CHOIR_CHECK(static_cast<int64_t>(out.size()) == tensor.num_elements());
  const char* bytes = tensor.bytes.data();
  const auto half = [bytes](size_t i) {
    return static_cast<uint16_t>(
        static_cast<uint8_t>(bytes[2 * i]) |
        static_cast<uint16_t>(static_cast<uint8_t>(bytes[2 * i + 1])) << 8);
  };
  switch (tensor.dtype) {
    case DType::kF32:
      if (!out.empty()) std::memcpy(out.data(), bytes, tensor.bytes.size());
      return absl::OkStatus();
    case DType::kBf16:
      for (size_t i = 0; i < out.size(); ++i) out[i] = Bf16ToFloat(half(i));
      return absl::OkStatus();
    case DType::kF16:
      for (size_t i = 0; i < out.size(); ++i) out[i] = F16ToFloat(half(i));
      return absl::OkStatus();
    default:
      return absl::InvalidArgumentError(absl::StrCat(
          "tensor '", tensor.name, "' is stored as ", DTypeName(tensor.dtype),
          "; weights are read from F32, BF16 and F16"));
  }
}

absl::StatusOr<std::vector<float>> ReadFloats(const TensorView& tensor) {
  std::vector<float> values(tensor.num_elements());
  CHOIR_RETURN_IF_ERROR(ReadFloatsInto(tensor, absl::MakeSpan(values)));
  return values;
}

absl::Status CheckFits(absl::string_view name, absl::Span<const float> values,
                       DType dtype) {
  // From here on the nearest number is infinite.
  const float limit = dtype == DType::kF16    ? 65520.0f
                      : dtype == DType::kBf16 ? 0x1.ffp127f
                                              : HUGE_VALF;
  for (const float value : values) {
    if (std::fabs(value) < limit) continue;
    return absl::InvalidArgumentError(
        std::isfinite(value)
            ? absl::StrCat("tensor '", name, "' has the value ", value,
                           ", which is too large for ", DTypeName(dtype),
                           "; write it in float32")
            : absl::StrCat("tensor '", name, "' would hold ", value,
                           ", which is not a finite number; the base or the "
                           "adapter has values that are too large"));
  }
  return absl::OkStatus();
}

std::string FloatsToBytes(absl::Span<const float> values, DType dtype) {
  CHOIR_CHECK(dtype == DType::kF32 || dtype == DType::kBf16 ||
              dtype == DType::kF16);
  std::string bytes(values.size() * DTypeBytes(dtype), '\0');
  if (dtype == DType::kF32) {
    if (!values.empty()) std::memcpy(&bytes[0], values.data(), bytes.size());
    return bytes;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t half =
        dtype == DType::kBf16 ? FloatToBf16(values[i]) : FloatToF16(values[i]);
    bytes[2 * i] = static_cast<char>(half & 0xFF);
    bytes[2 * i + 1] = static_cast<char>(half >> 8);
  }
  return bytes;
}

std::string EncodeSafetensors(
    std::vector<TensorView> tensors,
    const std::map<std::string, std::string>& metadata) {
  SortByName(tensors);
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t end = 0;
  for (const TensorView& tensor : tensors) {
    CHOIR_CHECK(tensor.bytes.size() ==
                static_cast<uint64_t>(tensor.num_elements()) *
                    DTypeBytes(tensor.dtype));
    CHOIR_CHECK(!header.contains(tensor.name));
    const uint64_t begin = end;
    end += tensor.bytes.size();
    header[tensor.name] = {
        {"dtype", std::string(DTypeName(tensor.dtype))},
        {"shape", tensor.shape},
        {"data_offsets", {begin, end}},
    };
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  std::string out;
  out.reserve(kPrefixBytes + text.size() + end);
  for (int i = 0; i < 8; ++i) {
    out.push_back(static_cast<char>(text.size() >> (8 * i) & 0xFF));
  }
  out += text;
  for (const TensorView& tensor : tensors) {
    out.append(tensor.bytes.data(), tensor.bytes.size());
  }
  return out;
}

}  // namespace choir::model
