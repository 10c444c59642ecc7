#include "model/export/merge.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/files.h"
#include "base/json_text.h"
#include "base/status_macros.h"
#include "model/adapter/lora_layout.h"
#include "model/checkpoint/new_folder.h"
#include "model/checkpoint/packed_checkpoint.h"
#include "model/checkpoint/side_files.h"
#include "model/checkpoint/tensor_files.h"
#include "model/export/folded_layer.h"
#include "model/export/read_adapter.h"

namespace choir::model {
namespace {

using nlohmann::ordered_json;

constexpr char kConfigName[] = "config.json";
constexpr char kScoreName[] = "score.weight";
constexpr char kSingleName[] = "model.safetensors";
constexpr char kIndexName[] = "model.safetensors.index.json";
constexpr char kRemedy[] = "merge into the checkpoint that was not quantised";
constexpr size_t kLargestJson = 64u << 20;
constexpr int64_t kChunkElements = 1 << 20;

bool IsFloat(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBf16;
}

// As config.json spells it.
const char* TorchName(DType dtype) {
  return dtype == DType::kF32   ? "float32"
         : dtype == DType::kF16 ? "float16"
                                : "bfloat16";
}

std::string BaseName(const std::string& path) {
  return std::filesystem::path(path).filename().string();
}

class Merger {
 public:
  explicit Merger(const MergeOptions& options) : options_(options) {}
  absl::StatusOr<MergeReport> Run();

 private:
  // A tensor of a file: what the adapter does to it, if anything.
  struct Plan {
    const FoldedLayer* layer = nullptr;
    bool is_bias = false;
  };
  absl::Status Open();
  // Biases that the merged model has and the base does not.
  absl::Status PlanNewBiases();
  absl::Status PlanHead(const PeftAdapter& adapter);
  absl::Status PlanTensors();
  absl::Status WriteShard(const SafetensorsFile& file);
  absl::Status WriteTensor(const TensorView& tensor, SafetensorsWriter& writer);
  // Rows of a matrix, or a vector as one row, changed and appended.
  absl::Status WriteRows(const TensorView& tensor, const Plan& plan,
                         DType dtype, SafetensorsWriter& writer);
  absl::Status WriteNewBias(const std::string& name, const LinearSpec& spec,
                            DType dtype, SafetensorsWriter& writer);
  void Count(uint64_t bytes);
  // Rounds and appends.
  absl::Status Append(absl::string_view name, absl::Span<const float> values,
                      DType dtype, SafetensorsWriter& writer);
  absl::Status WriteIndex();
  absl::Status WriteConfig();
  DType Target(DType stored) const {
    return options_.dtype && IsFloat(stored) ? *options_.dtype : stored;
  }

  const MergeOptions& options_;
  ModelConfig config_, merged_config_;
  ordered_json config_json_;
  std::optional<TensorFiles> files_;
  std::vector<FoldedLayer> layers_;
  // The adapter's classification head and the tensor that it replaces, if any.
  std::vector<float> head_;
  std::string head_name_;
  std::map<std::string, Plan> plans_;  // by the name in the file
  // By the weight beside which they are written.
  std::map<std::string, LinearSpec> new_biases_;
  std::map<std::string, std::string> shard_of_;  // by tensor
  std::unique_ptr<NewFolder> out_;
  MergeReport report_;
};

absl::Status Merger::Open() {
  const std::string path = base::JoinPath(options_.model, kConfigName);
  CHOIR_ASSIGN_OR_RETURN(const std::string text,
                         base::ReadFile(path, kLargestJson));
  CHOIR_ASSIGN_OR_RETURN(config_, ParseModelConfig(text, path));
  CHOIR_RETURN_IF_ERROR(CheckNotQuantised(options_.model, kRemedy));
  config_json_ = ordered_json::parse(text, nullptr, false);
  CHOIR_ASSIGN_OR_RETURN(const PeftAdapter adapter,
                         ReadAdapter(options_.adapter, config_));
  CHOIR_ASSIGN_OR_RETURN(TensorFiles files,
                         TensorFiles::Open(options_.model, config_));
  files_ = std::move(files);
  CHOIR_RETURN_IF_ERROR(files_->CheckNonePacked(kRemedy));
  CHOIR_ASSIGN_OR_RETURN(layers_, FoldedLayers(config_, adapter));
  CHOIR_RETURN_IF_ERROR(PlanNewBiases());
  CHOIR_RETURN_IF_ERROR(PlanHead(adapter));
  return PlanTensors();
}

absl::Status Merger::PlanHead(const PeftAdapter& adapter) {
  const int64_t labels = adapter.options.num_labels;
  if (labels == 0) return absl::OkStatus();
  if (config_.num_labels == 0) {
    return absl::InvalidArgumentError(
        "a classification head has no place in a merged language model; keep "
        "base and adapter apart");
  }
  if (config_.num_labels != labels) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the adapter's classification head has ", labels,
        " labels, but that of ", options_.model, " has ", config_.num_labels,
        " (id2label or num_labels in config.json); merge into a base with as "
        "many, or keep base and adapter apart"));
  }
  const TensorFiles::Found found = files_->Find(kScoreName);
  if (found.view == nullptr || !IsFloat(found.view->dtype)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor '", kScoreName, "' of the base is quantised; ", kRemedy));
  }
  head_name_ = found.view->name;
  const std::vector<codec::TensorSpec>& tensors = adapter.layout.tensors();
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].name != ScoreName()) continue;
    const auto begin = adapter.values.begin() + adapter.layout.offset(i);
    head_.assign(begin, begin + tensors[i].num_elements());
  }
  return absl::OkStatus();
}

absl::Status Merger::PlanNewBiases() {
  merged_config_ = config_;
  const bool needed =
      std::any_of(layers_.begin(), layers_.end(), [](const FoldedLayer& layer) {
        return layer.needs_bias() && !layer.spec().bias;
      });
  if (!needed) return absl::OkStatus();
  ordered_json with_bias = config_json_;
  with_bias["attention_bias"] = true;
  CHOIR_ASSIGN_OR_RETURN(merged_config_,
                         ParseModelConfig(with_bias.dump(), kConfigName));
  if (!merged_config_.output_bias) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the attention outputs of ", FamilyName(config_.family),
        " models have no biases, so offsets of heads cannot be merged; keep "
        "base and adapter apart"));
  }
  config_json_ = std::move(with_bias);
  const std::vector<LinearSpec> before = LinearLayers(config_);
  const std::vector<LinearSpec> after = LinearLayers(merged_config_);
  for (size_t i = 0; i < after.size(); ++i) {
    if (!after[i].bias || before[i].bias) continue;
    const auto found = files_->Find(absl::StrCat(after[i].module, ".weight"));
    if (found.view != nullptr) new_biases_[found.view->name] = after[i];
  }
  return absl::OkStatus();
}

absl::Status Merger::PlanTensors() {
  const auto plan = [&](const FoldedLayer& layer, const char* part,
                        bool is_bias) -> absl::Status {
    const std::string name = absl::StrCat(layer.spec().module, part);
    const TensorFiles::Found found = files_->Find(name);
    if (found.view == nullptr || !IsFloat(found.view->dtype)) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor '", name,
                       "' of the base is quantised; merge into the "
                       "checkpoint that it was made from"));
    }
    plans_[found.view->name] = {&layer, is_bias};
    return absl::OkStatus();
  };
  for (const FoldedLayer& layer : layers_) {
    CHOIR_RETURN_IF_ERROR(plan(layer, ".weight", false));
    if (layer.spec().bias) CHOIR_RETURN_IF_ERROR(plan(layer, ".bias", true));
  }
  return absl::OkStatus();
}

void Merger::Count(uint64_t bytes) {
  ++report_.tensors;
  report_.bytes += bytes;
}

absl::Status Merger::Append(absl::string_view name,
                            absl::Span<const float> values, DType dtype,
                            SafetensorsWriter& writer) {
  CHOIR_RETURN_IF_ERROR(CheckFits(name, values, dtype));
  return writer.Append(FloatsToBytes(values, dtype));
}

absl::Status Merger::WriteRows(const TensorView& tensor, const Plan& plan,
                               DType dtype, SafetensorsWriter& writer) {
  const int64_t rows = tensor.shape.size() > 1 && tensor.num_elements() > 0
                           ? tensor.shape[0]
                           : 1;
  const int64_t width = tensor.num_elements() / rows;
  const int64_t chunk =
      std::max<int64_t>(1, kChunkElements / std::max<int64_t>(width, 1));
  const int64_t row_bytes = width * DTypeBytes(tensor.dtype);
  std::vector<float> columns;  // DoRA's norms where columns are outputs
  if (plan.layer != nullptr && !plan.is_bias) {
    CHOIR_ASSIGN_OR_RETURN(columns, plan.layer->ColumnFactors(tensor));
  }
  std::vector<float> values;
  for (int64_t row = 0; row < rows; row += chunk) {
    const int64_t n = std::min(chunk, rows - row);
    TensorView part = tensor;
    part.shape = {n, width};
    part.bytes = tensor.bytes.substr(row * row_bytes, n * row_bytes);
    values.resize(n * width);
    CHOIR_RETURN_IF_ERROR(ReadFloatsInto(part, absl::MakeSpan(values)));
    if (plan.layer != nullptr && plan.is_bias) {
      plan.layer->ChangeBias(absl::MakeSpan(values));
    } else if (plan.layer != nullptr) {
      for (int64_t i = 0; i < n; ++i) {
        plan.layer->ChangeRow(row + i, columns,
                              absl::MakeSpan(values).subspan(i * width, width));
      }
    }
    CHOIR_RETURN_IF_ERROR(Append(tensor.name, values, dtype, writer));
    base::ReleasePages(part.bytes);
  }
  return absl::OkStatus();
}

absl::Status Merger::WriteTensor(const TensorView& tensor,
                                 SafetensorsWriter& writer) {
  const auto found = plans_.find(tensor.name);
  const Plan plan = found == plans_.end() ? Plan() : found->second;
  const DType dtype = Target(tensor.dtype);
  const bool is_head = !head_name_.empty() && tensor.name == head_name_;
  const bool unchanged =
      plan.layer == nullptr || (plan.is_bias ? !plan.layer->changes_bias()
                                             : !plan.layer->changes_weight());
  CHOIR_RETURN_IF_ERROR(writer.Begin(tensor.name, dtype, tensor.shape));
  if (is_head) {
    CHOIR_RETURN_IF_ERROR(Append(tensor.name, head_, dtype, writer));
  } else if (unchanged && dtype == tensor.dtype) {
    CHOIR_RETURN_IF_ERROR(writer.Append(tensor.bytes));
    base::ReleasePages(tensor.bytes);
  } else {
    CHOIR_RETURN_IF_ERROR(
        WriteRows(tensor, unchanged ? Plan() : plan, dtype, writer));
  }
  if (is_head || !unchanged) ++report_.merged;
  Count(static_cast<uint64_t>(tensor.num_elements()) *
        static_cast<uint64_t>(DTypeBytes(dtype)));
  return absl::OkStatus();
}

absl::Status Merger::WriteNewBias(const std::string& name,
                                  const LinearSpec& spec, DType dtype,
                                  SafetensorsWriter& writer) {
  std::vector<float> values(spec.out_features, 0.0f);
  for (const FoldedLayer& layer : layers_) {
    if (layer.spec().module == spec.module) {
      layer.ChangeBias(absl::MakeSpan(values));
      ++report_.merged;
    }
  }
  CHOIR_RETURN_IF_ERROR(writer.Begin(name, dtype, {spec.out_features}));
  Count(values.size() * DTypeBytes(dtype));
  return Append(name, values, dtype, writer);
}

absl::Status Merger::WriteShard(const SafetensorsFile& file) {
  const std::string name = BaseName(file.source());
  CHOIR_ASSIGN_OR_RETURN(
      const std::unique_ptr<SafetensorsWriter> writer,
      SafetensorsWriter::Create(base::JoinPath(out_->partial(), name),
                                options_.stop));
  for (const TensorView& tensor : file.tensors()) {
    CHOIR_RETURN_IF_ERROR(WriteTensor(tensor, *writer));
    shard_of_[tensor.name] = name;
    const auto bias = new_biases_.find(tensor.name);
    if (bias == new_biases_.end()) continue;
    const std::string bias_name =
        absl::StrCat(absl::StripSuffix(tensor.name, ".weight"), ".bias");
    CHOIR_RETURN_IF_ERROR(
        WriteNewBias(bias_name, bias->second, Target(tensor.dtype), *writer));
    shard_of_[bias_name] = name;
  }
  std::map<std::string, std::string> metadata = file.metadata();
  if (metadata.empty()) metadata["format"] = "pt";
  return writer->Finish(metadata);
}

absl::Status Merger::WriteIndex() {
  const std::string from = base::JoinPath(options_.model, kIndexName);
  if (!base::FileExists(from) || shard_of_.begin()->second == kSingleName) {
    return absl::OkStatus();
  }
  ordered_json index;
  index["metadata"]["total_size"] = report_.bytes;
  for (const auto& [tensor, shard] : shard_of_) {
    index["weight_map"][tensor] = shard;
  }
  return base::WriteFileAtomic(base::JoinPath(out_->partial(), kIndexName),
                               index.dump(2) + "\n");
}

absl::Status Merger::WriteConfig() {
  if (options_.dtype) {
    const char* name = TorchName(*options_.dtype);
    if (config_json_.contains("dtype")) config_json_["dtype"] = name;
    config_json_["torch_dtype"] = name;
  }
  return base::WriteFileAtomic(
      base::JoinPath(out_->partial(), kConfigName),
      config_json_.dump(2, ' ', false, ordered_json::error_handler_t::replace) +
          "\n");
}

absl::StatusOr<MergeReport> Merger::Run() {
  CHOIR_RETURN_IF_ERROR(Open());
  CHOIR_ASSIGN_OR_RETURN(out_, NewFolder::Create(options_.out));
  // LoFiT's bias is made of the weight, which may stand in another shard.
  for (FoldedLayer& layer : layers_) {
    const std::string name = absl::StrCat(layer.spec().module, ".weight");
    CHOIR_RETURN_IF_ERROR(layer.ReadWeight(*files_->Find(name).view));
  }
  for (const auto& file : files_->files()) {
    CHOIR_RETURN_IF_ERROR(WriteShard(*file));
  }
  CHOIR_RETURN_IF_ERROR(CopySideFiles(options_.model, out_->partial()));
  CHOIR_RETURN_IF_ERROR(WriteIndex());
  CHOIR_RETURN_IF_ERROR(WriteConfig());
  CHOIR_RETURN_IF_ERROR(out_->Finish());
  return report_;
}

}  // namespace

absl::StatusOr<MergeReport> MergeAdapter(const MergeOptions& options) {
  if (options.dtype && !IsFloat(*options.dtype)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a merged model holds F32, F16 or BF16, not ",
                     DTypeName(*options.dtype)));
  }
  return Merger(options).Run();
}

}  // namespace choir::model
