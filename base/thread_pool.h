// A fixed set of worker threads that run tasks in the order they were added.
#ifndef CHOIR_BASE_THREAD_POOL_H_
#define CHOIR_BASE_THREAD_POOL_H_

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"

namespace choir::base {

// The destructor runs every task already added, then joins. Threads: safe.
class ThreadPool {
 public:
  // `worker_start`, if given, runs first on each worker, with its index.
  explicit ThreadPool(int num_threads,
                      std::function<void(int)> worker_start = nullptr);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // `task` receives the index of the worker that runs it, in
  // [0, num_threads), so that workers can own scratch state.
  void Add(std::function<void(int worker)> task);
  // Blocks until no task is waiting or running.
  void Wait();
  int num_threads() const { return static_cast<int>(threads_.size()); }

 private:
  void Run(int worker);

  Mutex mu_;
  std::deque<std::function<void(int)>> tasks_ ABSL_GUARDED_BY(mu_);
  int running_ ABSL_GUARDED_BY(mu_) = 0;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  std::function<void(int)> worker_start_;
  std::vector<std::thread> threads_;
};

}  // namespace choir::base

#endif  // CHOIR_BASE_THREAD_POOL_H_
