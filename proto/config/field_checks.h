// Checks of single fields of a job's configuration. For proto/config alone.
#ifndef CHOIR_PROTO_CONFIG_FIELD_CHECKS_H_
#define CHOIR_PROTO_CONFIG_FIELD_CHECKS_H_

#include <cmath>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace choir::config {

template <typename T>
absl::Status Refuse(absl::string_view field, const T& value,
                    absl::string_view limit) {
  return absl::InvalidArgumentError(
      absl::StrCat("'job.", field, "' is ", value, "; ", limit, " is needed"));
}

// The value, if set, else `otherwise`; refused outside [least, most].
inline absl::StatusOr<int> Count(bool set, uint64_t value, int otherwise,
                                 absl::string_view field, int least, int most) {
  if (!set) return otherwise;
  if (value < static_cast<uint64_t>(least) ||
      value > static_cast<uint64_t>(most)) {
    return Refuse(field, value,
                  absl::StrCat("a number from ", least, " to ", most));
  }
  return static_cast<int>(value);
}

enum class Bound { kOpen, kClosed };

// The value, if set, else `otherwise`; refused unless finite and within the
// bounds.
inline absl::StatusOr<double> Real(bool set, double value, double otherwise,
                                   absl::string_view field, double least,
                                   Bound at_least, double most, Bound at_most) {
  if (!set) return otherwise;
  const bool above =
      at_least == Bound::kClosed ? value >= least : value > least;
  const bool below = at_most == Bound::kClosed ? value <= most : value < most;
  if (!std::isfinite(value) || !above || !below) {
    return Refuse(
        field, value,
        absl::StrCat("a number in ", at_least == Bound::kClosed ? "[" : "(",
                     least, ", ", most, at_most == Bound::kClosed ? "]" : ")"));
  }
  return value;
}

// Most labels of a classification.
inline constexpr int kMaxLabels = 100000;

// What frozen A is drawn from when a job does not say.
uint64_t DefaultFrozenSeed(uint64_t job_seed);

}  // namespace choir::config

#endif  // CHOIR_PROTO_CONFIG_FIELD_CHECKS_H_
