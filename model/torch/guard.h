// Turns LibTorch's exceptions into statuses at the edge of model/.
#ifndef CHOIR_MODEL_TORCH_GUARD_H_
#define CHOIR_MODEL_TORCH_GUARD_H_

#include <exception>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "model/torch/compat.h"

namespace choir::model {

// Runs `body`, which returns an absl::Status or a StatusOr. An exception
// becomes RESOURCE_EXHAUSTED if it speaks of memory, else INTERNAL; `what`
// names the act.
template <typename Body>
auto TorchGuard(absl::string_view what, Body&& body) -> decltype(body()) {
  std::string message;
  try {
    return std::forward<Body>(body)();
  } catch (const c10::Error& error) {
    message = error.what_without_backtrace();
  } catch (const std::exception& error) {
    message = error.what();
  }
  if (message.find("out of memory") != std::string::npos ||
      message.find("allocate memory") != std::string::npos) {
    return absl::ResourceExhaustedError(
        absl::StrCat(what,
                     ": not enough memory; use a smaller batch_size or "
                     "max_sequence_length"));
  }
  return absl::InternalError(absl::StrCat(what, ": LibTorch: ", message));
}

}  // namespace choir::model

#endif  // CHOIR_MODEL_TORCH_GUARD_H_
