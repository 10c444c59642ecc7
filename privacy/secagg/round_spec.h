// The contributions of a round, from its plan: client and coordinator compute
// the same.
#ifndef CHOIR_PRIVACY_SECAGG_ROUND_SPEC_H_
#define CHOIR_PRIVACY_SECAGG_ROUND_SPEC_H_

#include <cstdint>

#include "base/sim_random.h"
#include "choir/v1/config.pb.h"
#include "choir/v1/secagg.pb.h"
#include "privacy/secagg/contribution.h"

namespace choir::secagg {

// `aggregation` and `secure` are resolved (every field set), as in TaskPlan;
// of `session` max_clients and session_id count. The client refuses a session
// whose modulus_bits and length are not ModulusBits() and ContributionLength()
// of this.
inline ContributionSpec RoundSpec(const v1::AggregationConfig& aggregation,
                                  const v1::SecureAggregationConfig& secure,
                                  const v1::SecureSession& session,
                                  uint64_t num_parameters) {
  ContributionSpec spec;
  spec.num_parameters = num_parameters;
  spec.fixed_point_bits = static_cast<int>(aggregation.fixed_point_bits());
  spec.value_bits = static_cast<int>(secure.value_bits());
  spec.max_weight = aggregation.weighting() == "uniform"
                        ? 1
                        : aggregation.max_examples_per_client();
  spec.max_clients = session.max_clients();
  spec.rounding = secure.rounding() == "stochastic" ? Rounding::kStochastic
                                                    : Rounding::kNearest;
  spec.rotate = secure.rotate();
  // Of all clients of the session alike, another one for each session.
  spec.public_seed = base::DeriveSeed(0, {"rotation", session.session_id()});
  return spec;
}

}  // namespace choir::secagg

#endif  // CHOIR_PRIVACY_SECAGG_ROUND_SPEC_H_
