// Who takes part in a round.
//
// Both draws depend on the seed and on the set of candidates only, so that an
// auditor can repeat them.
#ifndef CHOIR_COORDINATOR_SELECTION_SELECTION_H_
#define CHOIR_COORDINATOR_SELECTION_SELECTION_H_

#include <cstdint>
#include <set>
#include <string>
#include <vector>

namespace choir::selection {

// `count` of the candidates, each subset equally likely; all of them if there
// are no more than `count`. Sorted.
std::vector<std::string> SelectUniform(const std::set<std::string>& candidates,
                                       int count, uint64_t seed);

// Each candidate by itself with probability `rate`, in (0, 1]; perhaps nobody.
// Sorted.
std::vector<std::string> SelectPoisson(const std::set<std::string>& candidates,
                                       double rate, uint64_t seed);

// Splits `clients` at random into as many groups of at least `group_size` as
// there can be (one of all if group_size is 0); sizes differ by one at most.
// Each group is sorted. Empty if there are fewer than `group_size` clients.
std::vector<std::vector<std::string>> FormGroups(
    const std::set<std::string>& clients, int group_size, uint64_t seed);

}  // namespace choir::selection

#endif  // CHOIR_COORDINATOR_SELECTION_SELECTION_H_
