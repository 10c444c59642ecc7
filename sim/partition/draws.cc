#include "sim/partition/draws.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace choir::sim {

std::vector<uint64_t> EvenSizes(uint64_t total, int num_clients) {
  std::vector<uint64_t> sizes(num_clients, total / num_clients);
  for (uint64_t k = 0; k < total % num_clients; ++k) ++sizes[k];
  return sizes;
}

std::vector<double> Dirichlet(const std::vector<double>& shapes,
                              base::SimRandom& random) {
  std::vector<double> draws;
  double sum = 0.0;
  for (const double shape : shapes) {
    draws.push_back(random.Gamma(shape));
    sum += draws.back();
  }
  if (!(sum > 0.0) || !std::isfinite(sum)) {
    std::fill(draws.begin(), draws.end(), 0.0);
    draws[random.Below(draws.size())] = 1.0;
    return draws;
  }
  for (double& draw : draws) draw /= sum;
  return draws;
}

std::vector<uint64_t> Apportion(const std::vector<double>& shares,
                                uint64_t total) {
  std::vector<uint64_t> sizes;
  std::vector<std::pair<double, size_t>> remainders;
  uint64_t given = 0;
  for (size_t k = 0; k < shares.size(); ++k) {
    const double exact = shares[k] * static_cast<double>(total);
    const uint64_t whole = std::min<uint64_t>(
        total - given, static_cast<uint64_t>(std::floor(exact)));
    sizes.push_back(whole);
    given += whole;
    remainders.emplace_back(static_cast<double>(whole) - exact, k);
  }
  std::sort(remainders.begin(), remainders.end());
  for (size_t i = 0; given < total; ++i, ++given) {
    ++sizes[remainders[i % remainders.size()].second];
  }
  return sizes;
}

}  // namespace choir::sim
