// Which public keys have stood in sessions before.
#ifndef CHOIR_PRIVACY_SECAGG_USED_KEYS_H_
#define CHOIR_PRIVACY_SECAGG_USED_KEYS_H_

#include <cstddef>
#include <deque>

#include "absl/container/flat_hash_set.h"
#include "absl/numeric/int128.h"
#include "absl/strings/string_view.h"

namespace choir::secagg {

// Remembers the last `capacity` keys, in memory only. An honest client makes
// new keys for every session, and its neighbours refuse to go on with one whose
// key they have met before: a coordinator that takes such a key has all of them
// leave. Memory: about 50 bytes for each key.
//
// Threads: one thread at a time.
class UsedKeys {
 public:
  explicit UsedKeys(size_t capacity = size_t{1} << 22) : capacity_(capacity) {}

  bool Contains(absl::string_view public_key) const;
  void Insert(absl::string_view public_key);
  size_t size() const { return order_.size(); }

 private:
  const size_t capacity_;
  // The begin of a key's SHA-256, oldest first.
  std::deque<absl::uint128> order_;
  absl::flat_hash_set<absl::uint128> seen_;
};

}  // namespace choir::secagg

#endif  // CHOIR_PRIVACY_SECAGG_USED_KEYS_H_
