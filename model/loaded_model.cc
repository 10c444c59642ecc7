#include "model/loaded_model.h"

#include <map>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "model/checkpoint/json_text.h"
#include "model/checkpoint/model_config.h"
#include "model/checkpoint/safetensors.h"
#include "model/torch_guard.h"

namespace choir::model {
namespace {

// The files that hold a model's tensors: one, or several with an index.
absl::StatusOr<std::vector<std::shared_ptr<const SafetensorsFile>>> OpenShards(
    const std::string& directory) {
  std::vector<std::string> names = {"model.safetensors"};
  const std::string index =
      base::JoinPath(directory, "model.safetensors.index.json");
  if (!base::FileExists(base::JoinPath(directory, names[0])) &&
      base::FileExists(index)) {
    CHOIR_ASSIGN_OR_RETURN(const std::string text,
                           base::ReadFile(index, 64u << 20));
    CHOIR_ASSIGN_OR_RETURN(
        const nlohmann::json json,
        ParseJsonObject(text, index, {.max_bytes = 64u << 20}));
    const auto map = json.find("weight_map");
    if (map == json.end() || !map->is_object()) {
      return absl::InvalidArgumentError(
          absl::StrCat(index, " has no \"weight_map\""));
    }
    std::map<std::string, bool> distinct;
    for (const auto& entry : *map) {
      if (!entry.is_string() ||
          absl::StrContains(entry.get<std::string>(), "/")) {
        return absl::InvalidArgumentError(absl::StrCat(
            index, ": \"weight_map\" must name files of the same folder"));
      }
      distinct[entry.get<std::string>()] = true;
    }
    names.clear();
    for (const auto& [name, unused] : distinct) names.push_back(name);
  }
  std::vector<std::shared_ptr<const SafetensorsFile>> files;
  for (const std::string& name : names) {
    CHOIR_ASSIGN_OR_RETURN(
        SafetensorsFile file,
        SafetensorsFile::Open(base::JoinPath(directory, name)));
    files.push_back(std::make_shared<const SafetensorsFile>(std::move(file)));
  }
  return files;
}

absl::StatusOr<at::Tensor> ToTensor(
    const std::shared_ptr<const SafetensorsFile>& file, const TensorView& view,
    at::Device device) {
  const auto address = reinterpret_cast<uintptr_t>(view.bytes.data());
  at::Tensor tensor;
  if (view.dtype == DType::kF32 && address % alignof(float) == 0) {
    // The mapping is private and read-only; the tensor keeps the file open and
    // is never written.
    tensor = at::from_blob(
        const_cast<char*>(view.bytes.data()), view.shape,
        [file](void*) {}, at::TensorOptions().dtype(at::kFloat));
  } else {
    tensor = at::empty(view.shape, at::kFloat);
    CHOIR_RETURN_IF_ERROR(ReadFloatsInto(
        view, absl::MakeSpan(tensor.data_ptr<float>(), tensor.numel())));
  }
  if (device.is_cuda()) tensor = tensor.to(device, at::kBFloat16);
  return tensor;
}

absl::StatusOr<at::Device> PickDevice(DeviceKind kind) {
  const bool cuda = compat::CudaAvailable();
  if (kind == DeviceKind::kCuda && !cuda) {
    return absl::FailedPreconditionError(
        "device \"cuda\" was asked for, but LibTorch finds no CUDA device; use "
        "\"auto\" or \"cpu\"");
  }
  if (kind == DeviceKind::kCpu || !cuda) return at::Device(at::kCPU);
  return at::Device(at::kCUDA, 0);
}

}  // namespace

absl::StatusOr<std::shared_ptr<const BaseModel>> BaseModel::Load(
    const std::string& directory, DeviceKind device) {
  CHOIR_ASSIGN_OR_RETURN(
      std::shared_ptr<const LoadedModel> model,
      LoadedModel::LoadFolder(directory, device, /*with_tokenizer=*/true));
  return model;
}

absl::StatusOr<std::shared_ptr<const LoadedModel>> LoadedModel::LoadFolder(
    const std::string& directory, DeviceKind device, bool with_tokenizer) {
  CHOIR_ASSIGN_OR_RETURN(
      const ModelConfig config,
      LoadModelConfig(base::JoinPath(directory, "config.json")));
  std::unique_ptr<const Tokenizer> tokenizer;
  if (with_tokenizer) {
    CHOIR_ASSIGN_OR_RETURN(tokenizer, Tokenizer::LoadFolder(directory));
    if (tokenizer->vocab_size() > config.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          directory, ": the tokenizer has ", tokenizer->vocab_size(),
          " tokens, but the model only ", config.vocab_size, " (vocab_size)"));
    }
  }
  CHOIR_ASSIGN_OR_RETURN(const auto files, OpenShards(directory));
  return TorchGuard(
      absl::StrCat("loading ", directory),
      [&]() -> absl::StatusOr<std::shared_ptr<const LoadedModel>> {
        CHOIR_ASSIGN_OR_RETURN(const at::Device where, PickDevice(device));
        CHOIR_ASSIGN_OR_RETURN(
            LlamaWeights weights,
            CollectWeights(
                config,
                [&](const codec::TensorSpec& spec)
                    -> absl::StatusOr<at::Tensor> {
                  auto file = files[0];
                  for (const auto& candidate : files) {
                    if (candidate->Find(spec.name) != nullptr) file = candidate;
                  }
                  CHOIR_ASSIGN_OR_RETURN(const TensorView* view,
                                         file->Get(spec.name, spec.shape));
                  return ToTensor(file, *view, where);
                }));
        return std::make_shared<const LoadedModel>(
            std::move(tokenizer),
            std::make_unique<const Llama>(config, std::move(weights)));
      });
}

const Tokenizer& LoadedModel::tokenizer() const {
  CHOIR_CHECK(tokenizer_ != nullptr);
  return *tokenizer_;
}

std::string LoadedModel::device() const {
  return llama_->device().is_cuda()
             ? absl::StrCat("cuda:", llama_->device().index())
             : "cpu";
}

}  // namespace choir::model
