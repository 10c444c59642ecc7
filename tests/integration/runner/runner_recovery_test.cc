// A job over a real store that is cut off at every append, or whose disk is
// full for a while, ends with the same adapter as one that is left in peace.
#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "gtest/gtest.h"
#include "tests/integration/runner/fake_fleet.h"

namespace choir::runner {
namespace {

const std::vector<std::string>& Clients() {
  static const auto* const kClients =
      new std::vector<std::string>{"ada", "ben", "cyd"};
  return *kClients;
}

class RunnerRecoveryTest : public ::testing::Test {
 protected:
  RunnerRecoveryTest() {
    base::SetLogLevel(base::LogLevel::kOff);
    WriteBaseModel(folder_.path() + "/base");
    job_ = FleetJob(folder_.path() + "/base", 3, 3);
    job_.evaluation.every = 2;
  }

  std::unique_ptr<FaultyStore> Open(const std::string& name) {
    absl::StatusOr<std::unique_ptr<store::Store>> store = store::Store::Open(
        folder_.path() + "/" + name, base::Durability::kProcessCrash, clock_);
    EXPECT_TRUE(store.ok()) << store.status();
    return std::make_unique<FaultyStore>(*std::move(store));
  }

  // The final adapter of an uninterrupted run, and how many appends it made.
  std::string Reference(int* appends) {
    std::unique_ptr<FaultyStore> store = Open("reference");
    FakeFleet fleet(Clients(), *store, clock_);
    EXPECT_TRUE(fleet.Start(job_).ok());
    const absl::Status run = fleet.Run();
    EXPECT_TRUE(run.ok()) << run;
    EXPECT_EQ(fleet.runner().progress().result.state(), v1::JobFinished::DONE);
    *appends = store->appends;
    return fleet.runner().progress().adapter.digest();
  }

  // What the journal says happened; checks that no round is there twice.
  std::vector<std::string> Committed(store::Store& store) {
    std::vector<std::string> adapters;
    const absl::Status read =
        store.journal().ForEach([&](const store::JournalEntry& entry) {
          if (entry.record.has_round_committed()) {
            const v1::RoundCommitted& round = entry.record.round_committed();
            EXPECT_EQ(round.round(), adapters.size() + 1);
            EXPECT_EQ(round.survivors_size(), 3);
            adapters.push_back(round.adapter().digest());
          }
          return absl::OkStatus();
        });
    EXPECT_TRUE(read.ok()) << read;
    return adapters;
  }

  // Blobs that are neither model, adapter, sum nor server state.
  int LeftoverUpdates(store::Store& store) {
    int updates = 0;
    const auto blobs = store.blobs().List();
    EXPECT_TRUE(blobs.ok());
    for (const std::string& digest : *blobs) {
      updates += store.blobs().Read(digest)->substr(0, 4) == "CHU1";
    }
    return updates;
  }

  TempFolder folder_;
  base::ManualClock clock_;
  config::JobOptions job_;
};

TEST_F(RunnerRecoveryTest, CutOffAtEveryAppendItEndsWithTheSameAdapter) {
  int appends = 0;
  const std::string expected = Reference(&appends);
  ASSERT_GT(appends, 15);
  for (int cut = 1; cut <= appends; ++cut) {
    for (const bool after : {false, true}) {
      const std::string name = absl::StrCat("cut", cut, after ? "b" : "a");
      {
        std::unique_ptr<FaultyStore> store = Open(name);
        store->append_fault = [&](bool is_after) -> absl::Status {
          if (store->appends == cut && is_after == after) {
            return absl::InternalError("the process is killed here");
          }
          return absl::OkStatus();
        };
        FakeFleet fleet(Clients(), *store, clock_);
        absl::Status status = fleet.Start(job_);
        if (status.ok()) status = fleet.Run();
        ASSERT_FALSE(status.ok()) << name;
      }
      std::unique_ptr<FaultyStore> store = Open(name);
      FakeFleet fleet(Clients(), *store, clock_);
      absl::Status status = fleet.Start(job_);
      ASSERT_TRUE(status.ok()) << name << ": " << status;
      status = fleet.Run();
      ASSERT_TRUE(status.ok()) << name << ": " << status;
      EXPECT_EQ(fleet.runner().progress().adapter.digest(), expected) << name;
      EXPECT_EQ(Committed(*store).size(), 3u) << name;
      EXPECT_EQ(LeftoverUpdates(*store), 0) << name;
    }
  }
}

TEST_F(RunnerRecoveryTest, AFullDiskIsWaitedOutAndLosesNothing) {
  int appends = 0;
  const std::string expected = Reference(&appends);
  for (int full = 2; full <= appends; ++full) {
    const std::string name = absl::StrCat("full", full);
    std::unique_ptr<FaultyStore> store = Open(name);
    int failures = 0;
    store->append_fault = [&](bool after) -> absl::Status {
      if (!after && store->appends >= full && failures < 3) {
        ++failures;
        return absl::ResourceExhaustedError("no space left on device");
      }
      return absl::OkStatus();
    };
    FakeFleet fleet(Clients(), *store, clock_);
    ASSERT_TRUE(fleet.Start(job_).ok());
    int unavailable = 0;
    for (int turn = 0; turn < 100 && !fleet.runner().finished(); ++turn) {
      const absl::Status status = fleet.Turn();
      if (status.ok()) continue;
      ASSERT_TRUE(absl::IsUnavailable(status)) << status;
      EXPECT_NE(status.message().find("no space left"), std::string::npos);
      EXPECT_TRUE(fleet.runner().next_wakeup().has_value());
      ++unavailable;
    }
    EXPECT_GT(unavailable, 0) << name;
    EXPECT_EQ(failures, 3) << name;
    ASSERT_TRUE(fleet.runner().finished()) << name;
    EXPECT_EQ(fleet.runner().progress().adapter.digest(), expected) << name;
    EXPECT_EQ(fleet.runner().progress().rounds_lost, 0u) << name;
    EXPECT_EQ(Committed(*store).size(), 3u) << name;
  }
}

TEST_F(RunnerRecoveryTest, NoSpaceForASumIsNoLostRound) {
  int appends = 0;
  const std::string expected = Reference(&appends);
  std::unique_ptr<FaultyStore> store = Open("put");
  FakeFleet fleet(Clients(), *store, clock_);
  ASSERT_TRUE(fleet.Start(job_).ok());
  while (fleet.tasks().empty() ||
         fleet.tasks().begin()->second.key().kind() != v1::TASK_KIND_TRAIN) {
    ASSERT_TRUE(fleet.Turn().ok());
  }
  std::vector<engine::Event> reports;
  for (const std::string& client : Clients()) {
    if (fleet.tasks().count(client) == 0) continue;
    const absl::StatusOr<engine::Event> event = fleet.DoTask(client);
    ASSERT_TRUE(event.ok());
    reports.push_back(*event);
  }
  bool full = true;
  store->put_fault = [&]() -> absl::Status {
    return full ? absl::ResourceExhaustedError("no space left on device")
                : absl::OkStatus();
  };
  for (const engine::Event& report : reports) {
    const auto response = fleet.runner().Post(report);
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->verdict(), v1::ReportResponse::ACCEPTED);
  }
  fleet.tasks().clear();
  EXPECT_EQ(fleet.runner().progress().rounds_committed, 0u);
  EXPECT_TRUE(absl::IsUnavailable(fleet.runner().Poll()));
  ASSERT_TRUE(fleet.runner().next_wakeup().has_value());
  full = false;
  EXPECT_TRUE(fleet.runner().Poll().ok());
  EXPECT_EQ(fleet.runner().progress().rounds_committed, 1u);
  ASSERT_TRUE(fleet.Run().ok());
  EXPECT_EQ(fleet.runner().progress().adapter.digest(), expected);
  EXPECT_EQ(fleet.runner().progress().rounds_lost, 0u);
}

TEST_F(RunnerRecoveryTest, ArrivalOrderAndThreadsDoNotChangeTheAdapter) {
  std::vector<std::string> clients;
  for (int i = 0; i < 24; ++i) clients.push_back(absl::StrCat("c", 10 + i));
  job_ = FleetJob(folder_.path() + "/base", 2, 24);
  std::set<std::string> adapters;
  base::ThreadPool one(1);
  base::ThreadPool three(3);
  base::ThreadPool* const pools[] = {nullptr, &one, &three};
  for (int i = 0; i < 3; ++i) {
    std::unique_ptr<FaultyStore> store = Open(absl::StrCat("order", i));
    FakeFleet fleet(clients, *store, clock_);
    ASSERT_TRUE(fleet.Start(job_, {}, pools[i]).ok());
    ASSERT_TRUE(fleet.Run().ok());
    adapters.insert(fleet.runner().progress().adapter.digest());
    std::reverse(clients.begin(), clients.begin() + 10 + i);
  }
  EXPECT_EQ(adapters.size(), 1u);
}

TEST_F(RunnerRecoveryTest, AFinishedJobStaysFinished) {
  int appends = 0;
  const std::string expected = Reference(&appends);
  std::unique_ptr<FaultyStore> store = Open("reference");
  const uint64_t entries = store->journal().num_entries();
  FakeFleet fleet(Clients(), *store, clock_);
  ASSERT_TRUE(fleet.Start(job_).ok());
  EXPECT_TRUE(fleet.runner().finished());
  EXPECT_EQ(fleet.runner().progress().adapter.digest(), expected);
  EXPECT_EQ(store->journal().num_entries(), entries);
}

}  // namespace
}  // namespace choir::runner
