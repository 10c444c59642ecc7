// The mutex of this code base: absl::Mutex, except under ThreadSanitizer.
//
// Debian's Abseil is not built for ThreadSanitizer, which therefore does not
// see that absl::Mutex orders anything and reports all that it guards. In that
// build (CHOIR_TSAN) the same interface stands on the standard library, which
// it sees.
#ifndef CHOIR_BASE_MUTEX_H_
#define CHOIR_BASE_MUTEX_H_

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

#ifdef CHOIR_TSAN
#include <condition_variable>
#include <mutex>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#endif

namespace choir::base {

#ifdef CHOIR_TSAN

class ABSL_LOCKABLE Mutex {
 public:
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  // Whoever waits in Await() looks at its condition again.
  void Unlock() ABSL_UNLOCK_FUNCTION() {
    mutex_.unlock();
    changed_.notify_all();
  }
  void Await(const absl::Condition& condition) {
    AwaitWithTimeout(condition, absl::InfiniteDuration());
  }
  // Whether the condition holds.
  bool AwaitWithTimeout(const absl::Condition& condition,
                        absl::Duration timeout) {
    const absl::Time deadline = absl::Now() + timeout;
    std::unique_lock<std::mutex> lock(mutex_, std::adopt_lock);
    // What this thread has changed may be what others wait for.
    changed_.notify_all();
    while (!condition.Eval()) {
      if (deadline == absl::InfiniteFuture()) {
        changed_.wait(lock);
      } else if (changed_.wait_until(lock, absl::ToChronoTime(deadline)) ==
                 std::cv_status::timeout) {
        break;
      }
    }
    const bool holds = condition.Eval();
    lock.release();
    return holds;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
};

class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex)
      : mutex_(mutex) {
    mutex_->Lock();
  }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mutex_->Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* const mutex_;
};

#else

using absl::Mutex;
using absl::MutexLock;

#endif

}  // namespace choir::base

#endif  // CHOIR_BASE_MUTEX_H_
