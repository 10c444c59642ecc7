// kill -9 at random moments: the job finishes, no round is counted twice, the
// journal verifies, and the adapter is the one of an undisturbed run.
#include <gtest/gtest.h>
#include <signal.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/files.h"
#include "base/sim_random.h"
#include "tests/support/cluster.h"
#include "tests/support/golden.h"

namespace choir::tests {
namespace {

constexpr int kAgents = 3;
constexpr int kRounds = 10;
constexpr int kKills = 30;

// Adapter digests of the rounds committed, by job and round. Fails the test if
// a round was committed twice.
std::map<std::string, std::string> CommittedRounds(const std::string& store) {
  const CommandResult result = RunCommand(
      {base::JoinPath(BinDir(), "choir-audit"), "export", store, "--out", "-"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  std::map<std::string, std::string> rounds;
  for (const absl::string_view line : absl::StrSplit(result.out, '\n')) {
    if (line.empty()) continue;
    const nlohmann::json event = nlohmann::json::parse(
        std::string(line), nullptr, /*allow_exceptions=*/false);
    if (!event.is_object() || !event["record"].contains("round_committed")) {
      continue;
    }
    const nlohmann::json& committed = event["record"]["round_committed"];
    const std::string key = absl::StrCat(committed["job"].get<std::string>(),
                                         "/", committed["round"].get<int>());
    EXPECT_EQ(rounds.count(key), 0u) << key << " was committed twice";
    rounds[key] = committed["adapter"]["digest"].get<std::string>();
  }
  return rounds;
}

std::string UndisturbedDigest() {
  Cluster cluster;
  cluster.StartCoordinator();
  cluster.StartAgents(kAgents);
  cluster.Submit(MicroJob("job-0", kRounds, kAgents));
  const JobView view = cluster.AwaitJob("job-0", absl::Seconds(120));
  EXPECT_EQ(view.state, "done") << cluster.Logs();
  cluster.coordinator()->Signal(SIGTERM);
  EXPECT_TRUE(cluster.coordinator()->Wait(absl::Seconds(30)));
  EXPECT_EQ(cluster.coordinator()->exit_code(), 0) << cluster.Logs();
  const auto rounds = CommittedRounds(cluster.store());
  EXPECT_EQ(rounds.size(), static_cast<size_t>(kRounds));
  return rounds.count("job-0/10") ? rounds.at("job-0/10") : "";
}

TEST(CrashTest, KilledCoordinatorsAndAgentsChangeNothing) {
  const std::string undisturbed = UndisturbedDigest();
  ASSERT_FALSE(undisturbed.empty());

  Cluster cluster;
  cluster.StartCoordinator();
  cluster.StartAgents(kAgents);
  base::SimRandom random(20);
  int jobs = 1;
  cluster.Submit(MicroJob("job-0", kRounds, kAgents));
  for (int kill = 0; kill < kKills; ++kill) {
    absl::SleepFor(absl::Milliseconds(random.Below(500)));
    cluster.coordinator()->Signal(SIGKILL);
    ASSERT_TRUE(cluster.coordinator()->Wait(absl::Seconds(10)));
    if (kill % 2 == 0) {
      const std::string victim = cluster.agent_names()[random.Below(kAgents)];
      cluster.agent(victim)->Signal(SIGKILL);
      ASSERT_TRUE(cluster.agent(victim)->Wait(absl::Seconds(10)));
      cluster.StartAgent(victim);
    }
    cluster.StartCoordinator();
    // There is always a job to disturb.
    const std::string current = absl::StrCat("job-", jobs - 1);
    if (cluster.ShowJob(current).state == "done") {
      cluster.Submit(MicroJob(absl::StrCat("job-", jobs), kRounds, kAgents));
      ++jobs;
    }
  }
  for (int i = 0; i < jobs; ++i) {
    const JobView view =
        cluster.AwaitJob(absl::StrCat("job-", i), absl::Seconds(180));
    ASSERT_EQ(view.state, "done") << "job-" << i << "\n" << cluster.Logs();
    EXPECT_EQ(view.rounds_committed, kRounds);
    EXPECT_EQ(view.rounds_lost, 0);
  }
  cluster.coordinator()->Signal(SIGTERM);
  ASSERT_TRUE(cluster.coordinator()->Wait(absl::Seconds(30)));
  EXPECT_EQ(VerifyProblem(cluster.store()), "");
  const auto rounds = CommittedRounds(cluster.store());
  EXPECT_EQ(rounds.size(), static_cast<size_t>(kRounds * jobs));
  EXPECT_EQ(rounds.at("job-0/10"), undisturbed);
}

}  // namespace
}  // namespace choir::tests
