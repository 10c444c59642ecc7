#include "model/loaded_model.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "model/checkpoint/base_folder.h"
#include "model/checkpoint/model_config.h"
#include "model/checkpoint/packed_checkpoint.h"
#include "model/checkpoint/quantize_checkpoint.h"
#include "model/checkpoint/safetensors.h"
#include "model/checkpoint/tensor_files.h"
#include "model/torch/guard.h"
#include "model/torch/span.h"

namespace choir::model {
namespace {

// `type`: what the model computes in where `device` is.
absl::StatusOr<at::Tensor> ToTensor(
    const std::shared_ptr<const SafetensorsFile>& file, const TensorView& view,
    at::Device device, at::ScalarType type) {
  const auto address = reinterpret_cast<uintptr_t>(view.bytes.data());
  const bool as_stored =
      (view.dtype == DType::kF32 && address % alignof(float) == 0) ||
      (view.dtype == DType::kBf16 && address % 2 == 0 && device.is_cuda());
  at::Tensor tensor;
  if (as_stored) {
    // The mapping is private and read-only; the tensor keeps the file open and
    // is never written.
    tensor = at::from_blob(
        const_cast<char*>(view.bytes.data()), view.shape, [file](void*) {},
        at::TensorOptions().dtype(view.dtype == DType::kF32 ? at::kFloat
                                                            : at::kBFloat16));
  } else {
    tensor = at::empty(view.shape, at::kFloat);
    const absl::Status read = ReadFloatsInto(view, SpanOf(tensor));
    if (!read.ok()) {
      return absl::Status(read.code(),
                          absl::StrCat(file->source(), ": ", read.message()));
    }
  }
  if (device.is_cuda()) tensor = tensor.to(device, type);
  // A copy needs the file no longer.
  if (view.dtype != DType::kF32 || device.is_cuda()) {
    base::ReleasePages(view.bytes);
  }
  return tensor;
}

// How to hold the weights: what was asked for, if the folder has it.
absl::StatusOr<absl::optional<WeightFormat>> HeldFormat(
    const std::string& directory, const LoadOptions& options) {
  CHOIR_ASSIGN_OR_RETURN(const absl::optional<WeightFormat> stored,
                         ReadQuantization(directory));
  if (stored && options.precision && *stored != *options.precision) {
    return absl::InvalidArgumentError(absl::StrCat(
        directory, " is quantised to ", WeightFormatName(*stored),
        ", but precision ", WeightFormatName(*options.precision),
        " was asked for; leave the precision away, or take the checkpoint that "
        "was not quantised"));
  }
  if (options.precision == WeightFormat::kFloat32) {
    return absl::optional<WeightFormat>();
  }
  return stored ? stored : options.precision;
}

// Embedding or head, in 16 bits on the CPU: mapped if the file has bfloat16.
absl::StatusOr<at::Tensor> ToHalf(const TensorFiles& files,
                                  const std::string& name,
                                  absl::Span<const int64_t> shape) {
  CHOIR_ASSIGN_OR_RETURN(const QuantizedMatrix matrix,
                         LoadWeight(files, name, shape[0], shape[1],
                                    /*transposed=*/false, WeightFormat::kBf16));
  return at::from_blob(
      const_cast<char*>(matrix.parts().codes.data()),
      at::IntArrayRef(shape.data(), shape.size()),
      [owner = matrix.parts().owner](void*) {},
      at::TensorOptions().dtype(at::kBFloat16));
}

absl::StatusOr<DecoderWeights> LoadWeights(const ModelConfig& config,
                                           const TensorFiles& files,
                                           absl::optional<WeightFormat> format,
                                           at::Device device,
                                           at::ScalarType type) {
  const TensorNames names = ModelTensorNames(config);
  const FindTensor find =
      [&](const codec::TensorSpec& spec) -> absl::StatusOr<at::Tensor> {
    if (format && device.is_cpu() &&
        (spec.name == names.embedding || spec.name == names.head)) {
      return ToHalf(files, spec.name, spec.shape);
    }
    const TensorFiles::Found found = files.Find(spec.name);
    return ToTensor(found.file, *found.view, device, type);
  };
  const PackLinear pack = [&](const LinearSpec& linear)
      -> absl::StatusOr<std::shared_ptr<const PackedWeight>> {
    if (!format) return std::shared_ptr<const PackedWeight>();
    CHOIR_ASSIGN_OR_RETURN(
        QuantizedMatrix matrix,
        LoadWeight(files, absl::StrCat(linear.module, ".weight"),
                   linear.out_features, linear.in_features, linear.transposed,
                   *format));
    return std::make_shared<const PackedWeight>(std::move(matrix), device);
  };
  return CollectWeights(config, find, pack);
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
    const std::string& directory, const LoadOptions& options) {
  CHOIR_ASSIGN_OR_RETURN(
      std::shared_ptr<const LoadedModel> model,
      LoadedModel::LoadFolder(directory, options, /*with_tokenizer=*/true));
  return model;
}

absl::StatusOr<std::shared_ptr<const LoadedModel>> LoadedModel::LoadFolder(
    const std::string& directory, const LoadOptions& options,
    bool with_tokenizer) {
  CHOIR_ASSIGN_OR_RETURN(ModelConfig config, LoadModelConfig(base::JoinPath(
                                                 directory, "config.json")));
  CHOIR_RETURN_IF_ERROR(HoldExperts(options.experts, config));
  std::unique_ptr<const Tokenizer> tokenizer;
  if (with_tokenizer) {
    CHOIR_ASSIGN_OR_RETURN(tokenizer, LoadTokenizerFor(config, directory));
  }
  CHOIR_ASSIGN_OR_RETURN(const TensorFiles files,
                         TensorFiles::Open(directory, config));
  CHOIR_ASSIGN_OR_RETURN(const absl::optional<WeightFormat> format,
                         HeldFormat(directory, options));
  if (!format) CHOIR_RETURN_IF_ERROR(files.CheckNonePacked(kUnannouncedRemedy));
  return TorchGuard(
      absl::StrCat("loading ", directory),
      [&]() -> absl::StatusOr<std::shared_ptr<const LoadedModel>> {
        CHOIR_ASSIGN_OR_RETURN(const at::Device where,
                               PickDevice(options.device));
        // CUDA computes in bfloat16, unless float32 was asked for by name.
        const bool wide =
            where.is_cpu() || options.precision == WeightFormat::kFloat32;
        CHOIR_ASSIGN_OR_RETURN(DecoderWeights weights,
                               LoadWeights(config, files, format, where,
                                           wide ? at::kFloat : at::kBFloat16));
        return std::make_shared<const LoadedModel>(
            std::move(tokenizer),
            std::make_unique<const Decoder>(config, std::move(weights)));
      });
}

const Tokenizer& LoadedModel::tokenizer() const {
  CHOIR_CHECK(tokenizer_ != nullptr);
  return *tokenizer_;
}

std::string LoadedModel::device() const {
  return decoder_->device().is_cuda()
             ? absl::StrCat("cuda:", decoder_->device().index())
             : "cpu";
}

}  // namespace choir::model
