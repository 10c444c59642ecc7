// Real agents and a real coordinator on loopback with mutual TLS.
#include <signal.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/exit_codes.h"
#include "base/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/cluster.h"
#include "tests/support/golden.h"
#include "tests/support/process.h"

namespace choir::tests {
namespace {

using ::testing::HasSubstr;

class AgentE2eTest : public testing::Test {
 protected:
  AgentE2eTest() { cluster_.StartCoordinator(); }

  void Add(const std::string& name) {
    const std::string data = cluster_.PathOf(name + ".jsonl");
    ASSERT_TRUE(base::WriteFileAtomic(data, MakeExamples(name, 30)).ok());
    cluster_.AddAgent(name, data);
  }
  std::vector<std::string> Client(const std::string& name) {
    return {base::JoinPath(BinDir(), "choir-client"), "--config",
            cluster_.PathOf(name + ".toml")};
  }
  std::string LogOf(const std::string& name) {
    return base::ReadFile(cluster_.PathOf(name + ".log")).value_or("");
  }
  bool AwaitLog(const std::string& name, const std::string& text) {
    const absl::Time end = absl::Now() + absl::Seconds(60);
    while (absl::Now() < end) {
      if (LogOf(name).find(text) != std::string::npos) return true;
      absl::SleepFor(absl::Milliseconds(20));
    }
    return false;
  }

  Cluster cluster_;
};

TEST_F(AgentE2eTest, AnAgentKilledMidJobFinishesIt) {
  Add("apple");
  Add("pear");
  cluster_.StartAgent("apple");
  cluster_.StartAgent("pear");
  constexpr int kRounds = 6;
  cluster_.Submit(MicroJob("job", kRounds, 2));
  // Killed in each round, wherever it then is.
  for (int round = 1; round < kRounds; ++round) {
    ASSERT_TRUE(AwaitLog(
        "apple", absl::StrCat("job job, round ", round, ": training begins")))
        << cluster_.Logs();
    cluster_.agent("apple")->Signal(SIGKILL);
    ASSERT_TRUE(cluster_.agent("apple")->Wait(absl::Seconds(10)));
    cluster_.StartAgent("apple");
  }
  const JobView job = cluster_.AwaitJob("job", absl::Seconds(120));
  EXPECT_EQ(job.state, "done") << cluster_.Logs();
  EXPECT_EQ(job.rounds_committed, kRounds);
  EXPECT_EQ(VerifyProblem(cluster_.store()), "");
}

TEST_F(AgentE2eTest, LeavesAfterItsRoundsAndStopsWhenAsked) {
  Add("apple");
  cluster_.Submit(MicroJob("job", 2, 1));
  std::vector<std::string> command = Client("apple");
  command.insert(command.end(), {"--rounds", "1", "--json"});
  const CommandResult once = RunCommand(command);
  EXPECT_EQ(once.exit_code, base::kExitDone) << once.err;
  EXPECT_THAT(once.out, HasSubstr("\"rounds\":1,"));
  EXPECT_THAT(once.err, HasSubstr("enrolled as apple"));

  cluster_.StartAgent("apple");
  ASSERT_EQ(cluster_.AwaitJob("job", absl::Seconds(60)).state, "done")
      << cluster_.Logs();
  cluster_.agent("apple")->Signal(SIGTERM);
  // It sits in a long poll, which the signal ends.
  ASSERT_TRUE(cluster_.agent("apple")->Wait(absl::Seconds(10)));
  EXPECT_EQ(cluster_.agent("apple")->exit_code(), base::kExitDone);
}

TEST_F(AgentE2eTest, RefusesToShareItsStateFolder) {
  Add("apple");
  cluster_.StartAgent("apple");
  ASSERT_TRUE(AwaitLog("apple", "enrolled as apple")) << cluster_.Logs();
  const CommandResult second = RunCommand(Client("apple"));
  EXPECT_EQ(second.exit_code, base::kExitStoreLocked);
  EXPECT_THAT(second.err, HasSubstr("another agent uses the state folder"));
}

TEST_F(AgentE2eTest, EndsWhenItsTokenIsSpentOrItIsRevoked) {
  Add("apple");
  cluster_.StartAgent("apple");
  ASSERT_TRUE(AwaitLog("apple", "enrolled as apple")) << cluster_.Logs();

  std::vector<std::string> thief = Client("apple");
  thief.insert(thief.end(), {"--set", "state=" + cluster_.PathOf("thief")});
  const CommandResult stolen = RunCommand(thief);
  EXPECT_EQ(stolen.exit_code, base::kExitFailed);
  EXPECT_THAT(stolen.err, HasSubstr("enrolment of apple was refused"));

  const CommandResult revoked = cluster_.Admin({"client", "revoke", "apple"});
  ASSERT_EQ(revoked.exit_code, 0) << revoked.err;
  ASSERT_TRUE(cluster_.agent("apple")->Wait(absl::Seconds(60)));
  EXPECT_EQ(cluster_.agent("apple")->exit_code(), base::kExitFailed);
  EXPECT_THAT(LogOf("apple"), HasSubstr("revoked"));
}

TEST_F(AgentE2eTest, ComesBackAfterTheCoordinatorWasAwayForLong) {
  Add("apple");
  cluster_.StartAgent("apple");
  ASSERT_TRUE(AwaitLog("apple", "enrolled as apple")) << cluster_.Logs();
  cluster_.coordinator()->Signal(SIGKILL);
  ASSERT_TRUE(cluster_.coordinator()->Wait(absl::Seconds(10)));
  // Its pauses have grown beyond the time a handshake may take.
  const absl::Time end = absl::Now() + absl::Seconds(60);
  while (absl::Now() < end) {
    const std::vector<std::string> tries =
        absl::StrSplit(LogOf("apple"), "next try in");
    if (tries.size() > 4) break;
    absl::SleepFor(absl::Milliseconds(50));
  }
  cluster_.StartCoordinator();
  cluster_.Submit(MicroJob("job", 1, 1));
  EXPECT_EQ(cluster_.AwaitJob("job", absl::Seconds(40)).state, "done")
      << cluster_.Logs();
}

TEST_F(AgentE2eTest, TrustsOnlyItsCa) {
  Add("apple");
  ASSERT_EQ(RunCommand({base::JoinPath(BinDir(), "choir-admin"), "ca", "init",
                        "--dir", cluster_.PathOf("other")})
                .exit_code,
            0);
  std::vector<std::string> command = Client("apple");
  command.insert(command.end(), {"--set", "ca_certificate=" +
                                              cluster_.PathOf("other/ca.crt")});
  const auto agent = Process::Start(command, cluster_.PathOf("apple.log"));
  ASSERT_TRUE(AwaitLog("apple", "next try in")) << LogOf("apple");
  EXPECT_FALSE(base::FileExists(cluster_.PathOf("apple/client.pem")));
}

}  // namespace
}  // namespace choir::tests
