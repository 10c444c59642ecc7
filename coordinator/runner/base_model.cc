#include "coordinator/runner/base_model.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/files.h"
#include "base/sim_random.h"
#include "base/status_macros.h"
#include "model/adapter/lora_layout.h"
#include "model/adapter/peft_folder.h"
#include "model/checkpoint/base_folder.h"
#include "model/checkpoint/model_config.h"
#include "model/checkpoint/side_files.h"
#include "model/checkpoint/tensor_files.h"
#include "model/training/training_fit.h"

namespace choir::runner {
namespace {

constexpr char kConfigName[] = "config.json";
constexpr char kIndexName[] = "model.safetensors.index.json";
constexpr char kTokenizerName[] = "tokenizer.json";

std::string LastPart(absl::string_view path) {
  const std::vector<absl::string_view> parts =
      absl::StrSplit(path, '/', absl::SkipEmpty());
  return parts.empty() ? "base" : std::string(parts.back());
}

// Names of the files to import besides the weights.
absl::StatusOr<std::vector<std::string>> SmallFilesOf(
    const std::string& folder) {
  const absl::StatusOr<std::vector<std::string>> entries =
      base::ListDirectory(folder);
  if (!entries.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot read the base model's folder '", folder,
                     "' (model.base): ", entries.status().message()));
  }
  std::vector<std::string> files;
  for (const std::string& entry : *entries) {
    if (entry == kConfigName || model::IsSideFile(entry)) {
      files.push_back(entry);
    }
  }
  const auto has = [&](const char* name) {
    return std::binary_search(files.begin(), files.end(), std::string(name));
  };
  if (!has(kConfigName)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the base model's folder '", folder, "' has no ", kConfigName));
  }
  if (!has(kTokenizerName) && !(has("vocab.json") && has("merges.txt"))) {
    return absl::InvalidArgumentError(
        absl::StrCat("the base model's folder '", folder, "' has no ",
                     kTokenizerName, " (nor vocab.json and merges.txt)"));
  }
  return files;
}

// Names of the files that hold the model's weights, not those of an adapter or
// of other forms of it that lie in the same folder.
absl::StatusOr<std::vector<std::string>> WeightFilesOf(
    const std::string& folder, const model::ModelConfig& config) {
  CHOIR_ASSIGN_OR_RETURN(const model::TensorFiles opened,
                         model::TensorFiles::Open(folder, config));
  std::vector<std::string> files;
  for (const auto& file : opened.files()) {
    files.push_back(LastPart(file->source()));
  }
  const bool indexed = files[0] != "model.safetensors" &&
                       base::FileExists(base::JoinPath(folder, kIndexName));
  if (indexed) files.push_back(kIndexName);
  return files;
}

}  // namespace

absl::StatusOr<v1::JobStarted> ImportBaseModel(
    const config::JobOptions& options, store::BlobStore& blobs) {
  const std::string& folder = options.base_model;
  CHOIR_ASSIGN_OR_RETURN(std::vector<std::string> files, SmallFilesOf(folder));
  // Everything that can be wrong is found before anything is copied.
  absl::StatusOr<model::ModelConfig> config = model::CheckBaseFolder(folder);
  if (!config.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("base model (model.base): ", config.status().message()));
  }
  if (config->num_labels > 0 &&
      options.training.objective != config::Objective::kClassification) {
    return absl::InvalidArgumentError(
        "base model (model.base): is a classifier, without a head for the next "
        "token; set training.objective to \"classification\" or take another "
        "base");
  }
  CHOIR_ASSIGN_OR_RETURN(const std::vector<std::string> weights,
                         WeightFilesOf(folder, *config));
  files.insert(files.end(), weights.begin(), weights.end());
  std::sort(files.begin(), files.end());
  CHOIR_RETURN_IF_ERROR(model::CheckJobFits(options));
  CHOIR_ASSIGN_OR_RETURN(const codec::Layout layout,
                         model::AdapterLayout(*config, options.adapter));
  v1::JobStarted facts;
  facts.set_job(options.name);
  for (const std::string& file : files) {
    CHOIR_ASSIGN_OR_RETURN(const v1::BlobRef blob,
                           blobs.PutFile(base::JoinPath(folder, file)));
    v1::ModelFile& entry = *facts.add_base_model();
    entry.set_name(file);
    *entry.mutable_blob() = blob;
  }
  facts.set_layout_digest(layout.digest());
  facts.set_num_parameters(static_cast<uint64_t>(layout.num_elements()));
  CHOIR_ASSIGN_OR_RETURN(
      const std::vector<float> initial,
      model::InitialAdapterOf(folder, *config, options.adapter, layout,
                              base::DeriveSeed(options.seed, {"adapter"})));
  CHOIR_ASSIGN_OR_RETURN(*facts.mutable_adapter(),
                         blobs.Put(model::EncodeAdapterFile(layout, initial)));
  CHOIR_ASSIGN_OR_RETURN(
      const std::string adapter_config,
      model::JobAdapterConfigJson(options.adapter, *config, LastPart(folder)));
  CHOIR_ASSIGN_OR_RETURN(*facts.mutable_adapter_config(),
                         blobs.Put(adapter_config));
  return facts;
}

absl::StatusOr<codec::Layout> LayoutOfJob(const config::JobOptions& options,
                                          const v1::JobStarted& facts,
                                          const store::BlobStore& blobs) {
  for (const v1::ModelFile& file : facts.base_model()) {
    if (file.name() != kConfigName) continue;
    CHOIR_ASSIGN_OR_RETURN(const std::string text,
                           blobs.Read(file.blob().digest()));
    CHOIR_ASSIGN_OR_RETURN(const model::ModelConfig config,
                           model::ParseModelConfig(text, kConfigName));
    CHOIR_ASSIGN_OR_RETURN(const codec::Layout layout,
                           model::AdapterLayout(config, options.adapter));
    if (layout.digest() != facts.layout_digest()) {
      return absl::DataLossError(absl::StrCat(
          "job '", facts.job(), "' was started with another adapter layout"));
    }
    return layout;
  }
  return absl::DataLossError(
      absl::StrCat("job '", facts.job(), "' was started without config.json"));
}

}  // namespace choir::runner
