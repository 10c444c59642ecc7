// What a base model's folder must hold, checked without loading the weights.
#ifndef CHOIR_MODEL_CHECKPOINT_BASE_FOLDER_H_
#define CHOIR_MODEL_CHECKPOINT_BASE_FOLDER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "model/checkpoint/model_config.h"
#include "model/tokenizer/tokenizer.h"

namespace choir::model {

// Reads config.json, the tokenizer and the header of every safetensors file of
// the model in `folder`, and compares the tensors there with those that the
// model needs. The weights themselves are not read.
//
// Errors: INVALID_ARGUMENT naming the file and what is wrong with it; those of
//   base/files.h for a file that cannot be read.
absl::StatusOr<ModelConfig> CheckBaseFolder(const std::string& folder);

// The tokenizer of `folder`. Added tokens may be beyond the model's vocabulary
// (then they must not occur), others not: INVALID_ARGUMENT.
absl::StatusOr<std::unique_ptr<const Tokenizer>> LoadTokenizerFor(
    const ModelConfig& config, const std::string& folder);

}  // namespace choir::model

#endif  // CHOIR_MODEL_CHECKPOINT_BASE_FOLDER_H_
