#include "model/adapter/peft_folder.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "base/files.h"
#include "base/json_text.h"
#include "base/status_macros.h"
#include "model/adapter/lora_layout.h"
#include "model/adapter/targets.h"
#include "model/checkpoint/safetensors.h"

namespace choir::model {
namespace {

// Of an adapter that is completed: 16 GiB.
constexpr int64_t kMostElements = int64_t{1} << 32;

absl::StatusOr<AdapterConfigFile> ReadConfig(const std::string& directory) {
  const std::string path = base::JoinPath(directory, kAdapterConfigName);
  const absl::StatusOr<std::string> text =
      base::ReadFile(path, base::JsonLimits().max_bytes);
  if (absl::IsNotFound(text.status())) {
    return absl::NotFoundError(absl::StrCat(
        text.status().message(), "; give the folder of a PEFT adapter, with ",
        kAdapterConfigName, " and ", kAdapterModelName));
  }
  CHOIR_RETURN_IF_ERROR(text.status());
  return ParseAdapterConfig(*text, path);
}

absl::Status Misfit(const std::string& directory, const absl::Status& why) {
  return absl::Status(
      why.code(), absl::StrCat(base::JoinPath(directory, kAdapterConfigName),
                               " does not fit the model: ", why.message()));
}

// Outputs of the classification head that a folder holds.
absl::StatusOr<int> HeadOutputs(const std::string& directory) {
  const std::string path = base::JoinPath(directory, kAdapterModelName);
  CHOIR_ASSIGN_OR_RETURN(const SafetensorsFile file,
                         SafetensorsFile::Open(path));
  const TensorView* score = file.Find(ScoreName());
  if (score == nullptr || score->shape.size() != 2 || score->shape[0] < 1 ||
      score->shape[0] > (1 << 20)) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": modules_to_save has a score, but there is no tensor '",
        ScoreName(), "' [labels, hidden]"));
  }
  return static_cast<int>(score->shape[0]);
}

absl::Status WriteFiles(const std::string& directory,
                        const std::string& weights, const std::string& config) {
  CHOIR_RETURN_IF_ERROR(base::MakeDirectories(directory));
  CHOIR_RETURN_IF_ERROR(base::WriteFileAtomic(
      base::JoinPath(directory, kAdapterModelName), weights));
  return base::WriteFileAtomic(base::JoinPath(directory, kAdapterConfigName),
                               config);
}

}  // namespace

std::string EncodeAdapterFile(const codec::Layout& layout,
                              absl::Span<const float> values, DType dtype) {
  CHOIR_CHECK(static_cast<int64_t>(values.size()) == layout.num_elements());
  const std::string bytes = FloatsToBytes(values, dtype);
  const int64_t width = DTypeBytes(dtype);
  std::vector<TensorView> tensors;
  for (size_t i = 0; i < layout.tensors().size(); ++i) {
    const codec::TensorSpec& spec = layout.tensors()[i];
    TensorView tensor;
    tensor.name = spec.name;
    tensor.dtype = dtype;
    tensor.shape = spec.shape;
    tensor.bytes = absl::string_view(bytes).substr(width * layout.offset(i),
                                                   width * spec.num_elements());
    tensors.push_back(std::move(tensor));
  }
  return EncodeSafetensors(std::move(tensors));
}

absl::StatusOr<std::vector<float>> DecodeAdapterFile(
    absl::string_view bytes, const codec::Layout& layout,
    absl::string_view source) {
  CHOIR_ASSIGN_OR_RETURN(const SafetensorsFile file,
                         ParseSafetensors(bytes, source));
  std::vector<float> values(layout.num_elements());
  for (size_t i = 0; i < layout.tensors().size(); ++i) {
    const codec::TensorSpec& spec = layout.tensors()[i];
    CHOIR_ASSIGN_OR_RETURN(const TensorView* tensor,
                           file.Get(spec.name, spec.shape));
    const absl::Span<float> out =
        absl::MakeSpan(values).subspan(layout.offset(i), spec.num_elements());
    CHOIR_RETURN_IF_ERROR(ReadFloatsInto(*tensor, out));
    for (const float value : out) {
      if (!std::isfinite(value)) {
        return absl::InvalidArgumentError(
            absl::StrCat(source, ": tensor '", spec.name,
                         "' holds values that are not finite"));
      }
    }
  }
  if (file.tensors().size() != layout.tensors().size()) {
    for (const TensorView& tensor : file.tensors()) {
      const auto& expected = layout.tensors();
      if (std::none_of(expected.begin(), expected.end(), [&](const auto& spec) {
            return spec.name == tensor.name;
          })) {
        return absl::InvalidArgumentError(
            absl::StrCat(source, ": tensor '", tensor.name,
                         "' is not one of this adapter's ", expected.size()));
      }
    }
  }
  return values;
}

absl::Status WritePeftFolder(const std::string& directory,
                             const config::AdapterOptions& options,
                             const codec::Layout& layout,
                             absl::Span<const float> values,
                             absl::string_view base_model) {
  return WriteFiles(directory, EncodeAdapterFile(layout, values),
                    AdapterConfigJson(options, base_model));
}

absl::Status WritePeftFolder(const std::string& directory,
                             const PeftAdapter& adapter, DType dtype) {
  const codec::Layout& layout = adapter.layout;
  for (size_t i = 0; i < layout.tensors().size(); ++i) {
    const codec::TensorSpec& spec = layout.tensors()[i];
    const auto values = absl::MakeSpan(adapter.values)
                            .subspan(layout.offset(i), spec.num_elements());
    CHOIR_RETURN_IF_ERROR(CheckFits(spec.name, values, dtype));
  }
  return WriteFiles(directory, EncodeAdapterFile(layout, adapter.values, dtype),
                    AdapterConfigJson(adapter.options, adapter.base_model));
}

absl::Status WriteTrainedAdapter(const std::string& directory,
                                 const ModelConfig& config,
                                 const config::AdapterOptions& options,
                                 absl::Span<const float> values,
                                 absl::string_view base_model) {
  CHOIR_ASSIGN_OR_RETURN(const codec::Layout layout,
                         StoredLayout(config, options));
  CHOIR_ASSIGN_OR_RETURN(const std::vector<float> stored,
                         StoredValues(config, options, values));
  return WritePeftFolder(directory, WithTargets(config, options), layout,
                         stored, base_model);
}

absl::Status CompletePeftFolder(const std::string& directory) {
  CHOIR_ASSIGN_OR_RETURN(AdapterConfigFile file, ReadConfig(directory));
  if (file.options.kind != config::AdapterKind::kFrozenA) {
    return absl::OkStatus();
  }
  const int64_t rank = file.options.rank;
  const std::string path = base::JoinPath(directory, kAdapterModelName);
  CHOIR_ASSIGN_OR_RETURN(const SafetensorsFile stored,
                         SafetensorsFile::Open(path));
  std::vector<codec::TensorSpec> specs;
  for (const TensorView& b : stored.tensors()) {
    if (file.has_head && b.name == ScoreName() && b.shape.size() == 2) {
      file.options.num_labels = static_cast<int>(b.shape[0]);
      specs.push_back({b.name, b.shape});
      continue;
    }
    absl::string_view module = b.name;
    const bool is_b = absl::ConsumePrefix(&module, LoraPrefix()) &&
                      absl::ConsumeSuffix(&module, ".lora_B.weight");
    const auto inputs = file.frozen_inputs.find(NumberlessPath(module));
    if (!is_b || inputs == file.frozen_inputs.end() || b.shape.size() != 2 ||
        b.shape[1] != rank) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": tensor '", b.name, "' is not a B of rank ", rank,
          " of a layer that ", kAdapterConfigName, " names"));
    }
    specs.push_back({LoraAName(module), {rank, inputs->second}});
    specs.push_back({b.name, b.shape});
  }
  CHOIR_ASSIGN_OR_RETURN(const codec::Layout layout,
                         codec::Layout::Create(std::move(specs)));
  if (layout.num_elements() > kMostElements) {
    return absl::InvalidArgumentError(absl::StrCat(
        directory, ": the adapter would have ", layout.num_elements(),
        " numbers; the limit is ", kMostElements));
  }
  std::vector<float> values = InitialAdapter(layout, file.options.frozen_seed);
  for (size_t i = 0; i < layout.tensors().size(); ++i) {
    const TensorView* b = stored.Find(layout.tensors()[i].name);
    if (b == nullptr) continue;  // an A
    CHOIR_RETURN_IF_ERROR(ReadFloatsInto(
        *b,
        absl::MakeSpan(values).subspan(layout.offset(i), b->num_elements())));
  }
  return WritePeftFolder(directory, file.options, layout, values,
                         file.base_model);
}

absl::StatusOr<PeftAdapter> ReadPeftFolder(const std::string& directory,
                                           const ModelConfig& config) {
  CHOIR_ASSIGN_OR_RETURN(AdapterConfigFile file, ReadConfig(directory));
  PeftAdapter adapter;
  adapter.options = std::move(file.options);
  adapter.base_model = std::move(file.base_model);
  if (adapter.options.kind != config::AdapterKind::kLofit) {
    const absl::Status applied =
        ApplyTargetRules(config, file.rules, adapter.options);
    if (!applied.ok()) return Misfit(directory, applied);
  }
  if (file.has_head) {
    CHOIR_ASSIGN_OR_RETURN(adapter.options.num_labels, HeadOutputs(directory));
  }
  // What the file holds: without the A of a job's frozen one.
  absl::StatusOr<codec::Layout> layout = AdapterLayout(config, adapter.options);
  if (!layout.ok()) return Misfit(directory, layout.status());
  const std::string path = base::JoinPath(directory, kAdapterModelName);
  CHOIR_ASSIGN_OR_RETURN(const std::shared_ptr<const base::MappedFile> mapping,
                         base::MappedFile::Open(path));
  CHOIR_ASSIGN_OR_RETURN(adapter.values,
                         DecodeAdapterFile(mapping->bytes(), *layout, path));
  CHOIR_ASSIGN_OR_RETURN(adapter.values,
                         StoredValues(config, adapter.options, adapter.values));
  CHOIR_ASSIGN_OR_RETURN(adapter.layout, StoredLayout(config, adapter.options));
  if (adapter.options.kind == config::AdapterKind::kFrozenA) {
    adapter.options.kind = config::AdapterKind::kLora;
  }
  return adapter;
}

}  // namespace choir::model
