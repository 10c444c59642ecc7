// One small model on the CPU and on a GPU.
#ifndef CHOIR_TESTS_GPU_MODEL_TWO_DEVICES_H_
#define CHOIR_TESTS_GPU_MODEL_TWO_DEVICES_H_

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "gtest/gtest.h"
#include "model/loaded_model.h"
#include "tests/unit/model/tiny_model.h"

namespace choir::tests {

// CUDA if there is a device. With CHOIR_GPU_TEST_DEVICE=cpu the CPU stands in
// for it, which tries the tests themselves.
inline absl::optional<model::DeviceKind> GpuUnderTest() {
  if (model::compat::CudaAvailable()) return model::DeviceKind::kCuda;
  const char* device = std::getenv("CHOIR_GPU_TEST_DEVICE");
  if (device != nullptr && std::strcmp(device, "cpu") == 0) {
    return model::DeviceKind::kCpu;
  }
  return absl::nullopt;
}

#define CHOIR_SKIP_WITHOUT_GPU()                   \
  if (!::choir::tests::GpuUnderTest().has_value()) \
  GTEST_SKIP() << "LibTorch finds no CUDA device"

// Sizes that kernels for half precision like, few parameters.
inline model::ModelConfig GpuConfig(
    model::Family family = model::Family::kLlama) {
  model::ModelConfig config = TinyConfig();
  config.family = family;
  config.hidden_size = 64;
  config.intermediate_size = 96;
  config.head_dim = 16;
  config.max_positions = 128;
  if (family == model::Family::kMixtral) {
    config.moe.num_experts = 4;
    config.moe.experts_per_token = 2;
    config.moe.intermediate_size = config.intermediate_size;
    config.tie_word_embeddings = false;
  }
  if (family == model::Family::kGpt2) {
    config.norm = model::NormKind::kLayer;
    config.positions = model::Positions::kLearned;
    config.fused_qkv = true;
    config.qkv_bias = config.output_bias = config.mlp_bias = true;
    config.gated_mlp = false;
    config.activation = model::Activation::kGeluTanh;
    config.num_kv_heads = config.num_heads;
  }
  return config;
}

// A small adapter of one kind. `targets` are as in PEFT; LoFiT has none.
inline config::AdapterOptions SmallAdapter(config::AdapterKind kind,
                                           std::vector<std::string> targets) {
  config::AdapterOptions options;
  options.kind = kind;
  options.rank = 4;
  options.alpha = 8;
  options.frozen_seed = 3;
  if (kind == config::AdapterKind::kLofit) {
    options.lofit_heads = 3;
    return options;
  }
  options.target_modules = std::move(targets);
  if (kind == config::AdapterKind::kIa3) {
    options.feedforward_modules = {"down_proj"};
  }
  return options;
}

inline config::TrainingOptions FewSteps(int steps) {
  config::TrainingOptions options;
  options.objective = config::Objective::kCausalLm;
  options.local_steps = steps;
  options.local_epochs = 0;
  options.batch_size = 4;
  options.learning_rate = 1e-2;
  options.max_sequence_length = 64;
  return options;
}

inline std::shared_ptr<const model::LoadedModel> LoadOn(
    const std::string& folder, model::DeviceKind device,
    absl::optional<model::WeightFormat> precision) {
  model::LoadOptions options;
  options.device = device;
  options.precision = precision;
  auto loaded = model::LoadedModel::LoadFolder(folder, options, true);
  CHOIR_CHECK(loaded.ok());
  return *std::move(loaded);
}

// The model in float32 on the CPU, which is the truth, and on the GPU.
struct TwoDevices {
  explicit TwoDevices(const model::ModelConfig& config,
                      absl::optional<model::WeightFormat> precision =
                          model::WeightFormat::kFloat32)
      : folder(WriteTinyModel(config)),
        cpu(LoadOn(folder, model::DeviceKind::kCpu,
                   precision == model::WeightFormat::kFloat32
                       ? absl::optional<model::WeightFormat>()
                       : precision)),
        gpu(LoadOn(folder, *GpuUnderTest(), precision)) {}
  const std::string folder;
  const std::shared_ptr<const model::LoadedModel> cpu, gpu;
};

// |a - b| / |b|, on the CPU.
inline double Apart(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor wide = b.cpu().to(at::kDouble);
  return ((a.cpu().to(at::kDouble) - wide).norm() / (wide.norm() + 1e-30))
      .item<double>();
}

}  // namespace choir::tests

#endif  // CHOIR_TESTS_GPU_MODEL_TWO_DEVICES_H_
