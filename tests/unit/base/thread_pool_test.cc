#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>

namespace choir::base {
namespace {

TEST(ThreadPoolTest, RunsEveryTaskOnceBeforeWaitReturns) {
  ThreadPool pool(3);
  std::vector<std::atomic<int>> runs(1000);
  for (std::atomic<int>& run : runs) {
    pool.Add([&run](int) { ++run; });
  }
  pool.Wait();
  for (const std::atomic<int>& run : runs) EXPECT_EQ(run, 1);
}

TEST(ThreadPoolTest, WorkersSayWhoTheyAre) {
  std::vector<int> started(4, 0);
  {
    ThreadPool pool(4, [&started](int worker) { started[worker] = 1; });
    pool.Add([](int worker) { EXPECT_LT(worker, 4); });
  }
  EXPECT_EQ(started, std::vector<int>(4, 1));
}

TEST(ThreadPoolTest, DestructorRunsWhatWasAdded) {
  std::atomic<int> done{0};
  {
    ThreadPool pool(1);
    for (int i = 0; i < 50; ++i) pool.Add([&done](int) { ++done; });
  }
  EXPECT_EQ(done, 50);
}

}  // namespace
}  // namespace choir::base
