// Whole agents against a coordinator in memory: every call lost before and
// after its effect, and the agent killed at each of them.
#include "client/agent/agent.h"

#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/log.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/golden.h"
#include "tests/unit/client/fakes.h"

namespace choir::client {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

constexpr int kRounds = 3;

// Thrown out of a call, it takes the agent with it as kill -9 would: nothing
// is written on the way.
struct Killed {};

// A coordinator with three rounds of work, and the disk of one agent.
struct World {
  World() {
    base::SetLogLevel(base::LogLevel::kOff);
    options.name = "alice";
    options.state = base::JoinPath(tests::NewTempDir(), "state");
    options.token_file = base::JoinPath(tests::NewTempDir(), "token");
    std::ofstream(options.token_file) << "secret-token\n";
    options.ca_certificate = base::JoinPath(tests::NewTempDir(), "ca.crt");
    std::ofstream(options.ca_certificate) << FakeCa().certificate_pem();
    for (int round = 1; round <= kRounds; ++round) {
      AddTask(round, v1::TASK_KIND_TRAIN);
      AddTask(round, v1::TASK_KIND_EVALUATE);
    }
  }

  v1::BlobRef Put(const std::string& bytes) {
    const v1::BlobRef ref = RefOf(bytes);
    coordinator.blobs[ref.digest()] = bytes;
    return ref;
  }

  void AddTask(int round, v1::TaskKind kind) {
    v1::TaskPlan plan;
    plan.mutable_key()->set_job("job");
    plan.mutable_key()->set_round(round);
    plan.mutable_key()->set_attempt(1);
    plan.mutable_key()->set_kind(kind);
    plan.set_seed(round);
    plan.set_deadline_ms(600000);
    for (const char* name : {"config.json", "model.safetensors"}) {
      v1::ModelFile* file = plan.add_base_model();
      file->set_name(name);
      *file->mutable_blob() = Put(std::string(name) + std::string(300, '.'));
    }
    *plan.mutable_adapter() = Put("adapter " + std::to_string(round));
    coordinator.plans.push_back(plan);
  }

  bool AllDone() const { return coordinator.accepted.size() == 2 * kRounds; }

  // One life of an agent, until `rounds` updates were accepted; 0: until the
  // coordinator has everything.
  absl::StatusOr<AgentSummary> Live(uint64_t rounds = 0) {
    FakeSleeper sleeper(clock);
    if (rounds == 0) sleeper.stop_when = [this] { return AllDone(); };
    SeededRandom random(9);
    auto state = StateDir::Open(options.state);
    if (!state.ok()) return state.status();
    Agent agent(options, *std::move(state),
                {coordinator, runner, clock, random, sleeper});
    current_sleeper = &sleeper;
    auto summary = agent.Run(rounds);
    current_sleeper = nullptr;
    slept = sleeper.slept();
    return summary;
  }

  // Each task counted once, with the right bytes.
  void ExpectAllDone(const std::string& where) {
    std::set<std::string> keys;
    for (const v1::ReportRequest& report : coordinator.accepted) {
      ASSERT_TRUE(keys.insert(FakeCoordinator::KeyText(report.key())).second)
          << where;
      ASSERT_FALSE(report.has_failure())
          << where << ": " << report.failure().reason();
      if (!report.has_train()) continue;
      v1::TaskPlan plan;
      plan.set_seed(report.key().round());
      ASSERT_TRUE(coordinator.uploads[report.train().update().digest()] ==
                  FakeRunner::UpdateOf(plan))
          << where;
    }
    ASSERT_EQ(keys.size(), 2u * kRounds) << where;
  }

  base::ManualClock clock{FakeStart()};
  FakeCoordinator coordinator{FakeCa(), clock};
  FakeRunner runner;
  ClientOptions options;
  FakeSleeper* current_sleeper = nullptr;
  std::vector<absl::Duration> slept;
};

TEST(AgentTest, WorksUntilItsRoundsAreDone) {
  World world;
  const auto summary = world.Live(kRounds);
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_EQ(summary->rounds, 3u);
  EXPECT_EQ(summary->evaluations, 2u);  // leaves before the last
  EXPECT_FALSE(summary->stopped);
  EXPECT_EQ(summary->bytes_up, 1800000u);
  ASSERT_EQ(world.coordinator.accepted.size(), 5u);
  EXPECT_EQ(world.runner.adapters.back(), "adapter 3");
  // config.json, model.safetensors and the adapter; then the adapter alone.
  EXPECT_EQ(world.coordinator.accepted[0].train().bytes_downloaded(), 637u);
  EXPECT_EQ(world.coordinator.accepted[2].train().bytes_downloaded(), 9u);
  EXPECT_EQ(world.coordinator.download_offsets.size(), 2u + kRounds);
  // Of the adapters only the last is kept.
  EXPECT_EQ(
      base::ListDirectory(base::JoinPath(world.options.state, "blobs"))->size(),
      3u);
}

// Number of points at which a call can be lost or the agent killed.
int CountPoints() {
  World world;
  int points = 0;
  world.coordinator.fault = [&](const std::string&, const std::string&) {
    ++points;
    return absl::OkStatus();
  };
  EXPECT_TRUE(world.Live().ok());
  world.ExpectAllDone("undisturbed");
  return points;
}

// Lives once for each call, losing the connection there.
void LoseEachCall(bool coordinator_is_killed) {
  const int points = CountPoints();
  ASSERT_GT(points, 60);
  for (int lost = 1; lost <= points; ++lost) {
    World world;
    int point = 0;
    std::string where;
    world.coordinator.fault = [&](const std::string& call,
                                  const std::string& when) {
      if (++point != lost) return absl::OkStatus();
      where = absl::StrCat("lost ", when, " ", call, " (", lost, ")");
      if (coordinator_is_killed) world.coordinator.Restart();
      return absl::UnavailableError("connection lost");
    };
    const auto summary = world.Live();
    ASSERT_TRUE(summary.ok()) << where << ": " << summary.status();
    world.ExpectAllDone(where);
    // An answer that is lost does not cost a second training.
    ASSERT_EQ(world.runner.runs, 2 * kRounds) << where;
    ASSERT_EQ(summary->rounds, 3u) << where;
  }
}

TEST(AgentTest, ComesThroughALostConnectionAtEachCall) { LoseEachCall(false); }

TEST(AgentTest, ComesThroughACoordinatorThatIsKilledAtEachCall) {
  LoseEachCall(true);
}

TEST(AgentTest, GoesOnAfterBeingKilledAtEachCall) {
  const int points = CountPoints();
  for (int killed = 1; killed <= points; ++killed) {
    World world;
    int point = 0;
    std::string where;
    world.coordinator.fault = [&](const std::string& call,
                                  const std::string& when) -> absl::Status {
      if (++point != killed) return absl::OkStatus();
      where = absl::StrCat("killed ", when, " ", call, " (", killed, ")");
      throw Killed();
    };
    EXPECT_THROW((void)world.Live(), Killed);
    const auto summary = world.Live();
    ASSERT_TRUE(summary.ok()) << where << ": " << summary.status();
    world.ExpectAllDone(where);
    // Finished work is kept.
    ASSERT_EQ(world.runner.runs, 2 * kRounds) << where;
  }
}

TEST(AgentTest, GoesOnAfterBeingKilledWhileTraining) {
  World world;
  int runs = 0;
  world.runner.on_run = [&](const model::ProgressFn&) -> absl::Status {
    if (++runs == 3) throw Killed();
    return absl::OkStatus();
  };
  EXPECT_THROW((void)world.Live(), Killed);
  ASSERT_TRUE(world.Live().ok());
  world.ExpectAllDone("killed while training");
}

TEST(AgentTest, ResumesAnUploadWhereItBrokeOff) {
  World world;
  int chunks = 0;
  world.coordinator.fault = [&](const std::string& call, const std::string&) {
    return call == "UploadChunk" && ++chunks == 2
               ? absl::UnavailableError("lost")
               : absl::OkStatus();
  };
  const auto summary = world.Live(1);
  ASSERT_TRUE(summary.ok());
  EXPECT_EQ(summary->bytes_up, 600000u);
}

TEST(AgentTest, KeepsTryingWhileTheCoordinatorIsAway) {
  World world;
  int failures = 40;
  world.coordinator.fault = [&](const std::string& call, const std::string&) {
    return call == "CheckIn" && failures-- > 0
               ? absl::UnavailableError("connection refused")
               : absl::OkStatus();
  };
  const auto summary = world.Live(1);
  ASSERT_TRUE(summary.ok());
  EXPECT_EQ(summary->rounds, 1u);
  ASSERT_GE(world.slept.size(), 40u);
  EXPECT_THAT(world.slept, Each(testing::Le(absl::Seconds(20))));
  EXPECT_GE(world.slept[39], absl::Seconds(10));
}

TEST(AgentTest, EndsWhenItIsRevoked) {
  World world;
  ASSERT_TRUE(world.Live(1).ok());
  world.coordinator.fault = [&](const std::string& call, const std::string&) {
    return absl::UnauthenticatedError("certificate of alice is revoked");
  };
  const auto summary = world.Live();
  EXPECT_EQ(summary.status().code(), absl::StatusCode::kUnauthenticated);
  EXPECT_THAT(summary.status().message(), HasSubstr("revoked"));
}

TEST(AgentTest, GivesADamagedBlobUpAfterThreeTries) {
  World world;
  world.coordinator.damage_downloads = 2;
  ASSERT_TRUE(world.Live(1).ok());
  ASSERT_TRUE(world.coordinator.accepted[0].has_train());

  World broken;
  broken.coordinator.damage_downloads = 1000;
  ASSERT_TRUE(broken.Live().ok());
  ASSERT_FALSE(broken.coordinator.accepted.empty());
  ASSERT_TRUE(broken.coordinator.accepted[0].has_failure());
  EXPECT_THAT(broken.coordinator.accepted[0].failure().reason(),
              HasSubstr("digest"));
  EXPECT_EQ(broken.runner.runs, 0);
}

TEST(AgentTest, TellsTheCoordinatorWhenAnUploadIsRefused) {
  World world;
  world.coordinator.upload_refusal =
      absl::ResourceExhaustedError("update is over the limit");
  ASSERT_TRUE(world.Live().ok());
  ASSERT_TRUE(world.coordinator.accepted[0].has_failure());
  EXPECT_THAT(world.coordinator.accepted[0].failure().reason(),
              HasSubstr("over the limit"));
}

TEST(AgentTest, DropsWorkWhoseRoundIsOver) {
  World world;
  world.coordinator.verdict = v1::ReportResponse::TOO_LATE;
  const auto summary = world.Live();
  ASSERT_TRUE(summary.ok());
  EXPECT_EQ(summary->rounds, 0u);
  EXPECT_EQ(summary->too_late, 2u * kRounds);
  EXPECT_TRUE(world.AllDone());
}

TEST(AgentTest, AbandonsATaskPastItsDeadline) {
  World world;
  int runs = 0;
  world.runner.on_run = [&](const model::ProgressFn& progress) {
    if (++runs == 1) world.clock.Advance(absl::Minutes(11));
    return progress(1, 2);
  };
  const auto summary = world.Live();
  ASSERT_TRUE(summary.ok());
  world.ExpectAllDone("after a missed deadline");
  EXPECT_EQ(world.runner.runs, 2 * kRounds + 1);
}

TEST(AgentTest, StopsWhileTrainingAndTakesTheTaskUpAgain) {
  World world;
  world.runner.on_run = [&](const model::ProgressFn& progress) {
    if (world.runner.runs == 2) world.current_sleeper->stop = true;
    return progress(1, 2);
  };
  const auto summary = world.Live();
  ASSERT_TRUE(summary.ok());
  EXPECT_TRUE(summary->stopped);
  EXPECT_EQ(world.coordinator.accepted.size(), 1u);
  ASSERT_TRUE(world.Live().ok());
  world.ExpectAllDone("after a stop");
}

TEST(AgentTest, WaitsLongerWhenItsWorkKeepsFailing) {
  World world;
  for (v1::TaskPlan& plan : world.coordinator.plans) {
    plan.mutable_base_model(0)->set_name("../escape");
  }
  ASSERT_TRUE(world.Live().ok());
  ASSERT_TRUE(world.AllDone());
  for (const v1::ReportRequest& report : world.coordinator.accepted) {
    EXPECT_TRUE(report.has_failure());
  }
  ASSERT_GE(world.slept.size(), 5u);
  // The first wait is a second at most.
  EXPECT_GT(world.slept[4], absl::Seconds(3));
}

}  // namespace
}  // namespace choir::client
