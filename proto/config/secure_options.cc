// The table [secure_aggregation]: its fields, and what they allow of the rest.
#include <algorithm>
#include <cmath>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "proto/config/field_checks.h"
#include "proto/config/job_options.h"
#include "proto/config/toml_config.h"

namespace choir::config {
namespace {

constexpr int kMostBits = 64;

absl::Status ResolveNames(const v1::SecureAggregationConfig& config,
                          SecureAggregationOptions& options) {
  const auto quoted = [](const std::string& text) {
    return absl::StrCat("\"", text, "\"");
  };
  const std::string adversary =
      config.has_adversary() ? config.adversary() : "semi_malicious";
  if (adversary == "semi_malicious") {
    options.adversary = SecureAdversary::kSemiMalicious;
  } else if (adversary == "curious") {
    options.adversary = SecureAdversary::kCurious;
  } else {
    return Refuse("secure_aggregation.adversary", quoted(adversary),
                  "\"semi_malicious\" or \"curious\"");
  }
  const std::string rounding =
      config.has_rounding() ? config.rounding() : "nearest";
  if (rounding == "nearest") {
    options.rounding = SecureRounding::kNearest;
  } else if (rounding == "stochastic") {
    options.rounding = SecureRounding::kStochastic;
  } else {
    return Refuse("secure_aggregation.rounding", quoted(rounding),
                  "\"nearest\" or \"stochastic\"");
  }
  const std::string rule = config.has_group_rule()
                               ? config.group_rule()
                               : (options.group_size > 0 ? "median" : "mean");
  if (rule == "mean") {
    options.group_rule = GroupRule::kMean;
  } else if (rule == "median") {
    options.group_rule = GroupRule::kMedian;
  } else if (rule == "trimmed_mean") {
    options.group_rule = GroupRule::kTrimmedMean;
  } else {
    return Refuse("secure_aggregation.group_rule", quoted(rule),
                  "\"mean\", \"median\" or \"trimmed_mean\"");
  }
  if (options.group_size == 0 && options.group_rule != GroupRule::kMean) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'job.secure_aggregation.group_rule' is \"", rule,
        "\", but a robust rule has nothing to compare when all updates are "
        "summed in secret; set 'job.secure_aggregation.group_size' for sums of "
        "groups, or the rule to \"mean\""));
  }
  return absl::OkStatus();
}

absl::Status ResolveFractions(const v1::SecureAggregationConfig& config,
                              SecureAggregationOptions& options) {
  CHOIR_ASSIGN_OR_RETURN(
      options.corrupt_fraction,
      Real(config.has_corrupt_fraction(), config.corrupt_fraction(), 0.1,
           "secure_aggregation.corrupt_fraction", 0, Bound::kClosed, 0.9,
           Bound::kOpen));
  CHOIR_ASSIGN_OR_RETURN(
      options.dropout_fraction,
      Real(config.has_dropout_fraction(), config.dropout_fraction(), 0.1,
           "secure_aggregation.dropout_fraction", 0, Bound::kClosed, 0.9,
           Bound::kOpen));
  const bool curious = options.adversary == SecureAdversary::kCurious;
  const double load = options.corrupt_fraction +
                      (curious ? 1.0 : 2.0) * options.dropout_fraction;
  if (load > 0.9 + 1e-12) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'job.secure_aggregation.corrupt_fraction' is ",
        options.corrupt_fraction, " and 'dropout_fraction' ",
        options.dropout_fraction, "; against a ",
        curious ? "curious" : "semi-malicious",
        " coordinator no parameters exist unless corrupt_fraction + ",
        curious ? "" : "2 * ",
        "dropout_fraction is at most 0.9; lower one of them"));
  }
  return absl::OkStatus();
}

// Bits of a signed sum of `clients` contributions.
int SumBits(double clients, const JobOptions& options) {
  const AggregationOptions& aggregation = options.aggregation;
  const double weight =
      aggregation.weighting == Weighting::kExamples
          ? static_cast<double>(aggregation.max_examples_per_client)
          : 1.0;
  const double largest =
      clients * weight *
      std::ldexp(1.0, options.secure_aggregation.value_bits - 1);
  return static_cast<int>(std::floor(std::log2(largest))) + 2;
}

// The modulus of a session is made for all clients of the cohort (with groups,
// of the largest group). Of a drawn cohort that is at least as many as a sum
// needs.
int LeastSession(const JobOptions& options) {
  const SecureAggregationOptions& secure = options.secure_aggregation;
  const RoundsOptions& rounds = options.rounds;
  const int cohort =
      rounds.selection == Selection::kUniform
          ? rounds.cohort_size
          : std::max({rounds.min_survivors, secure.min_survivors(),
                      secure.min_groups() * secure.group_size});
  return secure.group_size == 0 ? cohort
                                : std::min(cohort, 2 * secure.group_size - 1);
}

absl::Status CheckModulus(const JobOptions& options) {
  const bool uniform = options.rounds.selection == Selection::kUniform;
  const int clients = LeastSession(options);
  const int bits = SumBits(clients, options);
  if (bits <= kMostBits) return absl::OkStatus();
  const SecureAggregationOptions& secure = options.secure_aggregation;
  const bool examples = options.aggregation.weighting == Weighting::kExamples;
  return absl::InvalidArgumentError(absl::StrCat(
      "a secret sum of ", clients,
      uniform ? " clients with values of "
              : " clients, the fewest that a round can have, with values of ",
      secure.value_bits, " bits",
      examples ? absl::StrCat(" and weights up to ",
                              options.aggregation.max_examples_per_client)
               : std::string(),
      " takes a modulus of ", bits, " bits; the limit is ", kMostBits,
      "; lower 'job.secure_aggregation.value_bits'",
      examples ? ", 'job.aggregation.max_examples_per_client' (or use "
                 "weighting = \"uniform\")"
               : "",
      secure.group_size > 0 ? " or 'job.secure_aggregation.group_size'"
      : uniform             ? " or 'job.rounds.cohort_size'"
                            : " or 'job.secure_aggregation.min_clients'"));
}

absl::Status CheckGroups(const SecureAggregationOptions& secure,
                         const RoundsOptions& rounds) {
  if (secure.group_size == 0) return absl::OkStatus();
  if (secure.group_size < secure.min_clients) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'job.secure_aggregation.group_size' is ", secure.group_size,
        ", but sums of fewer than min_clients = ", secure.min_clients,
        " clients are never revealed; raise group_size or lower min_clients"));
  }
  if (rounds.selection != Selection::kUniform) return absl::OkStatus();
  const int groups = rounds.cohort_size / secure.group_size;
  if (groups == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'job.secure_aggregation.group_size' is ", secure.group_size,
        ", larger than the cohort; at most 'job.rounds.cohort_size' = ",
        rounds.cohort_size, " is possible"));
  }
  if (groups < secure.min_groups()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'job.secure_aggregation.group_rule' is \"",
        GroupRuleName(secure.group_rule), "\" and needs ", secure.min_groups(),
        " groups, but a cohort of ", rounds.cohort_size, " makes only ", groups,
        " of group_size = ", secure.group_size,
        "; lower group_size, raise 'job.rounds.cohort_size' or use group_rule "
        "= \"mean\""));
  }
  return absl::OkStatus();
}

}  // namespace

absl::string_view GroupRuleName(GroupRule rule) {
  switch (rule) {
    case GroupRule::kMean:
      return "mean";
    case GroupRule::kMedian:
      return "median";
    case GroupRule::kTrimmedMean:
      break;
  }
  return "trimmed_mean";
}

int SecureAggregationOptions::min_groups() const {
  if (group_size == 0) return 1;
  switch (group_rule) {
    case GroupRule::kMean:
      return 1;
    case GroupRule::kMedian:
      return 3;
    case GroupRule::kTrimmedMean:
      break;
  }
  return 4;
}

absl::StatusOr<SecureAggregationOptions> ResolveSecureAggregation(
    const v1::SecureAggregationConfig& config) {
  SecureAggregationOptions options;
  options.enabled = config.enabled();
  CHOIR_ASSIGN_OR_RETURN(
      options.min_clients,
      Count(config.has_min_clients(), config.min_clients(), 8,
            "secure_aggregation.min_clients", 3, 1000000));
  CHOIR_ASSIGN_OR_RETURN(options.value_bits,
                         Count(config.has_value_bits(), config.value_bits(), 32,
                               "secure_aggregation.value_bits", 4, 32));
  CHOIR_ASSIGN_OR_RETURN(options.group_size,
                         Count(config.has_group_size(), config.group_size(), 0,
                               "secure_aggregation.group_size", 0, 1000000));
  options.rotate = config.rotate();
  CHOIR_RETURN_IF_ERROR(ResolveNames(config, options));
  CHOIR_RETURN_IF_ERROR(ResolveFractions(config, options));
  if (config.has_phase_deadline()) {
    CHOIR_ASSIGN_OR_RETURN(
        options.phase_deadline,
        ParsePositiveDuration(config.phase_deadline(),
                              "secure_aggregation.phase_deadline"));
  }
  return options;
}

absl::Status FitSecureAggregation(const v1::JobConfig& config,
                                  JobOptions& options) {
  const SecureAggregationOptions& secure = options.secure_aggregation;
  if (!secure.enabled) return absl::OkStatus();
  RoundsOptions& rounds = options.rounds;
  const bool uniform = rounds.selection == Selection::kUniform;
  if (uniform && rounds.cohort_size < secure.min_clients) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'job.rounds.cohort_size' is ", rounds.cohort_size,
        ", but sums of fewer than 'job.secure_aggregation.min_clients' = ",
        secure.min_clients,
        " clients are never revealed; raise the cohort or lower min_clients "
        "(3 at least)"));
  }
  CHOIR_RETURN_IF_ERROR(CheckGroups(secure, rounds));
  const int needed = secure.min_survivors();
  if (!uniform && !config.rounds().has_min_survivors()) {
    rounds.min_survivors = needed;
  }
  if (!uniform && !config.rounds().has_min_available()) {
    rounds.min_available = needed;
  }
  if (rounds.min_survivors < needed) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'job.rounds.min_survivors' is ", rounds.min_survivors,
        ", but secure aggregation cannot finish a round with fewer than ",
        needed, " clients (",
        secure.min_groups() == 1
            ? std::string()
            : absl::StrCat(secure.min_groups(), " groups of "),
        "min_clients = ", secure.min_clients,
        "); raise it or lower "
        "'job.secure_aggregation.min_clients'"));
  }
  return CheckModulus(options);
}

std::string OpenEvaluationWarning(const JobOptions& options) {
  if (!options.secure_aggregation.enabled || options.evaluation.every == 0) {
    return "";
  }
  return absl::StrCat(
      "'job.evaluation.every' is ", options.evaluation.every,
      ": evaluations are not masked by secure aggregation, so that the "
      "coordinator sees each client's held-out loss and tokens; devices with "
      "secure_aggregation.required decline them unless they set "
      "open_evaluation; 0 leaves them out");
}

v1::SecureAggregationConfig ToProto(const SecureAggregationOptions& options) {
  v1::SecureAggregationConfig config;
  config.set_enabled(options.enabled);
  config.set_adversary(options.adversary == SecureAdversary::kCurious
                           ? "curious"
                           : "semi_malicious");
  config.set_corrupt_fraction(options.corrupt_fraction);
  config.set_dropout_fraction(options.dropout_fraction);
  config.set_min_clients(static_cast<uint32_t>(options.min_clients));
  config.set_value_bits(static_cast<uint32_t>(options.value_bits));
  config.set_rounding(
      options.rounding == SecureRounding::kNearest ? "nearest" : "stochastic");
  config.set_rotate(options.rotate);
  config.set_group_size(static_cast<uint32_t>(options.group_size));
  config.set_group_rule(std::string(GroupRuleName(options.group_rule)));
  config.set_phase_deadline(absl::FormatDuration(options.phase_deadline));
  return config;
}

}  // namespace choir::config
