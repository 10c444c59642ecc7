#include "coordinator/engine/accusations.h"

#include "absl/algorithm/container.h"
#include "privacy/secagg/parameters.h"
#include "proto/codec/task_key.h"

namespace choir::engine {

void Accusations::Begin(const v1::SecurePhaseClosed& closed,
                        const v1::SecureAssumptions& assumptions) {
  Clear();
  key_ = closed.key();
  for (const auto& client : closed.clients()) {
    group_of_[client.client()] = client.group();
  }
  for (const auto& group : closed.groups()) {
    if (!group.lost().empty()) continue;
    secagg::Parameters parameters;
    parameters.num_clients = static_cast<int>(group.clients());
    parameters.degree = static_cast<int>(group.degree());
    needed_[group.group()] =
        static_cast<size_t>(secagg::AccusersNeeded(parameters, assumptions));
  }
}

std::vector<std::string> Accusations::Admissible(
    const v1::TaskKey& key, const std::string& accuser,
    const std::vector<std::string>& accused) const {
  std::vector<std::string> admissible;
  const auto its = group_of_.find(accuser);
  if (its == group_of_.end() || !codec::SameTask(key, key_) ||
      needed_.count(its->second) == 0) {
    return admissible;
  }
  for (const std::string& peer : accused) {
    const auto group = group_of_.find(peer);
    if (peer != accuser && group != group_of_.end() &&
        group->second == its->second &&
        !absl::c_linear_search(admissible, peer)) {
      admissible.push_back(peer);
    }
  }
  return admissible;
}

Accusations::ByAccused Accusations::Proven() const {
  ByAccused proven;
  for (const auto& [client, accusers] : accusers_) {
    if (accusers.size() >= needed_.at(group_of_.at(client)) &&
        settled_.count(client) == 0) {
      proven[client] = accusers;
    }
  }
  return proven;
}

}  // namespace choir::engine
