// One client's part in one task: what an agent does over the network and what
// a virtual client does in the simulator is this very function.
#ifndef CHOIR_CLIENT_SESSION_PARTICIPATION_H_
#define CHOIR_CLIENT_SESSION_PARTICIPATION_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "choir/v1/coordinator.pb.h"
#include "model/training/trainer.h"

namespace choir::client {

// The client's examples, encoded for the task's base model, objective and
// sequence length (client/data/dataset.h).
struct LocalData {
  std::vector<model::Example> train;
  std::vector<model::Example> heldout;
};

struct TaskResult {
  // What to send with Report; its update is to be uploaded before.
  v1::ReportRequest report;
  // The encoded update (proto/codec/flat_update.h); empty unless
  // report.has_train() and the round is a plain one.
  std::string update_bytes;
  // The update itself, if report.has_train() and the plan has a secure session:
  // it is handed over by that (secure_participation.h), and neither it nor the
  // report is sent.
  std::vector<float> secure_update;
};

// Does the task `plan`: trains from the adapter in `adapter_bytes` (an
// adapter_model.safetensors file) and returns the difference, scaled down to
// plan.aggregation().clip_norm_l2 if that is set; or evaluates that adapter on
// the held-out examples. `trainer` must be for the plan's base model and
// adapter settings.
//
// The update and every figure but `seconds` depend on the plan, the adapter,
// the data and the trainer's arithmetic alone.
//
// What the client cannot do (another layout, broken adapter file, no examples,
// a loss or an update that is not finite or off the grid) becomes a
// FailureReport: the coordinator is to know. An error status is returned only
// if `progress` stopped the work, and is the one that it gave.
absl::StatusOr<TaskResult> RunTask(const v1::TaskPlan& plan,
                                   model::Trainer& trainer,
                                   absl::string_view adapter_bytes,
                                   const LocalData& data,
                                   const base::Clock& clock,
                                   const model::ProgressFn& progress);

// A report that gives the task up. `reason` must quote no data; it is cut to
// 500 bytes.
v1::ReportRequest MakeFailureReport(const v1::TaskKey& key,
                                    absl::string_view reason);

// Scales `values` down to L2 norm `max_norm_l2` if it is longer; 0 leaves it.
//
// Shapes:  flat vector. Units: parameter units.
// Errors:  INVALID_ARGUMENT if an element is not finite; `values` is then
//          unchanged.
// Threads: safe on distinct spans.   Cost: two passes, no allocation.
struct ClipReport {
  double norm_l2 = 0.0;  // before clipping
  bool clipped = false;
};
absl::StatusOr<ClipReport> ClipL2(absl::Span<float> values, double max_norm_l2);

}  // namespace choir::client

#endif  // CHOIR_CLIENT_SESSION_PARTICIPATION_H_
