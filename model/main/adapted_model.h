// A model with its adapter, as the flags of choir-model name them; and how
// results are printed.
#ifndef CHOIR_MODEL_MAIN_ADAPTED_MODEL_H_
#define CHOIR_MODEL_MAIN_ADAPTED_MODEL_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "model/loaded_model.h"
#include "model/main/commands.h"
#include "nlohmann/json.hpp"

namespace choir::model {

using Json = nlohmann::ordered_json;

// One line on stdout.
void PrintJson(const Json& json);

struct Adapted {
  std::shared_ptr<const LoadedModel> model;
  absl::optional<LoraBank> lora;
  const LoraBank* bank() const { return lora ? &*lora : nullptr; }
  // The classification head [labels, hidden]: the adapter's, or the model's
  // own; undefined if there is none.
  at::Tensor score;
  // Whether the model has no head for the next token.
  bool is_classifier() const {
    return model->decoder().config().num_labels > 0;
  }
};

// INVALID_ARGUMENT unless --threads is from 1 to 1024.
absl::Status CheckThreads(int threads);

// Loads both, after having set the number of threads.
// Errors: INVALID_ARGUMENT for a flag that makes no sense; those of
// LoadedModel::LoadFolder and ReadAdapter.
absl::StatusOr<Adapted> LoadAdapted(const CommonOptions& common,
                                    bool with_tokenizer);

// INVALID_ARGUMENT for a classifier, which predicts no next token.
absl::Status CheckLanguageModel(const Adapted& adapted);

}  // namespace choir::model

#endif  // CHOIR_MODEL_MAIN_ADAPTED_MODEL_H_
