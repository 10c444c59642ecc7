// Early return on absl::Status errors.
#ifndef CHOIR_BASE_STATUS_MACROS_H_
#define CHOIR_BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Evaluates `expr` (an absl::Status) and returns it from the enclosing function
// unless it is OK.
#define CHOIR_RETURN_IF_ERROR(expr)                                 \
  do {                                                              \
    if (absl::Status choir_status_ = (expr); !choir_status_.ok()) { \
      return choir_status_;                                         \
    }                                                               \
  } while (false)

#define CHOIR_STATUS_CONCAT_INNER_(a, b) a##b
#define CHOIR_STATUS_CONCAT_(a, b) CHOIR_STATUS_CONCAT_INNER_(a, b)

// Evaluates `expr` (an absl::StatusOr<T>); returns its status on error, else
// assigns its value to `lhs`, which may be a declaration.
#define CHOIR_ASSIGN_OR_RETURN(lhs, expr) \
  CHOIR_ASSIGN_OR_RETURN_IMPL_(           \
      CHOIR_STATUS_CONCAT_(choir_status_or_, __LINE__), lhs, expr)

#define CHOIR_ASSIGN_OR_RETURN_IMPL_(result, lhs, expr) \
  auto result = (expr);                                 \
  if (!result.ok()) return std::move(result).status();  \
  lhs = std::move(result).value()

#endif  // CHOIR_BASE_STATUS_MACROS_H_
