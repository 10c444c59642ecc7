// A client's part in a secure round, once it has trained: what agents and
// virtual clients do alike.
#ifndef CHOIR_CLIENT_SESSION_SECURE_PARTICIPATION_H_
#define CHOIR_CLIENT_SESSION_SECURE_PARTICIPATION_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "choir/v1/coordinator.pb.h"
#include "client/session/participation.h"
#include "privacy/secagg/client_session.h"

namespace choir::client {

// What a client asks for before it hands anything over.
struct SecurePolicy {
  // Only secure rounds.
  bool required = false;
  // Of the sum.
  int min_clients = 3;
  // See secagg::ClientExpectations.
  bool require_confirmation = false;
  bool one_sum_per_model = false;
  double min_corrupt_fraction = 0.0;
  // Path of a revocation list; empty: none.
  std::string crl;
  // No value: as without `required`.
  absl::optional<bool> open_evaluation;

  // Whether this client evaluates at all: results travel unmasked.
  bool evaluates() const { return open_evaluation.value_or(!required); }
};

// The session in which `trained` (of RunTask() for this plan) is handed over.
// The digests of model and settings that it insists on are computed from the
// plan, whose files the caller has downloaded and checked. `rounding_seed` is
// used if the round asks for stochastic rounding; agents draw it from secret
// randomness. What `environment` refers to outlives the session.
//
// Errors: INVALID_ARGUMENT for settings that cannot be, an update beyond the
//   grid, a weight beyond the limit: to be reported as a failure.
absl::StatusOr<secagg::ClientSession> JoinSecureSession(
    const v1::TaskPlan& plan, const TaskResult& trained,
    const SecurePolicy& policy, uint64_t rounding_seed,
    const secagg::ClientEnvironment& environment);

}  // namespace choir::client

#endif  // CHOIR_CLIENT_SESSION_SECURE_PARTICIPATION_H_
