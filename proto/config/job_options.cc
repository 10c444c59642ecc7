#include "proto/config/job_options.h"

#include <algorithm>
#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "proto/config/field_checks.h"
#include "proto/config/toml_config.h"

namespace choir::config {
namespace {

constexpr double kHuge = 1e12;

absl::Status ResolveSelection(const v1::RoundsConfig& config,
                              RoundsOptions& options) {
  const std::string name =
      config.has_selection() ? config.selection() : "uniform";
  if (name == "uniform") {
    options.selection = Selection::kUniform;
    if (!config.has_cohort_size()) {
      return absl::InvalidArgumentError(
          "'job.rounds.cohort_size' is not set; uniform selection needs the "
          "number of clients per round");
    }
    if (config.has_sampling_rate()) {
      return absl::InvalidArgumentError(
          "'job.rounds.sampling_rate' is set, but only selection = \"poisson\" "
          "uses it");
    }
  } else if (name == "poisson") {
    options.selection = Selection::kPoisson;
    if (!config.has_sampling_rate()) {
      return absl::InvalidArgumentError(
          "'job.rounds.sampling_rate' is not set; poisson selection needs each "
          "client's chance");
    }
    if (config.has_cohort_size() || config.has_over_selection()) {
      return absl::InvalidArgumentError(
          "'job.rounds.cohort_size' or 'job.rounds.over_selection' is set, but "
          "only selection = \"uniform\" uses them");
    }
  } else {
    return Refuse("rounds.selection", absl::StrCat("\"", name, "\""),
                  "\"uniform\" or \"poisson\"");
  }
  CHOIR_ASSIGN_OR_RETURN(options.cohort_size,
                         Count(config.has_cohort_size(), config.cohort_size(),
                               1, "rounds.cohort_size", 1, 10000000));
  CHOIR_ASSIGN_OR_RETURN(
      options.sampling_rate,
      Real(config.has_sampling_rate(), config.sampling_rate(), 0,
           "rounds.sampling_rate", 0, Bound::kOpen, 1, Bound::kClosed));
  CHOIR_ASSIGN_OR_RETURN(
      options.over_selection,
      Real(config.has_over_selection(), config.over_selection(), 1,
           "rounds.over_selection", 1, Bound::kClosed, 10, Bound::kClosed));
  return absl::OkStatus();
}

absl::StatusOr<RoundsOptions> ResolveRounds(const v1::RoundsConfig& config) {
  RoundsOptions options;
  if (!config.has_count()) {
    return absl::InvalidArgumentError(
        "'job.rounds.count' is not set; it is the number of rounds to commit");
  }
  CHOIR_ASSIGN_OR_RETURN(options.count, Count(true, config.count(), 1,
                                              "rounds.count", 1, 10000000));
  CHOIR_RETURN_IF_ERROR(ResolveSelection(config, options));
  const bool uniform = options.selection == Selection::kUniform;
  const int most = uniform ? options.cohort_size : 10000000;
  CHOIR_ASSIGN_OR_RETURN(
      options.min_survivors,
      Count(config.has_min_survivors(), config.min_survivors(),
            uniform ? options.cohort_size : 1, "rounds.min_survivors", 1,
            most));
  const int select = uniform ? options.num_to_select() : 1;
  CHOIR_ASSIGN_OR_RETURN(
      options.min_available,
      Count(config.has_min_available(), config.min_available(), select,
            "rounds.min_available", select, 10000000));
  if (config.has_deadline()) {
    CHOIR_ASSIGN_OR_RETURN(
        options.deadline,
        ParsePositiveDuration(config.deadline(), "rounds.deadline"));
  }
  CHOIR_ASSIGN_OR_RETURN(
      options.max_lost_in_a_row,
      Count(config.has_max_lost_in_a_row(), config.max_lost_in_a_row(), 10,
            "rounds.max_lost_in_a_row", 1, 100000));
  return options;
}

// Reports are not masked: a secure job has them only if it asks for them.
absl::StatusOr<EvaluationOptions> ResolveEvaluation(
    const v1::EvaluationConfig& config, bool secure) {
  EvaluationOptions options;
  CHOIR_ASSIGN_OR_RETURN(
      options.every, Count(config.has_every(), config.every(), secure ? 0 : 1,
                           "evaluation.every", 0, 10000000));
  CHOIR_ASSIGN_OR_RETURN(options.cohort_size,
                         Count(config.has_cohort_size(), config.cohort_size(),
                               0, "evaluation.cohort_size", 0, 10000000));
  return options;
}

}  // namespace

int RoundsOptions::num_to_select() const {
  return static_cast<int>(std::ceil(cohort_size * over_selection));
}

double AggregationOptions::max_magnitude() const {
  return std::ldexp(1.0, 31 - fixed_point_bits);
}

bool IsValidName(absl::string_view name) {
  if (name.empty() || name.size() > 64 || name.front() == '.') return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' ||
           c == '_' || c == '.';
  });
}

absl::StatusOr<AggregationOptions> ResolveAggregation(
    const v1::AggregationConfig& config) {
  AggregationOptions options;
  const std::string weighting =
      config.has_weighting() ? config.weighting() : "examples";
  if (weighting == "examples") {
    options.weighting = Weighting::kExamples;
  } else if (weighting == "uniform") {
    options.weighting = Weighting::kUniform;
  } else {
    return Refuse("aggregation.weighting", absl::StrCat("\"", weighting, "\""),
                  "\"examples\" or \"uniform\"");
  }
  CHOIR_ASSIGN_OR_RETURN(
      const int max_examples,
      Count(config.has_max_examples_per_client(),
            config.max_examples_per_client(), 1000000,
            "aggregation.max_examples_per_client", 1, 1000000000));
  options.max_examples_per_client = static_cast<uint64_t>(max_examples);
  CHOIR_ASSIGN_OR_RETURN(options.clip_norm_l2,
                         Real(config.has_clip_norm_l2(), config.clip_norm_l2(),
                              0, "aggregation.clip_norm_l2", 0, Bound::kClosed,
                              kHuge, Bound::kClosed));
  CHOIR_ASSIGN_OR_RETURN(
      options.fixed_point_bits,
      Count(config.has_fixed_point_bits(), config.fixed_point_bits(), 24,
            "aggregation.fixed_point_bits", 8, 28));
  CHOIR_ASSIGN_OR_RETURN(
      options.server_learning_rate,
      Real(config.has_server_learning_rate(), config.server_learning_rate(), 1,
           "aggregation.server_learning_rate", 0, Bound::kOpen, 1e3,
           Bound::kClosed));
  CHOIR_ASSIGN_OR_RETURN(
      options.server_momentum,
      Real(config.has_server_momentum(), config.server_momentum(), 0,
           "aggregation.server_momentum", 0, Bound::kClosed, 1, Bound::kOpen));
  return options;
}

absl::StatusOr<JobOptions> ResolveJob(const v1::JobConfig& config) {
  JobOptions options;
  if (!IsValidName(config.name())) {
    return Refuse("name", absl::StrCat("\"", config.name().substr(0, 80), "\""),
                  "1 to 64 letters, digits, '-', '_' or '.' (not first)");
  }
  options.name = config.name();
  if (config.has_seed()) options.seed = config.seed();
  if (config.model().base().empty()) {
    return absl::InvalidArgumentError(
        "'job.model.base' is not set; it names the folder of the base model");
  }
  options.base_model = config.model().base();
  CHOIR_ASSIGN_OR_RETURN(options.adapter, ResolveAdapter(config.adapter()));
  if (options.adapter.kind == AdapterKind::kFrozenA &&
      !config.adapter().has_frozen_seed()) {
    options.adapter.frozen_seed = DefaultFrozenSeed(options.seed);
  }
  CHOIR_ASSIGN_OR_RETURN(options.training, ResolveTraining(config.training()));
  const int labels = static_cast<int>(options.training.labels.size());
  if (config.adapter().has_num_labels() &&
      options.adapter.num_labels != labels) {
    return Refuse("adapter.num_labels", options.adapter.num_labels,
                  absl::StrCat("the number of training.labels, ", labels, ","));
  }
  options.adapter.num_labels = labels;
  CHOIR_ASSIGN_OR_RETURN(options.rounds, ResolveRounds(config.rounds()));
  CHOIR_ASSIGN_OR_RETURN(options.aggregation,
                         ResolveAggregation(config.aggregation()));
  if (options.adapter.kind == AdapterKind::kLofit &&
      options.aggregation.server_momentum > 0) {
    return Refuse(
        "aggregation.server_momentum", options.aggregation.server_momentum,
        "0 with adapter.kind \"lofit\", whose heads are chosen once,");
  }
  CHOIR_ASSIGN_OR_RETURN(
      options.evaluation,
      ResolveEvaluation(config.evaluation(),
                        config.secure_aggregation().enabled()));
  CHOIR_ASSIGN_OR_RETURN(options.secure_aggregation,
                         ResolveSecureAggregation(config.secure_aggregation()));
  CHOIR_RETURN_IF_ERROR(FitSecureAggregation(config, options));
  return options;
}

v1::JobConfig ToProto(const JobOptions& options) {
  v1::JobConfig config;
  config.set_name(options.name);
  config.set_seed(options.seed);
  config.mutable_model()->set_base(options.base_model);
  *config.mutable_adapter() = ToProto(options.adapter);
  *config.mutable_training() = ToProto(options.training);
  *config.mutable_rounds() = ToProto(options.rounds);
  *config.mutable_aggregation() = ToProto(options.aggregation);
  config.mutable_evaluation()->set_every(
      static_cast<uint32_t>(options.evaluation.every));
  config.mutable_evaluation()->set_cohort_size(
      static_cast<uint32_t>(options.evaluation.cohort_size));
  // Absent where it is off: journals written before it existed stay valid.
  if (options.secure_aggregation.enabled) {
    *config.mutable_secure_aggregation() = ToProto(options.secure_aggregation);
  }
  return config;
}

v1::RoundsConfig ToProto(const RoundsOptions& options) {
  v1::RoundsConfig config;
  config.set_count(static_cast<uint32_t>(options.count));
  if (options.selection == Selection::kUniform) {
    config.set_selection("uniform");
    config.set_cohort_size(static_cast<uint32_t>(options.cohort_size));
    config.set_over_selection(options.over_selection);
  } else {
    config.set_selection("poisson");
    config.set_sampling_rate(options.sampling_rate);
  }
  config.set_min_survivors(static_cast<uint32_t>(options.min_survivors));
  config.set_min_available(static_cast<uint32_t>(options.min_available));
  config.set_deadline(absl::FormatDuration(options.deadline));
  config.set_max_lost_in_a_row(
      static_cast<uint32_t>(options.max_lost_in_a_row));
  return config;
}

v1::AggregationConfig ToProto(const AggregationOptions& options) {
  v1::AggregationConfig config;
  config.set_weighting(options.weighting == Weighting::kExamples ? "examples"
                                                                 : "uniform");
  config.set_max_examples_per_client(
      static_cast<uint32_t>(options.max_examples_per_client));
  config.set_clip_norm_l2(options.clip_norm_l2);
  config.set_fixed_point_bits(static_cast<uint32_t>(options.fixed_point_bits));
  config.set_server_learning_rate(options.server_learning_rate);
  config.set_server_momentum(options.server_momentum);
  return config;
}

}  // namespace choir::config
