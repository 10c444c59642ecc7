#include "client/session/secure_participation.h"

#include <utility>

#include "base/status_macros.h"
#include "privacy/secagg/contribution.h"
#include "privacy/secagg/round_spec.h"
#include "proto/codec/plan_digest.h"

namespace choir::client {

absl::StatusOr<secagg::ClientSession> JoinSecureSession(
    const v1::TaskPlan& plan, const TaskResult& trained,
    const SecurePolicy& policy, uint64_t rounding_seed,
    const secagg::ClientEnvironment& environment) {
  const v1::TrainReport& report = trained.report.train();
  const secagg::ContributionSpec spec =
      secagg::RoundSpec(plan.aggregation(), plan.secure_aggregation(),
                        plan.secure_session(), trained.secure_update.size());
  secagg::Contribution contribution;
  contribution.values = trained.secure_update;
  contribution.weight =
      plan.aggregation().weighting() == "uniform" ? 1 : report.num_examples();
  contribution.mean_loss = report.mean_loss();
  contribution.rounding_seed = rounding_seed;
  CHOIR_ASSIGN_OR_RETURN(secagg::MaskedVector input,
                         secagg::EncodeContribution(spec, contribution));
  secagg::ClientExpectations expectations;
  expectations.model_digest = codec::ModelDigest(plan);
  expectations.config_digest = codec::ConfigDigest(plan);
  expectations.min_clients = policy.min_clients;
  expectations.require_confirmation = policy.require_confirmation;
  expectations.one_sum_per_model = policy.one_sum_per_model;
  expectations.min_corrupt_fraction = policy.min_corrupt_fraction;
  return secagg::ClientSession(plan.secure_session(), std::move(expectations),
                               std::move(input), environment);
}

}  // namespace choir::client
