// Time as a dependency: the wall clock for programs, a manual one for tests
// and simulation.
#ifndef CHOIR_BASE_CLOCK_H_
#define CHOIR_BASE_CLOCK_H_

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace choir::base {

// Threads: safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() const = 0;
};

class WallClock final : public Clock {
 public:
  absl::Time Now() const override { return absl::Now(); }
};

// Stands still until moved. Threads: safe.
class ManualClock final : public Clock {
 public:
  explicit ManualClock(absl::Time start = absl::UnixEpoch()) : now_(start) {}
  absl::Time Now() const override {
    absl::MutexLock lock(&mu_);
    return now_;
  }
  void Advance(absl::Duration by) {
    absl::MutexLock lock(&mu_);
    now_ += by;
  }
  void SetTime(absl::Time now) {
    absl::MutexLock lock(&mu_);
    now_ = now;
  }

 private:
  mutable absl::Mutex mu_;
  absl::Time now_ ABSL_GUARDED_BY(mu_);
};

}  // namespace choir::base

#endif  // CHOIR_BASE_CLOCK_H_
