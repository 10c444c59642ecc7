#include "coordinator/aggregate/group_rule.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace choir::aggregate {
namespace {

using config::GroupRule;

__extension__ using Wide = __int128;

constexpr uint64_t kMost = std::numeric_limits<int64_t>::max();

// The integer nearest to numerator / denominator, ties to even; the denominator
// is positive.
Wide RoundedQuotient(Wide numerator, Wide denominator) {
  const Wide magnitude = numerator < 0 ? -numerator : numerator;
  Wide quotient = magnitude / denominator;
  const Wide rest = magnitude % denominator;
  const Wide other = denominator - rest;
  if (rest > other || (rest == other && quotient % 2 == 1)) ++quotient;
  return numerator < 0 ? -quotient : quotient;
}

Wide Combine(GroupRule rule, std::vector<Wide>& values) {
  std::sort(values.begin(), values.end());
  const size_t count = values.size();
  if (rule == GroupRule::kMedian) {
    const Wide upper = values[count / 2];
    return count % 2 == 1 ? upper
                          : RoundedQuotient(values[count / 2 - 1] + upper, 2);
  }
  const size_t trimmed = count / 4;
  Wide sum = 0;
  for (size_t i = trimmed; i < count - trimmed; ++i) sum += values[i];
  return RoundedQuotient(sum, static_cast<Wide>(count - 2 * trimmed));
}

absl::Status CheckGroups(GroupRule rule,
                         const std::vector<IntegerSum>& groups) {
  config::SecureAggregationOptions options;
  options.group_size = 1;
  options.group_rule = rule;
  const size_t needed = static_cast<size_t>(options.min_groups());
  if (groups.size() < needed) {
    return absl::InvalidArgumentError(
        absl::StrCat(config::GroupRuleName(rule), " needs ", needed,
                     " groups; there are ", groups.size()));
  }
  for (const IntegerSum& group : groups) {
    if (group.layout_digest() != groups[0].layout_digest() ||
        group.fixed_point_bits() != groups[0].fixed_point_bits() ||
        group.num_elements() != groups[0].num_elements()) {
      return absl::InvalidArgumentError(
          "sums of groups differ in layout or grid");
    }
    if (group.total_weight() == 0) {
      return absl::InvalidArgumentError("the sum of a group is empty");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<IntegerSum> CombineGroups(
    GroupRule rule, const std::vector<IntegerSum>& groups) {
  CHOIR_RETURN_IF_ERROR(CheckGroups(rule, groups));
  if (rule == GroupRule::kMean) {
    IntegerSum merged = groups[0];
    for (size_t g = 1; g < groups.size(); ++g) {
      CHOIR_RETURN_IF_ERROR(merged.Merge(groups[g]));
    }
    return merged;
  }
  uint64_t weight = 0;
  uint64_t updates = 0;
  for (const IntegerSum& group : groups) {
    if (group.total_weight() > kMost - weight) {
      return absl::ResourceExhaustedError(
          "the weight of all groups passes 2^63; use a lower "
          "max_examples_per_client");
    }
    weight += group.total_weight();
    updates += group.num_updates();
  }
  std::vector<int64_t> sums(static_cast<size_t>(groups[0].num_elements()));
  std::vector<Wide> values(groups.size());
  for (size_t i = 0; i < sums.size(); ++i) {
    for (size_t g = 0; g < groups.size(); ++g) {
      const Wide value = RoundedQuotient(
          static_cast<Wide>(groups[g].sums()[i]) * static_cast<Wide>(weight),
          static_cast<Wide>(groups[g].total_weight()));
      values[g] = std::clamp<Wide>(value, -static_cast<Wide>(kMost), kMost);
    }
    sums[i] = static_cast<int64_t>(Combine(rule, values));
  }
  return IntegerSum::FromSums(groups[0].layout_digest(),
                              groups[0].fixed_point_bits(), std::move(sums),
                              updates, weight);
}

}  // namespace choir::aggregate
