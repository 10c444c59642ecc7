#include "coordinator/selection/selection.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/sim_random.h"

namespace choir::selection {

std::vector<std::string> SelectUniform(const std::set<std::string>& candidates,
                                       int count, uint64_t seed) {
  CHOIR_CHECK(count >= 0);
  std::vector<const std::string*> pool;
  pool.reserve(candidates.size());
  for (const std::string& candidate : candidates) pool.push_back(&candidate);
  const size_t wanted = std::min(pool.size(), static_cast<size_t>(count));
  base::SimRandom random(seed);
  // The first steps of a Fisher-Yates shuffle.
  for (size_t i = 0; i < wanted; ++i) {
    std::swap(pool[i], pool[i + random.Below(pool.size() - i)]);
  }
  std::vector<std::string> selected;
  selected.reserve(wanted);
  for (size_t i = 0; i < wanted; ++i) selected.push_back(*pool[i]);
  std::sort(selected.begin(), selected.end());
  return selected;
}

std::vector<std::string> SelectPoisson(const std::set<std::string>& candidates,
                                       double rate, uint64_t seed) {
  CHOIR_CHECK(rate > 0.0 && rate <= 1.0);
  base::SimRandom random(seed);
  std::vector<std::string> selected;
  for (const std::string& candidate : candidates) {
    if (random.Uniform() < rate) selected.push_back(candidate);
  }
  return selected;
}

std::vector<std::vector<std::string>> FormGroups(
    const std::set<std::string>& clients, int group_size, uint64_t seed) {
  CHOIR_CHECK(group_size >= 0);
  std::vector<std::string> order(clients.begin(), clients.end());
  const size_t count = group_size == 0
                           ? (order.empty() ? 0 : 1)
                           : order.size() / static_cast<size_t>(group_size);
  std::vector<std::vector<std::string>> groups(count);
  if (count == 0) return groups;
  base::SimRandom random(seed);
  random.Shuffle(order);
  for (size_t i = 0; i < order.size(); ++i) {
    groups[i % count].push_back(std::move(order[i]));
  }
  for (std::vector<std::string>& group : groups) {
    std::sort(group.begin(), group.end());
  }
  return groups;
}

}  // namespace choir::selection
