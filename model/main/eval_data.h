// What `choir-model eval` evaluates.
#ifndef CHOIR_MODEL_MAIN_EVAL_DATA_H_
#define CHOIR_MODEL_MAIN_EVAL_DATA_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/loaded_model.h"
#include "model/main/commands.h"
#include "model/objective/example.h"

namespace choir::model {

struct EvalData {
  std::vector<Example> examples;
  // One for each example: its domain; empty without --domain-field.
  std::vector<std::string> domains;
  // The lines have a "label", and so have the examples.
  bool classify = false;
};

// The outputs of a classifier's head, and their names, if they have any.
struct Labels {
  int64_t count = 0;  // 0: there is no head
  std::vector<std::string> names;
};

// Reads the one of --ids (JSON [[id, ...], ...]), --text (a text file) and
// --data (JSON lines with "text", or with "prompt" and "response", of which the
// response is predicted, or with "messages", of which what the assistant says
// is, as a job's objective "sft" learns them; with "text" and "label", if there
// is a head) that is set. A label is one of the names, or, without names, an
// output's number. Errors: INVALID_ARGUMENT with file and line; those of
// base/files.h.
absl::StatusOr<EvalData> LoadEvalData(const EvalOptions& options,
                                      const LoadedModel& model,
                                      const Labels& labels);

}  // namespace choir::model

#endif  // CHOIR_MODEL_MAIN_EVAL_DATA_H_
