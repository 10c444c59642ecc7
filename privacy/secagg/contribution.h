// One client's update as a vector of integers that can be summed in secret, and
// what the sum means.
//
// Elements: weight * grid(x_i) for each parameter, then the bookkeeping: the
// weight, weight * mean loss, and the squared rounding error (the latter two in
// as many elements as value_bits make necessary); so that no figure about a
// single client travels in the clear. The grid is that of plain
// aggregation (privacy/secagg/grid.h), therefore with rounding to nearest and
// without rotation the sums are equal to plain ones, bit for bit, as long as
// nothing is beyond the grid. What is, is clipped to it: a refusal would tell
// the coordinator, who chooses the grid, about a single update.
//
// Source: stochastic rounding and rotation: Suresh et al., "Distributed Mean
//         Estimation with Limited Communication" (2017).
#ifndef CHOIR_PRIVACY_SECAGG_CONTRIBUTION_H_
#define CHOIR_PRIVACY_SECAGG_CONTRIBUTION_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "privacy/secagg/masked_vector.h"

namespace choir::secagg {

enum class Rounding { kNearest, kStochastic };

struct ContributionSpec {
  uint64_t num_parameters = 0;
  // The grid's step is 2^-fixed_point_bits; |grid(x)| < 2^(value_bits - 1),
  // and larger values are clipped.
  int fixed_point_bits = 24;
  int value_bits = 32;
  uint64_t max_weight = 1;
  // Most clients in one sum.
  uint64_t max_clients = 1;
  Rounding rounding = Rounding::kNearest;
  // Randomised Hadamard rotation before rounding, from `public_seed`: evens out
  // the values, so that fewer value_bits do.
  bool rotate = false;
  uint64_t public_seed = 0;
};

// Elements of the vector: the parameters (up to a power of two if rotated) and
// the bookkeeping.
uint64_t ContributionLength(const ContributionSpec& spec);
// Smallest modulus in which no sum of max_clients contributions wraps.
// INVALID_ARGUMENT if that takes more than 64 bits, naming what to lower.
absl::StatusOr<int> ModulusBits(const ContributionSpec& spec);

struct Contribution {
  absl::Span<const float> values;
  uint64_t weight = 1;  // above max_weight it counts as that
  double mean_loss = 0.0;
  // Of stochastic rounding; secret and fresh.
  uint64_t rounding_seed = 0;
};
// Errors: INVALID_ARGUMENT for no weight, and for values that are not finite or
// both 128 or more and beyond the grid, as of a training that diverged. The
// text says no more than that: it goes to the coordinator, and into its
// journal.
absl::StatusOr<MaskedVector> EncodeContribution(
    const ContributionSpec& spec, const Contribution& contribution);

struct DecodedSum {
  // Over the parameters: sums of weight * grid(x).
  std::vector<int64_t> sums;
  uint64_t total_weight = 0;
  double mean_loss = 0.0;
  // Expected L2 distance between the weighted mean of the rounded (and clipped)
  // updates and that of the updates themselves.
  double rounding_error_l2 = 0.0;
};
// `sum` holds the contributions of `num_clients` clients.
// Errors: DATA_LOSS if the bookkeeping cannot be that of such a sum (masks that
// did not cancel, a client that cheated).
absl::StatusOr<DecodedSum> DecodeSum(const ContributionSpec& spec,
                                     const MaskedVector& sum,
                                     uint64_t num_clients);

}  // namespace choir::secagg

#endif  // CHOIR_PRIVACY_SECAGG_CONTRIBUTION_H_
