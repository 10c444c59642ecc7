#include <algorithm>
#include <cmath>
#include <iterator>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/sim_random.h"
#include "base/status_macros.h"
#include "proto/config/field_checks.h"
#include "proto/config/job_options.h"

namespace choir::config {
namespace {

// Names of feed-forward layers' last linear layers, whatever the family.
constexpr const char* kIa3Feedforward[] = {"down_proj", "mlp.c_proj",
                                           "mlp.down_proj", "w2"};

constexpr AdapterKind kKinds[] = {AdapterKind::kLora, AdapterKind::kDora,
                                  AdapterKind::kFrozenA, AdapterKind::kIa3,
                                  AdapterKind::kLofit};

absl::StatusOr<AdapterKind> KindOf(const v1::AdapterConfig& config) {
  const std::string name = config.has_kind() ? config.kind() : "lora";
  for (const AdapterKind kind : kKinds) {
    if (name == AdapterKindName(kind)) return kind;
  }
  return Refuse("adapter.kind", absl::StrCat("\"", name, "\""),
                "one of \"lora\", \"dora\", \"frozen_a\", \"ia3\", \"lofit\"");
}

absl::StatusOr<AdapterPrecision> PrecisionOf(const v1::AdapterConfig& config) {
  const std::string name = config.has_precision() ? config.precision() : "fp32";
  for (const AdapterPrecision precision :
       {AdapterPrecision::kFp32, AdapterPrecision::kBf16}) {
    if (name == AdapterPrecisionName(precision)) return precision;
  }
  return Refuse("adapter.precision", absl::StrCat("\"", name, "\""),
                "one of \"fp32\", \"bf16\"");
}

// A setting that the kind of adapter does not have.
absl::Status RefuseIf(bool set, absl::string_view field, AdapterKind kind) {
  if (!set) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("'job.adapter.", field, "' is set, but adapter.kind \"",
                   AdapterKindName(kind), "\" has no such setting; remove it"));
}

// Every setting that `kind` does not have.
absl::Status RefuseForeign(const v1::AdapterConfig& config, AdapterKind kind) {
  const bool lora = kind == AdapterKind::kLora || kind == AdapterKind::kDora ||
                    kind == AdapterKind::kFrozenA;
  const bool ia3 = kind == AdapterKind::kIa3;
  const bool lofit = kind == AdapterKind::kLofit;
  const struct {
    bool foreign;
    const char* field;
  } checks[] = {
      {!lora && config.has_rank(), "rank"},
      {!lora && config.has_alpha(), "alpha"},
      {!lora && config.has_rank_stabilized(), "rank_stabilized"},
      {(!lora || kind == AdapterKind::kDora) && config.dropout() != 0,
       "dropout"},
      {lofit && config.target_modules_size() > 0, "target_modules"},
      {!ia3 && config.feedforward_modules_size() > 0, "feedforward_modules"},
      {kind != AdapterKind::kFrozenA && config.has_frozen_seed(),
       "frozen_seed"},
      {!lofit && config.has_lofit_heads(), "lofit_heads"},
      {!lofit && config.has_lofit_l1(), "lofit_l1"},
  };
  for (const auto& check : checks) {
    CHOIR_RETURN_IF_ERROR(RefuseIf(check.foreign, check.field, kind));
  }
  return absl::OkStatus();
}

// Which of them a model has is known only with the model.
bool IsModuleName(absl::string_view name) {
  return !name.empty() && name.size() <= 64 &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
                  c == '_' || c == '.' || c == '-';
         });
}

template <typename Names>
absl::StatusOr<std::vector<std::string>> SortedNames(const Names& names,
                                                     absl::string_view field) {
  std::vector<std::string> sorted(names.begin(), names.end());
  std::sort(sorted.begin(), sorted.end());
  for (size_t i = 0; i < sorted.size(); ++i) {
    if (!IsModuleName(sorted[i])) {
      return Refuse(field, absl::StrCat("\"", sorted[i].substr(0, 80), "\""),
                    "the last part of a linear layer's name, like \"q_proj\",");
    }
    if (i > 0 && sorted[i] == sorted[i - 1]) {
      return absl::InvalidArgumentError(
          absl::StrCat("'job.", field, "' names \"", sorted[i], "\" twice"));
    }
  }
  return sorted;
}

absl::Status ResolveTargets(const v1::AdapterConfig& config,
                            AdapterOptions& options) {
  if (options.kind == AdapterKind::kLofit) return absl::OkStatus();
  CHOIR_ASSIGN_OR_RETURN(
      options.target_modules,
      SortedNames(config.target_modules(), "adapter.target_modules"));
  std::vector<std::string>& targets = options.target_modules;
  const bool ia3 = options.kind == AdapterKind::kIa3;
  const auto is_target = [&targets](const std::string& name) {
    return std::find(targets.begin(), targets.end(), name) != targets.end();
  };
  if (is_target(kAllLinear) && targets.size() > 1) {
    return absl::InvalidArgumentError(
        "'job.adapter.target_modules' has \"all-linear\" and other names; it "
        "means every linear layer and stands alone");
  }
  if (!ia3) return absl::OkStatus();
  CHOIR_ASSIGN_OR_RETURN(
      options.feedforward_modules,
      SortedNames(config.feedforward_modules(), "adapter.feedforward_modules"));
  if (options.feedforward_modules.empty()) {
    std::copy_if(std::begin(kIa3Feedforward), std::end(kIa3Feedforward),
                 std::back_inserter(options.feedforward_modules), is_target);
  }
  for (const std::string& name : options.feedforward_modules) {
    if (!is_target(name)) {
      return Refuse("adapter.feedforward_modules",
                    absl::StrCat("\"", name, "\""),
                    "one of adapter.target_modules");
    }
  }
  return absl::OkStatus();
}

absl::Status ResolveFactors(const v1::AdapterConfig& config,
                            AdapterOptions& options) {
  CHOIR_ASSIGN_OR_RETURN(options.rank, Count(config.has_rank(), config.rank(),
                                             8, "adapter.rank", 1, 4096));
  CHOIR_ASSIGN_OR_RETURN(
      options.alpha,
      Real(config.has_alpha(), config.alpha(), 2.0 * options.rank,
           "adapter.alpha", 0, Bound::kOpen, 1e6, Bound::kClosed));
  CHOIR_ASSIGN_OR_RETURN(
      options.dropout,
      Real(config.has_dropout(), config.dropout(), 0, "adapter.dropout", 0,
           Bound::kClosed, 1, Bound::kOpen));
  options.rank_stabilized = config.rank_stabilized();
  options.frozen_seed =
      config.has_frozen_seed() ? config.frozen_seed() : DefaultFrozenSeed(1);
  return absl::OkStatus();
}

}  // namespace

absl::string_view AdapterKindName(AdapterKind kind) {
  switch (kind) {
    case AdapterKind::kLora:
      return "lora";
    case AdapterKind::kDora:
      return "dora";
    case AdapterKind::kFrozenA:
      return "frozen_a";
    case AdapterKind::kIa3:
      return "ia3";
    case AdapterKind::kLofit:
      return "lofit";
  }
  return "";
}

absl::string_view AdapterPrecisionName(AdapterPrecision precision) {
  return precision == AdapterPrecision::kBf16 ? "bf16" : "fp32";
}

uint64_t DefaultFrozenSeed(uint64_t job_seed) {
  // Half of the range: TOML has no larger numbers.
  return base::DeriveSeed(job_seed, {"frozen A"}) >> 1;
}

double AdapterOptions::scale() const {
  return alpha / (rank_stabilized ? std::sqrt(static_cast<double>(rank))
                                  : static_cast<double>(rank));
}

int AdapterOptions::rank_of(const std::string& module) const {
  const auto found = layer_ranks.find(module);
  return found == layer_ranks.end() ? rank : found->second;
}

double AdapterOptions::scale_of(const std::string& module) const {
  AdapterOptions one;
  const auto found = layer_alphas.find(module);
  one.alpha = found == layer_alphas.end() ? alpha : found->second;
  one.rank = rank_of(module);
  one.rank_stabilized = rank_stabilized;
  return one.scale();
}

absl::StatusOr<AdapterOptions> ResolveAdapter(const v1::AdapterConfig& config) {
  AdapterOptions options;
  CHOIR_ASSIGN_OR_RETURN(options.kind, KindOf(config));
  CHOIR_RETURN_IF_ERROR(RefuseForeign(config, options.kind));
  CHOIR_RETURN_IF_ERROR(ResolveTargets(config, options));
  if (options.has_lora())
    CHOIR_RETURN_IF_ERROR(ResolveFactors(config, options));
  CHOIR_ASSIGN_OR_RETURN(options.lofit_heads,
                         Count(config.has_lofit_heads(), config.lofit_heads(),
                               0, "adapter.lofit_heads", 0, 1000000));
  CHOIR_ASSIGN_OR_RETURN(
      options.lofit_l1,
      Real(config.has_lofit_l1(), config.lofit_l1(), options.lofit_l1,
           "adapter.lofit_l1", 0, Bound::kClosed, 1e3, Bound::kClosed));
  CHOIR_ASSIGN_OR_RETURN(options.num_labels,
                         Count(config.has_num_labels(), config.num_labels(), 0,
                               "adapter.num_labels", 0, kMaxLabels));
  CHOIR_ASSIGN_OR_RETURN(options.precision, PrecisionOf(config));
  return options;
}

v1::AdapterConfig ToProto(const AdapterOptions& options) {
  v1::AdapterConfig config;
  config.set_kind(std::string(AdapterKindName(options.kind)));
  if (options.has_lora()) {
    config.set_rank(static_cast<uint32_t>(options.rank));
    config.set_alpha(options.alpha);
    config.set_dropout(options.dropout);
    config.set_rank_stabilized(options.rank_stabilized);
  }
  for (const std::string& module : options.target_modules) {
    config.add_target_modules(module);
  }
  if (options.kind == AdapterKind::kFrozenA) {
    config.set_frozen_seed(options.frozen_seed);
  }
  for (const std::string& module : options.feedforward_modules) {
    config.add_feedforward_modules(module);
  }
  if (options.kind == AdapterKind::kLofit) {
    config.set_lofit_heads(static_cast<uint32_t>(options.lofit_heads));
    config.set_lofit_l1(options.lofit_l1);
  }
  if (options.num_labels > 0) {
    config.set_num_labels(static_cast<uint32_t>(options.num_labels));
  }
  config.set_precision(std::string(AdapterPrecisionName(options.precision)));
  return config;
}

}  // namespace choir::config
