// Shares and whole sizes for the partitioners.
#ifndef CHOIR_SIM_PARTITION_DRAWS_H_
#define CHOIR_SIM_PARTITION_DRAWS_H_

#include <cstdint>
#include <vector>

#include "base/sim_random.h"

namespace choir::sim {

// `total` in `num_clients` sizes that differ by one at most, larger ones first.
std::vector<uint64_t> EvenSizes(uint64_t total, int num_clients);

// Gamma draws with the given positive shapes, scaled to sum to 1. With tiny
// shapes all draws can underflow to 0: one place then gets everything, as in
// the limit.
std::vector<double> Dirichlet(const std::vector<double>& shapes,
                              base::SimRandom& random);

// Whole numbers in the proportions `shares` (which sum to 1) that sum to
// `total`, by largest remainders.
std::vector<uint64_t> Apportion(const std::vector<double>& shares,
                                uint64_t total);

}  // namespace choir::sim

#endif  // CHOIR_SIM_PARTITION_DRAWS_H_
