// The verbs of choir-model that carry adapters into other tools' forms.
#ifndef CHOIR_MODEL_MAIN_EXPORT_COMMANDS_H_
#define CHOIR_MODEL_MAIN_EXPORT_COMMANDS_H_

#include <string>

#include "absl/status/status.h"

namespace choir::model {

struct ExportFlags {
  std::string model;    // folder; empty: what the adapter's config names
  std::string adapter;  // PEFT folder or GGUF file
  std::string out;
  std::string to = "peft";  // export: "peft" or "gguf"
  // "f32", "f16", "bf16"; empty: as it is (merge), f32 (export).
  std::string dtype;
};

// Prints what was written, as JSON with `json`. Errors: INVALID_ARGUMENT for a
// flag or an adapter that does not fit, or an `out` that is an input;
// ALREADY_EXISTS for one that holds a model or an adapter or, of GGUF, is
// there; those of MergeAdapter, ReadAdapter and of writing; CANCELLED when the
// program is told to stop.
absl::Status RunMerge(const ExportFlags& flags, bool json);
absl::Status RunExport(const ExportFlags& flags, bool json);

}  // namespace choir::model

#endif  // CHOIR_MODEL_MAIN_EXPORT_COMMANDS_H_
