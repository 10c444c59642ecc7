// What belongs to a model's folder besides its shape and its weights.
#ifndef CHOIR_MODEL_CHECKPOINT_SIDE_FILES_H_
#define CHOIR_MODEL_CHECKPOINT_SIDE_FILES_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace choir::model {

// Names of the files that the tokenizer, the chat template and the end of texts
// are read from. Without one of them the same text can have other ids.
absl::Span<const char* const> SideFiles();

bool IsSideFile(absl::string_view name);

// Copies those that the folder `from` has, and a tokenizer.model, which other
// programs read, into the folder `to`, which exists; others of these names
// there are replaced. Errors: those of base/files.h.
absl::Status CopySideFiles(const std::string& from, const std::string& to);

}  // namespace choir::model

#endif  // CHOIR_MODEL_CHECKPOINT_SIDE_FILES_H_
