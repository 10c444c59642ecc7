#include "client/agent/sleeper.h"

#include <poll.h>

#include <algorithm>

#include "absl/time/clock.h"
#include "base/cli.h"

namespace choir::client {

void SignalSleeper::Sleep(absl::Duration duration) {
  const absl::Time end = absl::Now() + duration;
  while (!stopping()) {
    const absl::Duration left = end - absl::Now();
    if (left <= absl::ZeroDuration()) return;
    pollfd wait = {base::StopSignal::file_descriptor(), POLLIN, 0};
    // One millisecond more, so as not to spin at the end; a minute at most.
    const int64_t ms =
        std::min<int64_t>(absl::ToInt64Milliseconds(left) + 1, 60000);
    poll(&wait, 1, static_cast<int>(ms));
  }
}

bool SignalSleeper::stopping() const { return base::StopSignal::requested(); }

}  // namespace choir::client
