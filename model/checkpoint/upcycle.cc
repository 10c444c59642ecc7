#include "model/checkpoint/upcycle.h"

#include <map>
#include <memory>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/files.h"
#include "base/sim_random.h"
#include "base/status_macros.h"
#include "model/checkpoint/families.h"
#include "model/checkpoint/new_folder.h"
#include "model/checkpoint/packed_checkpoint.h"
#include "model/checkpoint/safetensors.h"
#include "model/checkpoint/side_files.h"
#include "model/checkpoint/tensor_files.h"

namespace choir::model {
namespace {

constexpr char kModelName[] = "model.safetensors";
constexpr int64_t kMostExperts = 4096;
constexpr char kRemedy[] = "upcycle the checkpoint that was not quantised";

std::string RouterBytes(const std::string& name, int64_t elements, DType dtype,
                        const UpcycleOptions& options) {
  base::SimRandom random(base::DeriveSeed(options.seed, {"router", name}));
  std::vector<float> values(elements);
  for (float& value : values) {
    value = static_cast<float>(random.Normal() * options.router_stddev);
  }
  return FloatsToBytes(values, dtype);
}

// The dense MLP's name of an expert's layer: role by role the same.
std::string DenseModule(const std::vector<LinearSpec>& dense,
                        const LinearSpec& expert) {
  for (const LinearSpec& linear : dense) {
    if (linear.layer == expert.layer && linear.role == expert.role) {
      return linear.module;
    }
  }
  return "";
}

absl::Status WriteTensors(const ModelConfig& dense, const ModelConfig& moe,
                          const TensorFiles& files,
                          const UpcycleOptions& options,
                          SafetensorsWriter& writer) {
  const std::string embedding = ModelTensorNames(dense).embedding;
  const DType dtype = files.Find(embedding).view->dtype;
  // Routers are written in it: it must be one of those that numbers have.
  CHOIR_RETURN_IF_ERROR(
      files.RowsOf(embedding, dense.vocab_size, dense.hidden_size).status());
  const std::vector<LinearSpec> layers = LinearLayers(dense);
  std::map<std::string, std::string> experts;  // a tensor's dense source
  for (const LinearSpec& linear : LinearLayers(moe)) {
    if (linear.expert < 0) continue;
    experts[absl::StrCat(linear.module, ".weight")] =
        absl::StrCat(DenseModule(layers, linear), ".weight");
  }
  for (const codec::TensorSpec& spec : ModelTensors(moe)) {
    TensorView tensor;
    tensor.name = spec.name;
    tensor.shape = spec.shape;
    tensor.dtype = dtype;
    std::string bytes;
    if (absl::EndsWith(spec.name, ".gate.weight")) {
      bytes = RouterBytes(spec.name, spec.num_elements(), dtype, options);
      tensor.bytes = bytes;
    } else {
      const auto expert = experts.find(spec.name);
      const TensorFiles::Found found =
          files.Find(expert == experts.end() ? spec.name : expert->second);
      tensor.dtype = found.view->dtype;
      tensor.bytes = found.view->bytes;
    }
    CHOIR_RETURN_IF_ERROR(writer.Add(tensor));
  }
  return writer.Finish();
}

}  // namespace

absl::StatusOr<ModelConfig> UpcycledConfig(const ModelConfig& dense,
                                           const UpcycleOptions& options) {
  if (options.experts < 2 || options.experts > kMostExperts) {
    return absl::InvalidArgumentError(
        absl::StrCat("experts is ", options.experts, "; 2 to ", kMostExperts));
  }
  if (options.experts_per_token < 1 ||
      options.experts_per_token > options.experts) {
    return absl::InvalidArgumentError(
        absl::StrCat("experts per token is ", options.experts_per_token,
                     "; 1 to the ", options.experts, " experts"));
  }
  ModelConfig moe = dense;
  if (dense.family == Family::kLlama || dense.family == Family::kMistral) {
    moe.family = Family::kMixtral;
  } else if (dense.family == Family::kQwen3) {
    moe.family = Family::kQwen3Moe;
  } else {
    return absl::InvalidArgumentError(absl::StrCat(
        "a ", FamilyName(dense.family),
        " model cannot be upcycled; llama, mistral and qwen3 can"));
  }
  const bool qwen = moe.family == Family::kQwen3Moe;
  if (dense.mlp_bias || (dense.qkv_bias && !qwen) ||
      (dense.output_bias && !qwen)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the model has biases, which ", FamilyName(moe.family), " has not"));
  }
  if (!dense.sliding_layers.empty()) {
    return absl::InvalidArgumentError(
        "the model's attention slides in some blocks only; a model with "
        "experts slides in all or none");
  }
  moe.moe.num_experts = options.experts;
  moe.moe.experts_per_token = options.experts_per_token;
  moe.moe.intermediate_size = dense.intermediate_size;
  moe.moe.renormalise = true;
  return moe;
}

absl::Status UpcycleFolder(const std::string& from, const std::string& to,
                           const UpcycleOptions& options, const StopFn& stop) {
  CHOIR_ASSIGN_OR_RETURN(const ModelConfig dense,
                         LoadModelConfig(base::JoinPath(from, "config.json")));
  CHOIR_ASSIGN_OR_RETURN(const ModelConfig moe, UpcycledConfig(dense, options));
  CHOIR_RETURN_IF_ERROR(CheckNotQuantised(from, kRemedy));
  CHOIR_ASSIGN_OR_RETURN(const TensorFiles files,
                         TensorFiles::Open(from, dense));
  CHOIR_RETURN_IF_ERROR(files.CheckNonePacked(kRemedy));
  CHOIR_ASSIGN_OR_RETURN(const std::unique_ptr<NewFolder> target,
                         NewFolder::Create(to));
  const std::string& out = target->partial();
  CHOIR_ASSIGN_OR_RETURN(
      const std::unique_ptr<SafetensorsWriter> writer,
      SafetensorsWriter::Create(base::JoinPath(out, kModelName), stop));
  CHOIR_RETURN_IF_ERROR(WriteTensors(dense, moe, files, options, *writer));
  CHOIR_RETURN_IF_ERROR(CopySideFiles(from, out));
  CHOIR_RETURN_IF_ERROR(base::WriteFileAtomic(
      base::JoinPath(out, "config.json"), ModelConfigJson(moe)));
  return target->Finish();
}

}  // namespace choir::model
