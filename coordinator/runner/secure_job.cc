// Whether a job's secure aggregation can work at all.
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "coordinator/runner/job_runner.h"
#include "coordinator/runner/secure_round.h"
#include "privacy/secagg/parameters.h"
#include "privacy/secagg/round_spec.h"

namespace choir::runner {

v1::SecureAssumptions AssumptionsOf(
    const config::SecureAggregationOptions& options) {
  v1::SecureAssumptions assumptions;
  assumptions.set_adversary(options.adversary ==
                                    config::SecureAdversary::kCurious
                                ? v1::SecureAssumptions::CURIOUS
                                : v1::SecureAssumptions::SEMI_MALICIOUS);
  assumptions.set_corrupt_fraction(options.corrupt_fraction);
  assumptions.set_dropout_fraction(options.dropout_fraction);
  assumptions.set_min_clients(static_cast<uint32_t>(options.min_clients));
  return assumptions;
}

absl::Status CheckSecureJob(const config::JobOptions& options) {
  const config::SecureAggregationOptions& secure = options.secure_aggregation;
  const config::RoundsOptions& rounds = options.rounds;
  if (!secure.enabled || rounds.selection != config::Selection::kUniform) {
    return absl::OkStatus();
  }
  const int groups =
      secure.group_size == 0 ? 1 : rounds.cohort_size / secure.group_size;
  const int clients = rounds.cohort_size / groups;
  const auto parameters =
      secagg::ChooseParameters(clients, AssumptionsOf(secure));
  if (!parameters.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("'job.secure_aggregation' has no parameters for ",
                     groups == 1 ? "a cohort" : "groups", " of ", clients,
                     " clients: ", parameters.status().message()));
  }
  if (groups == 1 && rounds.min_survivors < parameters->min_survivors) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'job.rounds.min_survivors' is ", rounds.min_survivors,
        ", but under the assumptions of 'job.secure_aggregation' a cohort of ",
        clients, " reveals no sum of fewer than ", parameters->min_survivors,
        " clients; raise it, or expect a lower corrupt_fraction or another "
        "dropout_fraction"));
  }
  const v1::JobConfig config = config::ToProto(options);
  v1::SecureSession session;
  session.set_max_clients(static_cast<uint32_t>(rounds.cohort_size));
  return secagg::ModulusBits(secagg::RoundSpec(config.aggregation(),
                                               config.secure_aggregation(),
                                               session, 1))
      .status();
}

}  // namespace choir::runner
