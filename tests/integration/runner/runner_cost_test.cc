// What one round costs the coordinator besides training and transfer: 1,000
// clients with updates of 100,000 parameters, through JobRunner and a real
// store. Prints the figures; fails only if the round is wrong.
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/integration/runner/fake_fleet.h"

namespace choir::runner {
namespace {

TEST(RunnerCostTest, AThousandClientsOfAHundredThousandParameters) {
  constexpr int kClients = 1000;
  TempFolder folder;
  // 2 * rank * hidden = 100,000 parameters.
  WriteBaseModel(folder.path() + "/base", 1000);
  config::JobOptions job = FleetJob(folder.path() + "/base", 1, kClients);
  job.adapter.rank = 50;
  job.evaluation.every = 0;
  std::vector<std::string> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.push_back(absl::StrCat("c", 10000 + i));
  }
  for (const int threads : {0, 2}) {
    base::WallClock wall;
    base::ManualClock clock;
    absl::StatusOr<std::unique_ptr<store::Store>> store =
        store::Store::Open(absl::StrCat(folder.path(), "/store", threads),
                           base::Durability::kProcessCrash, clock);
    ASSERT_TRUE(store.ok()) << store.status();
    std::unique_ptr<base::ThreadPool> pool;
    if (threads > 0) pool = std::make_unique<base::ThreadPool>(threads);
    FakeFleet fleet(clients, **store, clock);
    ASSERT_TRUE(fleet.Start(job, {}, pool.get()).ok());
    EXPECT_EQ(fleet.runner().facts().num_parameters(), 100000u);
    absl::Time start = wall.Now();
    for (const std::string& client : clients) {
      ASSERT_TRUE(fleet.runner().Post(engine::ClientArrived{client}).ok());
    }
    const absl::Duration begin = wall.Now() - start;
    std::vector<engine::Event> reports;
    for (const std::string& client : clients) {
      absl::StatusOr<engine::Event> event = fleet.DoTask(client);
      ASSERT_TRUE(event.ok()) << event.status();
      reports.push_back(*std::move(event));
    }
    start = wall.Now();
    for (size_t i = 0; i + 1 < reports.size(); ++i) {
      ASSERT_TRUE(fleet.runner().Post(reports[i]).ok());
    }
    const absl::Duration accept = wall.Now() - start;
    start = wall.Now();
    ASSERT_TRUE(fleet.runner().Post(reports.back()).ok());
    const absl::Duration commit = wall.Now() - start;
    EXPECT_EQ(fleet.runner().progress().rounds_committed, 1u);
    std::printf(
        "%d clients, %d summing threads: begin %.1f ms, check and journal "
        "%.3f ms per update, sum, step, commit and discard %.1f ms\n",
        kClients, threads, absl::ToDoubleMilliseconds(begin),
        absl::ToDoubleMilliseconds(accept) / (kClients - 1),
        absl::ToDoubleMilliseconds(commit));
  }
}

}  // namespace
}  // namespace choir::runner
