#include "model/checkpoint/tensor_files.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "base/files.h"
#include "base/json_text.h"
#include "base/status_macros.h"
#include "model/checkpoint/families.h"
#include "model/checkpoint/fused_experts.h"
#include "model/checkpoint/packed_checkpoint.h"

namespace choir::model {
namespace {

constexpr char kSingle[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";
// What model/adapter/peft_folder.h calls an adapter's weights.
constexpr char kAdapterWeights[] = "adapter_model.safetensors";
constexpr size_t kLargestIndex = 64u << 20;

absl::StatusOr<std::vector<std::string>> IndexedFiles(const std::string& path) {
  CHOIR_ASSIGN_OR_RETURN(const std::string text,
                         base::ReadFile(path, kLargestIndex));
  CHOIR_ASSIGN_OR_RETURN(
      const nlohmann::json json,
      base::ParseJsonObject(text, path, {.max_bytes = kLargestIndex}));
  const auto map = json.find("weight_map");
  if (map == json.end() || !map->is_object() || map->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has no \"weight_map\""));
  }
  std::set<std::string> names;
  for (const auto& entry : *map) {
    if (!entry.is_string() ||
        absl::StrContains(entry.get<std::string>(), "/")) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": \"weight_map\" must name files of the same folder"));
    }
    names.insert(entry.get<std::string>());
  }
  return std::vector<std::string>(names.begin(), names.end());
}

absl::StatusOr<std::vector<std::string>> FileNames(
    const std::string& directory) {
  if (base::FileExists(base::JoinPath(directory, kSingle))) {
    return std::vector<std::string>{kSingle};
  }
  const std::string index = base::JoinPath(directory, kIndex);
  if (base::FileExists(index)) return IndexedFiles(index);
  CHOIR_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                         base::ListDirectory(directory));
  std::vector<std::string> names;
  for (const std::string& name : all) {
    if (absl::EndsWith(name, ".safetensors") && name != kAdapterWeights) {
      names.push_back(name);
    }
  }
  if (names.empty()) {
    return absl::NotFoundError(
        absl::StrCat(directory, " has no ", kSingle, ", no ", kIndex,
                     " and no other *.safetensors file"));
  }
  return names;
}

// The tables of contents of a model's files, with packed weights as what they
// stand for.
class TableOfContents {
 public:
  explicit TableOfContents(const ModelConfig& config) {
    ModelConfig whole = config;  // experts that are not held are there, too
    whole.moe.held.clear();
    for (const LinearSpec& linear : LinearLayers(whole)) {
      const std::string name = absl::StrCat(linear.module, ".weight");
      linears_[name] = linear.transposed;
      linears_[std::string(absl::StripPrefix(name, NamePrefix(config)))] =
          linear.transposed;
    }
  }

  absl::Status Add(const SafetensorsFile& file) {
    for (LogicalTensor& tensor : LogicalTensors(file)) {
      const auto [other, fresh] = where_.emplace(tensor.name, file.source());
      if (!fresh) {
        return absl::InvalidArgumentError(
            absl::StrCat("tensor '", tensor.name, "' is there twice, in ",
                         other->second, " and in ", file.source()));
      }
      if (tensor.packed) {
        const auto linear = linears_.find(tensor.name);
        if (linear == linears_.end()) {
          return absl::InvalidArgumentError(absl::StrCat(
              file.source(), ": tensor '", tensor.name,
              "' is stored quantised, which only weights of linear layers "
              "can be"));
        }
        // The model's table has it as [in, out].
        if (linear->second) {
          std::reverse(tensor.shape.begin(), tensor.shape.end());
        }
      }
      tensors_.push_back({std::move(tensor.name), std::move(tensor.shape)});
    }
    return absl::OkStatus();
  }
  bool Has(const std::string& name) const { return where_.count(name) != 0; }
  const std::vector<StoredTensor>& tensors() const { return tensors_; }

 private:
  std::map<std::string, bool> linears_;  // weights: whether they are transposed
  std::map<std::string, std::string> where_;  // the file of each tensor
  std::vector<StoredTensor> tensors_;
};

// Rows of a dense matrix in a file; the memory behind what was read is given
// back, so that a model can pass through a little of it.
void ReadDenseRows(const TensorView& view, int64_t columns, int64_t begin,
                   int64_t count, float* out) {
  const int64_t row_bytes = columns * DTypeBytes(view.dtype);
  TensorView part;
  part.dtype = view.dtype;
  part.shape = {count, columns};
  part.bytes = view.bytes.substr(begin * row_bytes, count * row_bytes);
  CHOIR_CHECK(ReadFloatsInto(part, absl::MakeSpan(out, count * columns)).ok());
  base::ReleasePages(part.bytes);
}

// The same for a matrix stored [columns, rows].
void ReadTransposedRows(const TensorView& view, int64_t rows, int64_t columns,
                        int64_t begin, int64_t count, float* out) {
  std::vector<float> line(count);
  TensorView part;
  part.dtype = view.dtype;
  part.shape = {count};
  const int64_t width = DTypeBytes(view.dtype);
  for (int64_t c = 0; c < columns; ++c) {
    part.bytes = view.bytes.substr((c * rows + begin) * width, count * width);
    CHOIR_CHECK(ReadFloatsInto(part, absl::MakeSpan(line)).ok());
    for (int64_t r = 0; r < count; ++r) out[r * columns + c] = line[r];
  }
  if (begin + count == rows) base::ReleasePages(view.bytes);
}

}  // namespace

absl::StatusOr<TensorFiles> TensorFiles::Open(const std::string& directory,
                                              const ModelConfig& config) {
  CHOIR_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                         FileNames(directory));
  TensorFiles result;
  TableOfContents table(config);
  for (const std::string& name : names) {
    CHOIR_ASSIGN_OR_RETURN(
        SafetensorsFile file,
        SafetensorsFile::Open(base::JoinPath(directory, name)));
    file = file.WithTensors(SplitFusedExperts(config, file.tensors()));
    CHOIR_RETURN_IF_ERROR(table.Add(file));
    result.files_.push_back(
        std::make_shared<const SafetensorsFile>(std::move(file)));
  }
  CHOIR_RETURN_IF_ERROR(CheckTensorTable(
      config, table.tensors(),
      names.size() == 1 ? base::JoinPath(directory, names[0]) : directory));
  if (!table.Has(ModelTensorNames(config).embedding)) {
    result.missing_prefix_ = std::string(NamePrefix(config));
  }
  return result;
}

absl::string_view TensorFiles::Stored(absl::string_view name) const {
  if (!missing_prefix_.empty()) absl::ConsumePrefix(&name, missing_prefix_);
  return name;
}

TensorFiles::Found TensorFiles::Find(absl::string_view name) const {
  for (const auto& file : files_) {
    const TensorView* view = file->Find(Stored(name));
    if (view != nullptr) return {file, view};
  }
  CHOIR_CHECK(false);
  return {};
}

bool TensorFiles::IsPacked(absl::string_view name) const {
  for (const auto& file : files_) {
    if (HasPacked(*file, Stored(name))) return true;
  }
  return false;
}

absl::Status TensorFiles::CheckNonePacked(absl::string_view remedy) const {
  for (const auto& file : files_) {
    for (const LogicalTensor& tensor : LogicalTensors(*file)) {
      if (!tensor.packed) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(file->source(), ": weight '", tensor.name,
                       "' is quantised; ", remedy));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<QuantizedMatrix> TensorFiles::Packed(absl::string_view name,
                                                    int64_t rows,
                                                    int64_t columns) const {
  for (const auto& file : files_) {
    if (HasPacked(*file, Stored(name))) {
      return ReadPacked(file, Stored(name), rows, columns);
    }
  }
  CHOIR_CHECK(false);
  return absl::InternalError("unreachable");
}

absl::StatusOr<ReadRows> TensorFiles::RowsOf(const LinearSpec& linear) const {
  return RowsOf(absl::StrCat(linear.module, ".weight"), linear.out_features,
                linear.in_features, linear.transposed);
}

absl::StatusOr<ReadRows> TensorFiles::RowsOf(absl::string_view name,
                                             int64_t rows, int64_t columns,
                                             bool transposed) const {
  if (IsPacked(name)) {
    CHOIR_ASSIGN_OR_RETURN(const QuantizedMatrix matrix,
                           Packed(name, rows, columns));
    return ReadRows([matrix](int64_t begin, int64_t count, float* out) {
      matrix.Dequantize(begin, count, out);
    });
  }
  const Found found = Find(name);
  const DType dtype = found.view->dtype;
  if (dtype != DType::kF32 && dtype != DType::kBf16 && dtype != DType::kF16) {
    return absl::InvalidArgumentError(absl::StrCat(
        found.file->source(), ": tensor '", name, "' is stored as ",
        DTypeName(dtype), "; weights are read from F32, BF16 and F16"));
  }
  return ReadRows([found, rows, columns, transposed](
                      int64_t begin, int64_t count, float* out) {
    if (transposed) {
      ReadTransposedRows(*found.view, rows, columns, begin, count, out);
    } else {
      ReadDenseRows(*found.view, columns, begin, count, out);
    }
  });
}

}  // namespace choir::model
