// How long to wait before a call is tried again.
#ifndef CHOIR_CLIENT_AGENT_BACKOFF_H_
#define CHOIR_CLIENT_AGENT_BACKOFF_H_

#include "absl/time/time.h"
#include "base/secure_random.h"

namespace choir::client {

struct BackoffOptions {
  absl::Duration initial = absl::Milliseconds(500);
  absl::Duration max = absl::Seconds(60);
  double factor = 2.0;
};

// Exponential, with jitter, so that a thousand agents do not come back in the
// same second: the n-th wait is uniform in the upper half of
// min(max, initial * factor^n). Threads: one thread at a time.
class Backoff {
 public:
  Backoff(const BackoffOptions& options, base::SecureRandom& random)
      : options_(options), random_(random), ceiling_(options.initial) {}

  absl::Duration Next();
  // To be called after a success.
  void Reset() { ceiling_ = options_.initial; }

 private:
  BackoffOptions options_;
  base::SecureRandom& random_;
  absl::Duration ceiling_;
};

}  // namespace choir::client

#endif  // CHOIR_CLIENT_AGENT_BACKOFF_H_
