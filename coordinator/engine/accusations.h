// Who says of whom, in a session, that its keys cannot be used.
//
// A client leaves a session if a neighbour's key was seen before or is not
// genuine, and names that neighbour. One that names an honest peer is not
// believed: it takes more than collude under the session's assumptions
// (secagg::AccusersNeeded()).
#ifndef CHOIR_COORDINATOR_ENGINE_ACCUSATIONS_H_
#define CHOIR_COORDINATOR_ENGINE_ACCUSATIONS_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "choir/v1/coordinator.pb.h"
#include "choir/v1/journal.pb.h"
#include "choir/v1/secagg.pb.h"

namespace choir::engine {

// Of the last attempt whose keys were advertised, until the next begins or the
// round is committed: some speak up only when the attempt is lost already.
// Threads: one thread at a time.
class Accusations {
 public:
  using ByAccused = std::map<std::string, std::set<std::string>>;

  // `closed`: of advertise_keys, which says who is in which group.
  void Begin(const v1::SecurePhaseClosed& closed,
             const v1::SecureAssumptions& assumptions);
  void Clear() { *this = Accusations(); }

  // Those of `accused` whom `accuser` shared a session with in attempt `key`.
  std::vector<std::string> Admissible(
      const v1::TaskKey& key, const std::string& accuser,
      const std::vector<std::string>& accused) const;
  // Takes what Admissible() let through, as it was journaled.
  template <typename Names>
  void Add(const v1::TaskKey& key, const std::string& accuser,
           const Names& accused) {
    for (const std::string& peer :
         Admissible(key, accuser, {accused.begin(), accused.end()})) {
      accusers_[peer].insert(accuser);
    }
  }
  const v1::TaskKey& key() const { return key_; }
  // Those whom enough have named, with who did, without those settled.
  ByAccused Proven() const;
  void Settle(const std::string& client) { settled_.insert(client); }

 private:
  v1::TaskKey key_;
  std::map<std::string, uint32_t> group_of_;
  // By group.
  std::map<uint32_t, size_t> needed_;
  ByAccused accusers_;
  std::set<std::string> settled_;
};

}  // namespace choir::engine

#endif  // CHOIR_COORDINATOR_ENGINE_ACCUSATIONS_H_
