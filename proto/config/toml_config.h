// TOML text or files into config messages.
#ifndef CHOIR_PROTO_CONFIG_TOML_CONFIG_H_
#define CHOIR_PROTO_CONFIG_TOML_CONFIG_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/protobuf/message.h"

namespace choir::config {

// Fills `message` from TOML `text`, then applies `overrides` of the form
// "path.to.field=value" in order (lists as TOML: a=["x","y"]).
//
// Errors: INVALID_ARGUMENT with `source` (the file's name) and line for broken
// TOML; with the path of the field, and the nearest known name, for an unknown
// one; with path and expected type for a value of the wrong type.
absl::Status ParseToml(absl::string_view text, absl::string_view source,
                       const std::vector<std::string>& overrides,
                       google::protobuf::Message* message);

// The same for a file of at most 1 MiB.
absl::Status LoadTomlFile(const std::string& path,
                          const std::vector<std::string>& overrides,
                          google::protobuf::Message* message);

// The message as TOML text that ParseToml reads back.
std::string ToToml(const google::protobuf::Message& message);

// "90s", "2m30s", "500ms". INVALID_ARGUMENT names `field` for anything else,
// and for what is not positive.
absl::StatusOr<absl::Duration> ParsePositiveDuration(absl::string_view text,
                                                     absl::string_view field);

}  // namespace choir::config

#endif  // CHOIR_PROTO_CONFIG_TOML_CONFIG_H_
