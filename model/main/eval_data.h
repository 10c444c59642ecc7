// What `choir-model eval` evaluates.
#ifndef CHOIR_MODEL_MAIN_EVAL_DATA_H_
#define CHOIR_MODEL_MAIN_EVAL_DATA_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/loaded_model.h"
#include "model/main/commands.h"
#include "model/trainer.h"

namespace choir::model {

struct EvalData {
  std::vector<Example> examples;
  // One for each example: its domain; empty without --domain-field.
  std::vector<std::string> domains;
};

// Reads the one of --ids (JSON [[id, ...], ...]), --text (a text file) and
// --data (JSON lines with "text", or with "prompt" and "response", of which the
// response is predicted) that is set. Errors: INVALID_ARGUMENT with file and
// line; those of base/files.h.
absl::StatusOr<EvalData> LoadEvalData(const EvalOptions& options,
                                      const LoadedModel& model);

}  // namespace choir::model

#endif  // CHOIR_MODEL_MAIN_EVAL_DATA_H_
