// What a base model's folder must hold, checked without loading the weights.
#ifndef CHOIR_MODEL_CHECKPOINT_BASE_FOLDER_H_
#define CHOIR_MODEL_CHECKPOINT_BASE_FOLDER_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/checkpoint/model_config.h"
#include "proto/codec/layout.h"

namespace choir::model {

// Every tensor of a model: name (Hugging Face's) and shape, sorted by name; a
// tied head is left out.
std::vector<codec::TensorSpec> LlamaTensors(const ModelConfig& config);

// Reads config.json, the tokenizer and the header of every *.safetensors file
// in `folder`, and finds every tensor of the model, with its shape, in one of
// them. The weights themselves are not read.
//
// Errors: INVALID_ARGUMENT naming the file and what is wrong with it; those of
//   base/files.h for a file that cannot be read.
absl::StatusOr<ModelConfig> CheckBaseFolder(const std::string& folder);

}  // namespace choir::model

#endif  // CHOIR_MODEL_CHECKPOINT_BASE_FOLDER_H_
