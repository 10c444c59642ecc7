#include "model/checkpoint/base_folder.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "model/checkpoint/packed_checkpoint.h"
#include "model/checkpoint/tensor_files.h"
#include "model/tokenizer/tokenizer.h"

namespace choir::model {

absl::StatusOr<std::unique_ptr<const Tokenizer>> LoadTokenizerFor(
    const ModelConfig& config, const std::string& folder) {
  CHOIR_ASSIGN_OR_RETURN(std::unique_ptr<const Tokenizer> tokenizer,
                         Tokenizer::LoadFolder(folder));
  if (tokenizer->own_vocab_size() <= config.vocab_size) return tokenizer;
  return absl::InvalidArgumentError(absl::StrCat(
      folder, ": the tokenizer has ", tokenizer->own_vocab_size(),
      " tokens, but the model only ", config.vocab_size,
      " (vocab_size); take the tokenizer that the model was trained with"));
}

absl::StatusOr<ModelConfig> CheckBaseFolder(const std::string& folder) {
  CHOIR_ASSIGN_OR_RETURN(ModelConfig config, LoadModelConfig(base::JoinPath(
                                                 folder, "config.json")));
  CHOIR_RETURN_IF_ERROR(LoadTokenizerFor(config, folder).status());
  CHOIR_ASSIGN_OR_RETURN(const TensorFiles files,
                         TensorFiles::Open(folder, config));
  CHOIR_ASSIGN_OR_RETURN(const absl::optional<WeightFormat> stored,
                         ReadQuantization(folder));
  if (!stored) CHOIR_RETURN_IF_ERROR(files.CheckNonePacked(kUnannouncedRemedy));
  return config;
}

}  // namespace choir::model
