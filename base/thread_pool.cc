#include "base/thread_pool.h"

#include <utility>

#include "base/check.h"

namespace choir::base {

ThreadPool::ThreadPool(int num_threads, std::function<void(int)> worker_start)
    : worker_start_(std::move(worker_start)) {
  CHOIR_CHECK(num_threads > 0);
  for (int i = 0; i < num_threads; ++i) {
    threads_.emplace_back([this, i] { Run(i); });
  }
}

ThreadPool::~ThreadPool() {
  {
    MutexLock lock(&mu_);
    closing_ = true;
  }
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::Add(std::function<void(int)> task) {
  MutexLock lock(&mu_);
  CHOIR_CHECK(!closing_);
  tasks_.push_back(std::move(task));
}

void ThreadPool::Wait() {
  MutexLock lock(&mu_);
  const auto idle = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return tasks_.empty() && running_ == 0;
  };
  mu_.Await(absl::Condition(&idle));
}

void ThreadPool::Run(int worker) {
  if (worker_start_) worker_start_(worker);
  while (true) {
    std::function<void(int)> task;
    {
      MutexLock lock(&mu_);
      const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
        return !tasks_.empty() || closing_;
      };
      mu_.Await(absl::Condition(&ready));
      if (tasks_.empty()) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
      ++running_;
    }
    task(worker);
    MutexLock lock(&mu_);
    --running_;
  }
}

}  // namespace choir::base
