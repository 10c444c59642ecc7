#include "privacy/secagg/used_keys.h"

#include <cstdint>
#include <cstring>

#include "base/sha256.h"

namespace choir::secagg {
namespace {

absl::uint128 EntryOf(absl::string_view public_key) {
  const base::Sha256Digest digest = base::Sha256Of(public_key);
  uint64_t halves[2];
  static_assert(sizeof(halves) <= sizeof(digest));
  std::memcpy(halves, digest.data(), sizeof(halves));
  return absl::MakeUint128(halves[0], halves[1]);
}

}  // namespace

bool UsedKeys::Contains(absl::string_view public_key) const {
  return seen_.contains(EntryOf(public_key));
}

void UsedKeys::Insert(absl::string_view public_key) {
  const absl::uint128 entry = EntryOf(public_key);
  if (!seen_.insert(entry).second) return;
  order_.push_back(entry);
  for (; order_.size() > capacity_; order_.pop_front()) {
    seen_.erase(order_.front());
  }
}

}  // namespace choir::secagg
