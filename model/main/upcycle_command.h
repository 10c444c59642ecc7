// choir-model upcycle: a dense model becomes a mixture of experts.
#ifndef CHOIR_MODEL_MAIN_UPCYCLE_COMMAND_H_
#define CHOIR_MODEL_MAIN_UPCYCLE_COMMAND_H_

#include <string>

#include "absl/status/status.h"
#include "model/checkpoint/upcycle.h"

namespace choir::model {

struct UpcycleFlags {
  std::string model;  // folder
  std::string out;    // new folder
  UpcycleOptions options;
};

// Prints what was written, as JSON with `json`. Errors: those of
// UpcycleFolder.
absl::Status RunUpcycle(const UpcycleFlags& flags, bool json);

}  // namespace choir::model

#endif  // CHOIR_MODEL_MAIN_UPCYCLE_COMMAND_H_
