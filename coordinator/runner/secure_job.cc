// Whether a job's secure aggregation can work at all.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "coordinator/runner/job_runner.h"
#include "coordinator/runner/secure_round.h"
#include "privacy/secagg/parameters.h"
#include "privacy/secagg/round_spec.h"

namespace choir::runner {
namespace {

// The fewest clients that a session of this job can have: of a cohort that is
// drawn, as many as a sum needs.
int LeastSession(const config::JobOptions& options) {
  const config::SecureAggregationOptions& secure = options.secure_aggregation;
  const config::RoundsOptions& rounds = options.rounds;
  if (rounds.selection != config::Selection::kUniform) {
    return secure.group_size > 0
               ? secure.group_size
               : std::max(rounds.min_survivors, secure.min_survivors());
  }
  if (secure.group_size == 0) return rounds.cohort_size;
  return rounds.cohort_size / (rounds.cohort_size / secure.group_size);
}

// The most clients that a session of this job can have, as far as it is known:
// of a cohort that is drawn, those that every round has.
int KnownMost(const config::JobOptions& options) {
  const config::SecureAggregationOptions& secure = options.secure_aggregation;
  const config::RoundsOptions& rounds = options.rounds;
  const int cohort =
      rounds.selection == config::Selection::kUniform
          ? rounds.cohort_size
          : std::max({rounds.min_survivors, secure.min_survivors(),
                      secure.min_groups() * secure.group_size});
  return secure.group_size == 0 ? cohort
                                : std::min(cohort, 2 * secure.group_size - 1);
}

}  // namespace

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
  if (!secure.enabled) return absl::OkStatus();
  const bool uniform = rounds.selection == config::Selection::kUniform;
  const bool groups = secure.group_size > 0;
  const int clients = LeastSession(options);
  const auto parameters =
      secagg::ChooseParameters(clients, AssumptionsOf(secure));
  if (!parameters.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'job.secure_aggregation' has no parameters for ",
        groups ? "groups" : "a cohort", " of ", clients, " clients",
        uniform || groups ? "" : ", which 'job.rounds.min_survivors' allows",
        ": ", parameters.status().message()));
  }
  if (uniform && !groups && rounds.min_survivors < parameters->min_survivors) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'job.rounds.min_survivors' is ", rounds.min_survivors,
        ", but under the assumptions of 'job.secure_aggregation' a cohort of ",
        clients, " reveals no sum of fewer than ", parameters->min_survivors,
        " clients; raise it, or expect more dropouts (dropout_fraction is ",
        secure.dropout_fraction, ") or a lower corrupt_fraction"));
  }
  const v1::JobConfig config = config::ToProto(options);
  v1::SecureSession session;
  session.set_max_clients(static_cast<uint32_t>(KnownMost(options)));
  return secagg::ModulusBits(secagg::RoundSpec(config.aggregation(),
                                               config.secure_aggregation(),
                                               session, 1))
      .status();
}

}  // namespace choir::runner
