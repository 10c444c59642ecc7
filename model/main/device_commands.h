// The verbs of choir-model for small devices: fewer bits, planned memory.
#ifndef CHOIR_MODEL_MAIN_DEVICE_COMMANDS_H_
#define CHOIR_MODEL_MAIN_DEVICE_COMMANDS_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "model/main/commands.h"

namespace choir::model {

struct QuantizeFlags {
  std::string to;                     // "int8" or "nf4"
  std::string out;                    // folder
  std::optional<double> outlier_rms;  // int8 alone; unset: as the library has
};
// Prints what was written. Errors: INVALID_ARGUMENT for a flag that makes no
// sense; those of QuantizeCheckpoint.
absl::Status RunQuantize(const CommonOptions& common,
                         const QuantizeFlags& flags);

struct PlanFlags {
  int64_t budget_mib = 0;
  int rank = 8;
  int batch_size = 8;
  int max_sequence_length = 256;
  int64_t longest = 0;         // tokens of the longest example; 0: not known
  bool checkpointing = false;  // wanted from the start
  // Train two steps as planned, on random tokens, and print the peak.
  bool measure = false;
};
// Prints how training fits into the budget. Errors: INVALID_ARGUMENT for a flag
// that makes no sense, or a precision that a quantised folder does not have;
// those of PlanMemory: RESOURCE_EXHAUSTED names the smallest budget that would
// do.
absl::Status RunPlan(const CommonOptions& common, const PlanFlags& flags);

}  // namespace choir::model

#endif  // CHOIR_MODEL_MAIN_DEVICE_COMMANDS_H_
