// JSON from files that nobody vouches for.
#ifndef CHOIR_BASE_JSON_TEXT_H_
#define CHOIR_BASE_JSON_TEXT_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace choir::base {

struct JsonLimits {
  uint64_t max_bytes = 1u << 20;
  int max_depth = 32;
  // Refuse a key that appears twice in the outermost object.
  bool unique_top_keys = false;
};

// Parses one JSON object. Errors: INVALID_ARGUMENT naming `source` and the
// limit that is passed, the byte where the syntax breaks, or that the outermost
// value is not an object.
absl::StatusOr<nlohmann::json> ParseJsonObject(absl::string_view text,
                                               absl::string_view source,
                                               const JsonLimits& limits);

}  // namespace choir::base

#endif  // CHOIR_BASE_JSON_TEXT_H_
