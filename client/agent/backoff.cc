#include "client/agent/backoff.h"

#include <algorithm>

namespace choir::client {

absl::Duration Backoff::Next() {
  const double share = static_cast<double>(random_.NextUint64() >> 11) *
                       (1.0 / 9007199254740992.0);
  const absl::Duration ceiling = std::min(ceiling_, options_.max);
  ceiling_ = std::min(ceiling * options_.factor, options_.max);
  return ceiling * (0.5 + 0.5 * share);
}

}  // namespace choir::client
