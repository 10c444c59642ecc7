#include "privacy/secagg/graph.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/sha256.h"

namespace choir::secagg {
namespace {

// Numbers from SHA-256(seed, counter), so that the permutation depends on the
// whole seed and not on 64 bits of it.
class DigestNumbers {
 public:
  explicit DigestNumbers(absl::string_view seed) : seed_(seed) {}

  // Uniform in [0, bound), without bias.
  uint64_t Below(uint64_t bound) {
    const uint64_t limit = UINT64_MAX - UINT64_MAX % bound;
    uint64_t value;
    do {
      value = Next();
    } while (value >= limit);
    return value % bound;
  }

 private:
  uint64_t Next() {
    if (used_ == block_.size()) {
      base::Sha256 hasher;
      hasher.Update(seed_);
      uint8_t counter[8];
      for (int i = 0; i < 8; ++i) {
        counter[i] = static_cast<uint8_t>(counter_ >> (8 * i));
      }
      hasher.Update(absl::MakeConstSpan(counter));
      block_ = hasher.Finish();
      ++counter_;
      used_ = 0;
    }
    uint64_t value = 0;
    for (int i = 0; i < 8; ++i) {
      value |= static_cast<uint64_t>(block_[used_++]) << (8 * i);
    }
    return value;
  }

  std::string seed_;
  uint64_t counter_ = 0;
  base::Sha256Digest block_{};
  size_t used_ = 32;
};

}  // namespace

absl::StatusOr<Graph> Graph::Create(int num_clients, int degree,
                                    absl::string_view seed) {
  if (num_clients < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("a graph needs 2 clients, not ", num_clients));
  }
  if (degree < 1 || degree >= num_clients ||
      (degree != num_clients - 1 && degree % 2 != 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("no graph of ", num_clients, " clients has degree ",
                     degree, ": it is even, or ", num_clients - 1));
  }
  Graph graph(num_clients, degree);
  if (graph.complete()) return graph;
  graph.ring_.resize(num_clients);
  graph.place_.resize(num_clients);
  for (int i = 0; i < num_clients; ++i) graph.ring_[i] = i;
  DigestNumbers numbers(seed);
  for (int i = num_clients - 1; i > 0; --i) {
    std::swap(graph.ring_[i], graph.ring_[numbers.Below(i + 1)]);
  }
  for (int i = 0; i < num_clients; ++i) graph.place_[graph.ring_[i]] = i;
  return graph;
}

std::vector<int> Graph::NeighboursOf(int position) const {
  std::vector<int> neighbours;
  neighbours.reserve(degree_ + 1);
  if (complete()) {
    for (int i = 0; i < num_clients_; ++i) {
      if (i != position) neighbours.push_back(i);
    }
    return neighbours;
  }
  const int place = place_[position];
  for (int step = 1; step <= degree_ / 2; ++step) {
    neighbours.push_back(ring_[(place + step) % num_clients_]);
    neighbours.push_back(ring_[(place + num_clients_ - step) % num_clients_]);
  }
  std::sort(neighbours.begin(), neighbours.end());
  return neighbours;
}

bool Graph::AreNeighbours(int a, int b) const {
  if (a == b) return false;
  if (complete()) return true;
  const int apart =
      std::abs(static_cast<int>(place_[a]) - static_cast<int>(place_[b]));
  return std::min(apart, num_clients_ - apart) <= degree_ / 2;
}

std::vector<int> Graph::HoldersOf(int position) const {
  std::vector<int> holders = NeighboursOf(position);
  if (complete()) {
    holders.insert(std::lower_bound(holders.begin(), holders.end(), position),
                   position);
  }
  return holders;
}

}  // namespace choir::secagg
