#include "model/export/gguf.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <type_traits>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace choir::model {
namespace {

constexpr char kMagic[] = "GGUF";
constexpr uint32_t kVersion = 3;
constexpr uint64_t kAlignment = 32;
constexpr uint64_t kMostKeys = 1u << 16;
constexpr uint64_t kMostTensors = 1u << 20;
constexpr uint64_t kLongestKey = 65535;
constexpr uint64_t kLongestName = 63;
constexpr uint64_t kLongestText = 64u << 20;
constexpr uint64_t kMostDimensions = 4;

enum ValueType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kFloat,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kDouble,
  kNumTypes
};
// Bytes of one value; 0: of no fixed size.
constexpr int kValueBytes[kNumTypes] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

std::optional<DType> DTypeOf(uint32_t ggml_type) {
  switch (ggml_type) {
    case 0:
      return DType::kF32;
    case 1:
      return DType::kF16;
    case 30:
      return DType::kBf16;
    default:
      return std::nullopt;
  }
}

std::optional<uint32_t> GgmlType(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return 0;
    case DType::kF16:
      return 1;
    case DType::kBf16:
      return 30;
    default:
      return std::nullopt;
  }
}

class Parser {
 public:
  Parser(absl::string_view bytes, absl::string_view source)
      : bytes_(bytes), source_(source) {}

  absl::StatusOr<GgufFile> Parse();

 private:
  absl::Status Wrong(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(source_, ": ", what));
  }
  template <typename T>
  absl::StatusOr<T> Read(absl::string_view what) {
    if (bytes_.size() - at_ < sizeof(T)) {
      return Wrong(absl::StrCat("ends inside ", what));
    }
    T value;
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }
  absl::StatusOr<std::string> ReadText(absl::string_view what, uint64_t most) {
    CHOIR_ASSIGN_OR_RETURN(const uint64_t size, Read<uint64_t>(what));
    if (size > most) {
      return Wrong(absl::StrCat(what, " is ", size, " bytes long; at most ",
                                most, " are read"));
    }
    if (size > bytes_.size() - at_) {
      return Wrong(absl::StrCat("ends inside ", what));
    }
    std::string text(bytes_.substr(at_, size));
    at_ += size;
    return text;
  }
  absl::Status ReadHeader();
  absl::StatusOr<GgufValue> ReadValue(const std::string& key);
  absl::StatusOr<GgufArray> ReadArray(const std::string& key);
  absl::Status ReadMetadata(GgufFile& file);
  absl::Status ReadTensorInfo(GgufFile& file);
  absl::Status PlaceTensors(GgufFile& file);

  const absl::string_view bytes_;
  const std::string source_;
  size_t at_ = 0;
  uint64_t num_tensors_ = 0, num_keys_ = 0, alignment_ = kAlignment;
  std::vector<uint64_t> offsets_;  // of the tensors, within the data
};

absl::Status Parser::ReadHeader() {
  if (bytes_.substr(0, 4) != absl::string_view(kMagic, 4)) {
    return Wrong("is not a GGUF file");
  }
  at_ = 4;
  CHOIR_ASSIGN_OR_RETURN(const uint32_t version, Read<uint32_t>("the header"));
  if (version != 0 && (version & 0xFFFF) == 0) {
    return Wrong("is a GGUF file of big-endian numbers, which is not read");
  }
  if (version != 2 && version != kVersion) {
    return Wrong(absl::StrCat("is GGUF version ", version,
                              "; versions 2 and 3 are read"));
  }
  CHOIR_ASSIGN_OR_RETURN(num_tensors_, Read<uint64_t>("the header"));
  CHOIR_ASSIGN_OR_RETURN(num_keys_, Read<uint64_t>("the header"));
  if (num_tensors_ > kMostTensors || num_keys_ > kMostKeys) {
    return Wrong(absl::StrCat("claims ", num_tensors_, " tensors and ",
                              num_keys_, " keys; at most ", kMostTensors,
                              " and ", kMostKeys, " are read"));
  }
  return absl::OkStatus();
}

absl::StatusOr<GgufArray> Parser::ReadArray(const std::string& key) {
  const std::string what = absl::StrCat("the array '", key, "'");
  CHOIR_ASSIGN_OR_RETURN(const uint32_t type, Read<uint32_t>(what));
  CHOIR_ASSIGN_OR_RETURN(const uint64_t size, Read<uint64_t>(what));
  if (type >= kNumTypes || type == kArray) {
    return Wrong(absl::StrCat(what, " holds values of type ", type,
                              ", which is not read"));
  }
  if (type == kString) {
    // Every text takes 8 bytes at least, so a false size ends soon.
    for (uint64_t i = 0; i < size; ++i) {
      CHOIR_RETURN_IF_ERROR(ReadText(what, kLongestText).status());
    }
    return GgufArray{size};
  }
  const uint64_t each = static_cast<uint64_t>(kValueBytes[type]);
  if (size > (bytes_.size() - at_) / each) {
    return Wrong(absl::StrCat("ends inside ", what));
  }
  at_ += size * each;
  return GgufArray{size};
}

absl::StatusOr<GgufValue> Parser::ReadValue(const std::string& key) {
  const std::string what = absl::StrCat("the value of '", key, "'");
  CHOIR_ASSIGN_OR_RETURN(const uint32_t type, Read<uint32_t>(what));
  const auto widen = [&](auto zero) -> absl::StatusOr<GgufValue> {
    using T = decltype(zero);
    CHOIR_ASSIGN_OR_RETURN(const T value, Read<T>(what));
    if constexpr (std::is_unsigned_v<T>) {
      return GgufValue(static_cast<uint64_t>(value));
    } else {
      return GgufValue(static_cast<int64_t>(value));
    }
  };
  const auto as_is = [&](auto zero) -> absl::StatusOr<GgufValue> {
    CHOIR_ASSIGN_OR_RETURN(const auto value, Read<decltype(zero)>(what));
    return GgufValue(value);
  };
  switch (type) {
    case kU8:
      return widen(uint8_t{0});
    case kI8:
      return widen(int8_t{0});
    case kU16:
      return widen(uint16_t{0});
    case kI16:
      return widen(int16_t{0});
    case kI32:
      return widen(int32_t{0});
    case kU32:
      return as_is(uint32_t{0});
    case kU64:
      return as_is(uint64_t{0});
    case kI64:
      return as_is(int64_t{0});
    case kFloat:
      return as_is(0.0f);
    case kDouble:
      return as_is(0.0);
    case kBool: {
      CHOIR_ASSIGN_OR_RETURN(const uint8_t value, Read<uint8_t>(what));
      if (value > 1) return Wrong(absl::StrCat(what, " is no true or false"));
      return GgufValue(value == 1);
    }
    case kString: {
      CHOIR_ASSIGN_OR_RETURN(std::string value, ReadText(what, kLongestText));
      return GgufValue(std::move(value));
    }
    case kArray: {
      CHOIR_ASSIGN_OR_RETURN(const GgufArray value, ReadArray(key));
      return GgufValue(value);
    }
    default:
      return Wrong(absl::StrCat(what, " has the unknown type ", type));
  }
}

absl::Status Parser::ReadMetadata(GgufFile& file) {
  absl::flat_hash_set<std::string> seen;
  for (uint64_t i = 0; i < num_keys_; ++i) {
    CHOIR_ASSIGN_OR_RETURN(const std::string key,
                           ReadText(absl::StrCat("key ", i), kLongestKey));
    CHOIR_ASSIGN_OR_RETURN(GgufValue value, ReadValue(key));
    if (!seen.insert(key).second) {
      return Wrong(absl::StrCat("key '", key, "' appears twice"));
    }
    if (key == "general.alignment") {
      const uint32_t* number = std::get_if<uint32_t>(&value);
      if (number == nullptr || *number < 8 || *number > (1u << 20) ||
          (*number & (*number - 1)) != 0) {
        return Wrong("general.alignment is not a power of two from 8 to 2^20");
      }
      alignment_ = *number;
    }
    file.metadata.emplace_back(key, std::move(value));
  }
  return absl::OkStatus();
}

absl::Status Parser::ReadTensorInfo(GgufFile& file) {
  absl::flat_hash_set<std::string> seen;
  for (uint64_t i = 0; i < num_tensors_; ++i) {
    TensorView tensor;
    CHOIR_ASSIGN_OR_RETURN(
        tensor.name, ReadText(absl::StrCat("tensor name ", i), kLongestName));
    const std::string what = absl::StrCat("tensor '", tensor.name, "'");
    if (!seen.insert(tensor.name).second) {
      return Wrong(absl::StrCat(what, " appears twice"));
    }
    CHOIR_ASSIGN_OR_RETURN(const uint32_t dimensions, Read<uint32_t>(what));
    if (dimensions < 1 || dimensions > kMostDimensions) {
      return Wrong(absl::StrCat(what, " has ", dimensions,
                                " dimensions, not from 1 to 4"));
    }
    uint64_t elements = 1;
    for (uint32_t d = 0; d < dimensions; ++d) {
      CHOIR_ASSIGN_OR_RETURN(const uint64_t size, Read<uint64_t>(what));
      if (size < 1 || size > (uint64_t{1} << 40) / elements) {
        return Wrong(absl::StrCat(what, " has an impossible shape"));
      }
      elements *= size;
      tensor.shape.push_back(static_cast<int64_t>(size));
    }
    std::reverse(tensor.shape.begin(), tensor.shape.end());
    CHOIR_ASSIGN_OR_RETURN(const uint32_t type, Read<uint32_t>(what));
    const std::optional<DType> dtype = DTypeOf(type);
    if (!dtype) {
      return Wrong(absl::StrCat(what, " is of ggml type ", type,
                                "; F32, F16 and BF16 are read"));
    }
    tensor.dtype = *dtype;
    CHOIR_ASSIGN_OR_RETURN(const uint64_t offset, Read<uint64_t>(what));
    offsets_.push_back(offset);
    file.tensors.push_back(std::move(tensor));
  }
  return absl::OkStatus();
}

absl::Status Parser::PlaceTensors(GgufFile& file) {
  if (file.tensors.empty()) return absl::OkStatus();
  const uint64_t begin = (at_ + alignment_ - 1) / alignment_ * alignment_;
  if (begin > bytes_.size()) return Wrong("ends before its tensors");
  const absl::string_view data = bytes_.substr(begin);
  std::vector<std::pair<uint64_t, size_t>> order;
  for (size_t i = 0; i < file.tensors.size(); ++i) {
    TensorView& tensor = file.tensors[i];
    const uint64_t size = static_cast<uint64_t>(tensor.num_elements()) *
                          static_cast<uint64_t>(DTypeBytes(tensor.dtype));
    if (offsets_[i] % alignment_ != 0 || offsets_[i] > data.size() ||
        size > data.size() - offsets_[i]) {
      return Wrong(absl::StrCat(
          "tensor '", tensor.name, "' (", size, " bytes at ", offsets_[i],
          ") does not lie within the file's ", data.size(),
          " bytes of data, on a multiple of ", alignment_));
    }
    tensor.bytes = data.substr(offsets_[i], size);
    order.emplace_back(offsets_[i], i);
  }
  std::sort(order.begin(), order.end());
  for (size_t i = 1; i < order.size(); ++i) {
    const TensorView& before = file.tensors[order[i - 1].second];
    if (order[i - 1].first + before.bytes.size() > order[i].first) {
      return Wrong(absl::StrCat("tensors '", before.name, "' and '",
                                file.tensors[order[i].second].name,
                                "' overlap"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<GgufFile> Parser::Parse() {
  GgufFile file;
  file.source = source_;
  CHOIR_RETURN_IF_ERROR(ReadHeader());
  CHOIR_RETURN_IF_ERROR(ReadMetadata(file));
  CHOIR_RETURN_IF_ERROR(ReadTensorInfo(file));
  CHOIR_RETURN_IF_ERROR(PlaceTensors(file));
  return file;
}

template <typename T>
void Append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void AppendText(std::string& out, absl::string_view text) {
  Append(out, static_cast<uint64_t>(text.size()));
  out.append(text.data(), text.size());
}

void Align(std::string& out) {
  out.append((kAlignment - out.size() % kAlignment) % kAlignment, '\0');
}

absl::Status AppendValue(std::string& out, absl::string_view key,
                         const GgufValue& value) {
  AppendText(out, key);
  const auto scalar = [&out](ValueType type, auto number) {
    Append(out, static_cast<uint32_t>(type));
    Append(out, number);
    return absl::OkStatus();
  };
  if (const auto* v = std::get_if<uint32_t>(&value)) return scalar(kU32, *v);
  if (const auto* v = std::get_if<uint64_t>(&value)) return scalar(kU64, *v);
  if (const auto* v = std::get_if<int64_t>(&value)) return scalar(kI64, *v);
  if (const auto* v = std::get_if<float>(&value)) return scalar(kFloat, *v);
  if (const auto* v = std::get_if<double>(&value)) return scalar(kDouble, *v);
  if (const auto* v = std::get_if<bool>(&value)) {
    return scalar(kBool, static_cast<uint8_t>(*v));
  }
  if (const auto* v = std::get_if<std::string>(&value)) {
    Append(out, static_cast<uint32_t>(kString));
    AppendText(out, *v);
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("GGUF key '", key, "' is an array, which is not written"));
}

}  // namespace

const GgufValue* GgufFile::Find(absl::string_view key) const {
  for (const auto& [name, value] : metadata) {
    if (name == key) return &value;
  }
  return nullptr;
}

absl::StatusOr<std::string> GgufFile::Text(absl::string_view key) const {
  const GgufValue* value = Find(key);
  if (value != nullptr) {
    if (const auto* text = std::get_if<std::string>(value)) return *text;
  }
  return absl::InvalidArgumentError(
      absl::StrCat(source, ": key '", key, "' is ",
                   value == nullptr ? "missing" : "not text"));
}

absl::StatusOr<GgufFile> ParseGguf(absl::string_view bytes,
                                   absl::string_view source) {
  return Parser(bytes, source).Parse();
}

absl::StatusOr<std::string> EncodeGguf(
    const std::vector<std::pair<std::string, GgufValue>>& metadata,
    const std::vector<TensorView>& tensors) {
  std::string out(kMagic, 4);
  Append(out, kVersion);
  Append(out, static_cast<uint64_t>(tensors.size()));
  Append(out, static_cast<uint64_t>(metadata.size()));
  for (const auto& [key, value] : metadata) {
    CHOIR_RETURN_IF_ERROR(AppendValue(out, key, value));
  }
  uint64_t offset = 0;
  for (const TensorView& tensor : tensors) {
    const std::optional<uint32_t> type = GgmlType(tensor.dtype);
    if (!type || tensor.shape.empty() ||
        tensor.shape.size() > kMostDimensions ||
        tensor.name.size() > kLongestName) {
      return absl::InvalidArgumentError(absl::StrCat(
          "tensor '", tensor.name, "' (", DTypeName(tensor.dtype), ", ",
          tensor.shape.size(), " dimensions) does not fit into GGUF"));
    }
    CHOIR_CHECK(static_cast<int64_t>(tensor.bytes.size()) ==
                tensor.num_elements() * DTypeBytes(tensor.dtype));
    AppendText(out, tensor.name);
    Append(out, static_cast<uint32_t>(tensor.shape.size()));
    for (auto d = tensor.shape.rbegin(); d != tensor.shape.rend(); ++d) {
      Append(out, static_cast<uint64_t>(*d));
    }
    Append(out, *type);
    Append(out, offset);
    offset += (tensor.bytes.size() + kAlignment - 1) / kAlignment * kAlignment;
  }
  for (const TensorView& tensor : tensors) {
    Align(out);
    out.append(tensor.bytes.data(), tensor.bytes.size());
  }
  Align(out);
  return out;
}

}  // namespace choir::model
