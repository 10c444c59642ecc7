#include "model/checkpoint/base_folder.h"

#include <algorithm>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "model/checkpoint/safetensors.h"
#include "model/tokenizer/tokenizer.h"

namespace choir::model {
namespace {

// What model/adapter/peft_folder.h calls an adapter's weights.
constexpr char kAdapterWeights[] = "adapter_model.safetensors";

std::string BlockName(int64_t layer, absl::string_view part) {
  return absl::StrCat("model.layers.", layer, ".", part, ".weight");
}

absl::Status CheckTokenizer(const std::string& folder,
                            const ModelConfig& config) {
  CHOIR_ASSIGN_OR_RETURN(const std::unique_ptr<const Tokenizer> tokenizer,
                         Tokenizer::LoadFolder(folder));
  if (tokenizer->vocab_size() <= config.vocab_size) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      folder, ": the tokenizer has ", tokenizer->vocab_size(),
      " tokens, but the model only ", config.vocab_size, " (vocab_size)"));
}

absl::Status CheckTensors(const std::string& folder,
                          const ModelConfig& config) {
  CHOIR_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                         base::ListDirectory(folder));
  std::vector<SafetensorsFile> files;
  for (const std::string& name : names) {
    if (!absl::EndsWith(name, ".safetensors") || name == kAdapterWeights) {
      continue;
    }
    CHOIR_ASSIGN_OR_RETURN(
        SafetensorsFile file,
        SafetensorsFile::Open(base::JoinPath(folder, name)));
    files.push_back(std::move(file));
  }
  if (files.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(folder, " has no *.safetensors file"));
  }
  for (const codec::TensorSpec& spec : LlamaTensors(config)) {
    auto file = std::find_if(
        files.begin(), files.end(), [&spec](const SafetensorsFile& candidate) {
          return candidate.Find(spec.name) != nullptr;
        });
    // The first file's error says that the tensor is not there.
    if (file == files.end()) file = files.begin();
    CHOIR_RETURN_IF_ERROR(file->Get(spec.name, spec.shape).status());
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<codec::TensorSpec> LlamaTensors(const ModelConfig& config) {
  const int64_t h = config.hidden_size;
  std::vector<codec::TensorSpec> specs;
  specs.push_back({"model.embed_tokens.weight", {config.vocab_size, h}});
  specs.push_back({"model.norm.weight", {h}});
  if (!config.tie_word_embeddings) {
    specs.push_back({"lm_head.weight", {config.vocab_size, h}});
  }
  for (int64_t i = 0; i < config.num_layers; ++i) {
    specs.push_back({BlockName(i, "input_layernorm"), {h}});
    specs.push_back({BlockName(i, "post_attention_layernorm"), {h}});
  }
  for (const LinearSpec& linear : LinearLayers(config)) {
    specs.push_back({absl::StrCat(linear.module, ".weight"),
                     {linear.out_features, linear.in_features}});
    if (linear.bias) {
      specs.push_back(
          {absl::StrCat(linear.module, ".bias"), {linear.out_features}});
    }
  }
  std::sort(specs.begin(), specs.end(),
            [](const codec::TensorSpec& a, const codec::TensorSpec& b) {
              return a.name < b.name;
            });
  return specs;
}

absl::StatusOr<ModelConfig> CheckBaseFolder(const std::string& folder) {
  CHOIR_ASSIGN_OR_RETURN(
      ModelConfig config,
      LoadModelConfig(base::JoinPath(folder, "config.json")));
  CHOIR_RETURN_IF_ERROR(CheckTokenizer(folder, config));
  CHOIR_RETURN_IF_ERROR(CheckTensors(folder, config));
  return config;
}

}  // namespace choir::model
