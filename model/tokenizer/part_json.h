// What the readers of tokenizer.json's parts share.
#ifndef CHOIR_MODEL_TOKENIZER_PART_JSON_H_
#define CHOIR_MODEL_TOKENIZER_PART_JSON_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace choir::model {

// Null if there is none, or `json` is no object.
const nlohmann::json& Member(const nlohmann::json& json, const char* key);
// Members with a default; INVALID_ARGUMENT for another type.
absl::StatusOr<bool> BoolMember(const nlohmann::json& json, const char* key,
                                bool fallback);
absl::StatusOr<std::string> TextMember(const nlohmann::json& json,
                                       const char* key);

// INVALID_ARGUMENT.
absl::Status BadPart(absl::string_view what);
absl::Status UnknownPart(absl::string_view part, absl::string_view type,
                         absl::string_view known);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TOKENIZER_PART_JSON_H_
