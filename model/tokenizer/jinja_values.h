// What operators, methods, filters and tests of Jinja make of values, which
// are JSON. Errors everywhere: INVALID_ARGUMENT where Python would raise,
// UNIMPLEMENTED for a method, filter or test that is not known.
// Threads: safe.
#ifndef CHOIR_MODEL_TOKENIZER_JINJA_VALUES_H_
#define CHOIR_MODEL_TOKENIZER_JINJA_VALUES_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace choir::model {

// A variable or member that is not there.
nlohmann::json JinjaUndefined();

bool JinjaTruth(const nlohmann::json& value);
// As {{ }} writes it.
absl::StatusOr<std::string> JinjaText(const nlohmann::json& value);
// What a for runs over, as a list.
absl::StatusOr<nlohmann::json> JinjaItems(const nlohmann::json& value);
// base.key and base[key], within base; null: undefined.
absl::StatusOr<const nlohmann::json*> JinjaMember(const nlohmann::json& base,
                                                  const nlohmann::json& key);
// base[low:high:step]; null: left out.
absl::StatusOr<nlohmann::json> JinjaSlice(const nlohmann::json& base,
                                          const nlohmann::json& low,
                                          const nlohmann::json& high,
                                          const nlohmann::json& step);
absl::StatusOr<nlohmann::json> JinjaBinary(absl::string_view op,
                                           const nlohmann::json& left,
                                           const nlohmann::json& right);
absl::StatusOr<nlohmann::json> JinjaMethod(
    const nlohmann::json& base, absl::string_view name,
    const std::vector<nlohmann::json>& given);
absl::StatusOr<nlohmann::json> JinjaFilter(
    const nlohmann::json& base, absl::string_view name,
    const std::vector<nlohmann::json>& given);
absl::StatusOr<nlohmann::json> JinjaTest(
    const nlohmann::json& base, absl::string_view name,
    const std::vector<nlohmann::json>& given);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TOKENIZER_JINJA_VALUES_H_
