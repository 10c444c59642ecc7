// Time as a dependency: the wall clock for programs, a manual one for tests
// and simulation.
#ifndef CHOIR_BASE_CLOCK_H_
#define CHOIR_BASE_CLOCK_H_

#include "absl/base/thread_annotations.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/mutex.h"

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

// Another clock's time that never goes back: when the other one is set back,
// this one goes on from where it was. For measuring how long something takes by
// the wall clock of a machine whose time may be corrected. Threads: safe.
class ForwardClock final : public Clock {
 public:
  // `source` outlives the clock.
  explicit ForwardClock(const Clock& source) : source_(source) {}
  absl::Time Now() const override {
    const absl::Time now = source_.Now();
    MutexLock lock(&mu_);
    if (now < seen_) set_back_ += seen_ - now;
    seen_ = now;
    return now + set_back_;
  }

 private:
  const Clock& source_;
  mutable Mutex mu_;
  mutable absl::Time seen_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  mutable absl::Duration set_back_ ABSL_GUARDED_BY(mu_);
};

// Stands still until moved. Threads: safe.
class ManualClock final : public Clock {
 public:
  explicit ManualClock(absl::Time start = absl::UnixEpoch()) : now_(start) {}
  absl::Time Now() const override {
    MutexLock lock(&mu_);
    return now_;
  }
  void Advance(absl::Duration by) {
    MutexLock lock(&mu_);
    now_ += by;
  }
  void SetTime(absl::Time now) {
    MutexLock lock(&mu_);
    now_ = now;
  }

 private:
  mutable Mutex mu_;
  absl::Time now_ ABSL_GUARDED_BY(mu_);
};

}  // namespace choir::base

#endif  // CHOIR_BASE_CLOCK_H_
