// What somebody may have meant who mistyped a name.
#ifndef CHOIR_BASE_NEAREST_NAME_H_
#define CHOIR_BASE_NEAREST_NAME_H_

#include <limits>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace choir::base {

// The one of `known` that the fewest edits make of `name`, the first of equals;
// empty if it takes more than `most_edits`.
std::string NearestName(absl::string_view name,
                        absl::Span<const std::string> known,
                        int most_edits = std::numeric_limits<int>::max());

}  // namespace choir::base

#endif  // CHOIR_BASE_NEAREST_NAME_H_
