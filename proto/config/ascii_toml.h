// TOML text as the same document in ASCII.
#ifndef CHOIR_PROTO_CONFIG_ASCII_TOML_H_
#define CHOIR_PROTO_CONFIG_ASCII_TOML_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace choir::config {

// Writes characters beyond ASCII as \u escapes where TOML allows them, in
// "basic strings", and drops them from comments. toml++ 3.3 (Debian 12) has
// undefined behaviour on some of them elsewhere; with ASCII it has not.
//
// INVALID_ARGUMENT, naming `source` and the line, for text that is not UTF-8
// and for such characters in any other place.
absl::StatusOr<std::string> ToAsciiToml(absl::string_view text,
                                        absl::string_view source);

}  // namespace choir::config

#endif  // CHOIR_PROTO_CONFIG_ASCII_TOML_H_
