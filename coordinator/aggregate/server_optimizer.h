// The server's step: a new adapter from the old one and a round's sum.
//
// Source: Reddi et al., "Adaptive Federated Optimization" (ICLR 2021), with
//         SGD and momentum as the server optimiser (FedAvg, FedAvgM).
#ifndef CHOIR_COORDINATOR_AGGREGATE_SERVER_OPTIMIZER_H_
#define CHOIR_COORDINATOR_AGGREGATE_SERVER_OPTIMIZER_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/codec/layout.h"
#include "proto/config/job_options.h"

namespace choir::aggregate {

// Names and shapes of the tensors in adapter_model.safetensors: what a round's
// updates are laid out by. INVALID_ARGUMENT if it cannot be parsed.
absl::StatusOr<codec::Layout> LayoutOfAdapter(absl::string_view adapter);

struct ServerStepResult {
  // adapter_model.safetensors of the new version.
  std::string adapter_after;
  // What the next step needs; empty without momentum.
  std::string server_state;
};

// With mean the weighted mean of the sum, m the momentum kept in the state (0
// at first), x the adapter:
//   m = server_momentum * m + mean;   x = x + server_learning_rate * m
// in double precision, without fused operations, x rounded to float once. The
// same bytes in give the same bytes out, so that an auditor can repeat it.
//
// `adapter_before`: adapter_model.safetensors; `aggregate`:
// IntegerSum::Encode(); `server_state`: of the step before, empty if none.
//
// Errors: INVALID_ARGUMENT for bytes that cannot be decoded or do not belong
// together, a sum on another grid than options.fixed_point_bits, and an adapter
// that would not be finite.
absl::StatusOr<ServerStepResult> ServerStep(
    absl::string_view adapter_before, absl::string_view aggregate,
    absl::string_view server_state, const config::AggregationOptions& options);

}  // namespace choir::aggregate

#endif  // CHOIR_COORDINATOR_AGGREGATE_SERVER_OPTIMIZER_H_
