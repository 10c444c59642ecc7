// A model with its adapter, as the flags of choir-model name them; and how
// results are printed.
#ifndef CHOIR_MODEL_MAIN_ADAPTED_MODEL_H_
#define CHOIR_MODEL_MAIN_ADAPTED_MODEL_H_

#include <memory>

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
};

// Loads both, after having set the number of threads.
// Errors: INVALID_ARGUMENT for a flag that makes no sense; those of
// LoadedModel::LoadFolder and ReadPeftFolder.
absl::StatusOr<Adapted> LoadAdapted(const CommonOptions& common,
                                    bool with_tokenizer);

}  // namespace choir::model

#endif  // CHOIR_MODEL_MAIN_ADAPTED_MODEL_H_
