// kill -9 at random moments of rounds that are summed in secret, and as soon as
// a secure phase is seen to begin: attempts are abandoned cleanly, no session
// is used twice, no masked vector stays behind, and the adapter is the one of
// an undisturbed job that sums in the open.
#include <gtest/gtest.h>
#include <signal.h>

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/files.h"
#include "base/sim_random.h"
#include "tests/support/cluster.h"
#include "tests/support/golden.h"

namespace choir::tests {
namespace {

struct Plan {
  int agents = 4;
  int rounds = 6;
  int kills = 16;
  // Of [secure_aggregation].
  std::string settings;
};

std::string Job(const Plan& plan, const std::string& name, bool secure) {
  return MicroJob(
      name, plan.rounds, plan.agents,
      absl::StrCat("max_lost_in_a_row = 100000\n",
                   "[evaluation]\nevery = 1\n[secure_aggregation]\nenabled = ",
                   secure ? "true" : "false",
                   "\nmin_clients = 3\nphase_deadline = \"10s\"\n",
                   secure ? plan.settings : ""));
}

struct Story {
  std::string last_adapter;
  int lost = 0;
  int lost_in_a_phase = 0;
};

Story StoryOf(const std::string& store, const std::string& job) {
  const CommandResult result = RunCommand(
      {base::JoinPath(BinDir(), "choir-audit"), "export", store, "--out", "-"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  Story story;
  for (const absl::string_view line : absl::StrSplit(result.out, '\n')) {
    const nlohmann::json event = nlohmann::json::parse(
        std::string(line), nullptr, /*allow_exceptions=*/false);
    if (!event.is_object() || event["job"] != job) continue;
    const nlohmann::json& record = event["record"];
    if (record.contains("round_committed")) {
      story.last_adapter =
          record["round_committed"]["adapter"]["digest"].get<std::string>();
    } else if (record.contains("round_lost")) {
      ++story.lost;
      story.lost_in_a_phase +=
          absl::StrContains(record["round_lost"]["reason"].get<std::string>(),
                            "restarted in phase")
              ? 1
              : 0;
    }
  }
  return story;
}

int MaskedVectors(const std::string& store) {
  int count = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(
           base::JoinPath(store, "blobs"))) {
    if (!entry.is_regular_file()) continue;
    const auto bytes = base::ReadFile(entry.path().string(), 1 << 30);
    count += bytes.ok() && absl::StartsWith(*bytes, "CHV1") ? 1 : 0;
  }
  return count;
}

// How often the coordinator has opened the phases after training.
int PhasesOpened(const Cluster& cluster) {
  const std::string log =
      base::ReadFile(cluster.PathOf("coordinator.log")).value_or("");
  const std::vector<absl::string_view> parts =
      absl::StrSplit(log, "each sharing with");
  return static_cast<int>(parts.size()) - 1;
}

// Returns as soon as a round enters those phases, which last some hundredths of
// a second; or after five seconds, if the job has ended.
void AwaitSecurePhase(const Cluster& cluster) {
  const int before = PhasesOpened(cluster);
  const absl::Time end = absl::Now() + absl::Seconds(5);
  while (PhasesOpened(cluster) == before && absl::Now() < end) {
    absl::SleepFor(absl::Milliseconds(1));
  }
}

// Kills the coordinator `plan.kills` times while jobs that sum in secret run
// one after the other, every fourth time with an agent; all must end with the
// adapter of a job that sums in the open. Counts the attempts that were cut off
// amid a secure phase.
void SurviveKills(const Plan& plan, int* cut_off) {
  Cluster cluster;
  cluster.StartCoordinator();
  for (int i = 1; i <= plan.agents; ++i) {
    const std::string name = absl::StrCat("agent-", i);
    const std::string data = cluster.PathOf(name + ".jsonl");
    ASSERT_TRUE(base::WriteFileAtomic(data, MakeExamples(name, 24)).ok());
    cluster.AddAgent(name, data);
    cluster.StartAgent(name);
  }
  cluster.Submit(Job(plan, "plain", false));
  ASSERT_EQ(cluster.AwaitJob("plain", absl::Seconds(120)).state, "done")
      << cluster.Logs();
  base::SimRandom random(4);
  int jobs = 1;
  cluster.Submit(Job(plan, "secure-0", true));
  for (int kill = 0; kill < plan.kills; ++kill) {
    if (kill % 2 == 0) {
      AwaitSecurePhase(cluster);
      absl::SleepFor(absl::Milliseconds(random.Below(20)));
    } else {
      absl::SleepFor(absl::Milliseconds(100 + random.Below(900)));
    }
    cluster.coordinator()->Signal(SIGKILL);
    ASSERT_TRUE(cluster.coordinator()->Wait(absl::Seconds(10)));
    if (kill % 4 == 0) {
      const std::string victim =
          cluster.agent_names()[random.Below(plan.agents)];
      cluster.agent(victim)->Signal(SIGKILL);
      ASSERT_TRUE(cluster.agent(victim)->Wait(absl::Seconds(10)));
      cluster.StartAgent(victim);
    }
    cluster.StartCoordinator();
    const std::string current = absl::StrCat("secure-", jobs - 1);
    if (cluster.ShowJob(current).state == "done") {
      cluster.Submit(Job(plan, absl::StrCat("secure-", jobs++), true));
    }
  }
  for (int i = 0; i < jobs; ++i) {
    const JobView view =
        cluster.AwaitJob(absl::StrCat("secure-", i), absl::Seconds(240));
    ASSERT_EQ(view.state, "done") << i << "\n" << cluster.Logs();
    EXPECT_EQ(view.rounds_committed, plan.rounds);
  }
  cluster.coordinator()->Signal(SIGTERM);
  ASSERT_TRUE(cluster.coordinator()->Wait(absl::Seconds(30)));
  EXPECT_EQ(VerifyProblem(cluster.store()), "");
  EXPECT_EQ(MaskedVectors(cluster.store()), 0);
  const Story plain = StoryOf(cluster.store(), "plain");
  ASSERT_FALSE(plain.last_adapter.empty());
  for (int i = 0; i < jobs; ++i) {
    const Story story = StoryOf(cluster.store(), absl::StrCat("secure-", i));
    EXPECT_EQ(story.last_adapter, plain.last_adapter) << i;
    *cut_off += story.lost_in_a_phase;
  }
  std::printf("%d attempts were cut off amid a secure phase\n", *cut_off);
}

TEST(SecureCrashTest, KillsInAnyPhaseAbandonTheAttemptAndChangeNothing) {
  int cut_off = 0;
  SurviveKills(Plan{}, &cut_off);
  EXPECT_GT(cut_off, 0) << "no kill came amid a secure phase";
}

// Two groups of three, each summed by itself, a lost one costing the attempt.
TEST(SecureCrashTest, KillsAmidTheSumsOfGroupsChangeNothing) {
  Plan plan;
  plan.agents = 6;
  plan.rounds = 3;
  plan.kills = 8;
  plan.settings = "group_size = 3\ngroup_rule = \"mean\"\n";
  int cut_off = 0;
  SurviveKills(plan, &cut_off);
  EXPECT_GT(cut_off, 0) << "no kill came amid a secure phase";
}

}  // namespace
}  // namespace choir::tests
