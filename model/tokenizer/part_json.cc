#include "model/tokenizer/part_json.h"

#include "absl/strings/str_cat.h"

namespace choir::model {

using nlohmann::json;

const json& Member(const json& object, const char* key) {
  static const json* const null = new json();
  if (!object.is_object()) return *null;
  const auto found = object.find(key);
  return found == object.end() ? *null : *found;
}

absl::StatusOr<bool> BoolMember(const json& object, const char* key,
                                bool fallback) {
  const json& value = Member(object, key);
  if (value.is_null()) return fallback;
  if (!value.is_boolean()) {
    return BadPart(absl::StrCat("'", key, "' is not true or false"));
  }
  return value.get<bool>();
}

absl::StatusOr<std::string> TextMember(const json& object, const char* key) {
  const json& value = Member(object, key);
  if (!value.is_string()) {
    return BadPart(absl::StrCat("'", key, "' is not text"));
  }
  return value.get<std::string>();
}

absl::Status BadPart(absl::string_view what) {
  return absl::InvalidArgumentError(what);
}

absl::Status UnknownPart(absl::string_view part, absl::string_view type,
                         absl::string_view known) {
  return BadPart(absl::StrCat(part, " has the unknown type '", type,
                              "'; known types: ", known));
}

}  // namespace choir::model
