// Makes one sum out of the sums of groups, robustly: a group spoilt by a
// malicious client moves a mean without bound, but not a median.
//
// Source: Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal
//         Statistical Rates" (ICML 2018), coordinate-wise median and trimmed
//         mean; over group sums, since single updates are not seen (bucketing:
//         Karimireddy et al., ICLR 2022).
#ifndef CHOIR_COORDINATOR_AGGREGATE_GROUP_RULE_H_
#define CHOIR_COORDINATOR_AGGREGATE_GROUP_RULE_H_

#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/aggregate/integer_sum.h"
#include "proto/config/job_options.h"

namespace choir::aggregate {

// With W the total weight of all groups, S_g[i] and W_g the sum and the weight
// of group g, its value at element i is v_g = round(S_g[i] * W / W_g), within
// +-(2^63 - 1): what the sum would be if everybody were like this group. The
// element of the result is
//   mean           the sum of the S_g[i]: that of all updates, exactly
//   median         the middle v_g, or round((a + b) / 2) of the middle two
//   trimmed mean   round of the mean of the v_g without the floor(G / 4)
//                  largest and smallest of the G groups
// where round() is to the nearest integer, ties to even, and everything is
// computed in integers: the result depends on nothing but the sums, not on
// their order. It carries W and the number of all updates.
//
// Errors: INVALID_ARGUMENT for fewer groups than the rule needs
//   (SecureAggregationOptions::min_groups), sums of different layouts or grids,
//   or an empty sum; RESOURCE_EXHAUSTED if the weight of all, or an element of
//   their mean, could pass 2^63.
absl::StatusOr<IntegerSum> CombineGroups(config::GroupRule rule,
                                         const std::vector<IntegerSum>& groups);

}  // namespace choir::aggregate

#endif  // CHOIR_COORDINATOR_AGGREGATE_GROUP_RULE_H_
