// Real agents that hand their work over only in secret, and a job that asks
// them to evaluate, whose results no mask protects.
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/cluster.h"
#include "tests/support/golden.h"
#include "tests/support/process.h"

namespace choir::tests {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int kAgents = 4;
constexpr int kRounds = 2;
// Less than the deadline of a round (120 s): nobody may wait for it.
constexpr absl::Duration kLimit = absl::Seconds(100);

struct Evaluations {
  int started = 0;
  int finished = 0;
  // Clients whose reports were accepted, and how often.
  std::map<std::string, int> accepted;
  // Of declined ones, by client.
  std::map<std::string, std::vector<std::string>> reasons;
};

class EvaluationPolicyE2eTest : public testing::Test {
 protected:
  EvaluationPolicyE2eTest() { cluster_.StartCoordinator(); }

  void Start(const std::string& name, const std::string& policy) {
    const std::string data = cluster_.PathOf(name + ".jsonl");
    ASSERT_TRUE(base::WriteFileAtomic(data, MakeExamples(name, 40)).ok());
    cluster_.AddAgent(name, data);
    const std::string file = cluster_.PathOf(name + ".toml");
    ASSERT_TRUE(
        base::WriteFileAtomic(
            file,
            absl::StrCat(*base::ReadFile(file),
                         "[secure_aggregation]\nrequired = true\n", policy))
            .ok());
    cluster_.StartAgent(name);
  }

  void RunJob(const std::string& name, const std::string& evaluation) {
    cluster_.Submit(MicroJob(
        name, kRounds, kAgents,
        absl::StrCat(evaluation,
                     "[secure_aggregation]\nenabled = true\nmin_clients = 3\n"
                     "phase_deadline = \"60s\"\n")));
    const JobView job = cluster_.AwaitJob(name, kLimit);
    EXPECT_EQ(job.state, "done") << cluster_.Logs();
    EXPECT_EQ(job.rounds_committed, kRounds);
    EXPECT_EQ(job.rounds_lost, 0);
  }

  Evaluations EvaluationsOf(const std::string& job) {
    const CommandResult exported =
        RunCommand({base::JoinPath(BinDir(), "choir-audit"), "export",
                    cluster_.store(), "--out", "-"});
    EXPECT_EQ(exported.exit_code, 0) << exported.err;
    Evaluations seen;
    for (const absl::string_view line : absl::StrSplit(exported.out, '\n')) {
      const nlohmann::json event = nlohmann::json::parse(
          std::string(line), nullptr, /*allow_exceptions=*/false);
      if (!event.is_object() || event.value("job", "") != job) continue;
      const nlohmann::json& record = event["record"];
      seen.started += record.contains("evaluation_started");
      seen.finished += record.contains("evaluation_finished");
      if (record.contains("evaluation_accepted")) {
        ++seen.accepted[record["evaluation_accepted"]["client"]];
      }
      if (record.contains("client_lost")) {
        const nlohmann::json& lost = record["client_lost"];
        seen.reasons[lost["client"]].push_back(lost["reason"]);
      }
    }
    return seen;
  }

  Cluster cluster_;
};

TEST_F(EvaluationPolicyE2eTest, WhoHandsOverInSecretAloneIsNotHeardInTheOpen) {
  for (int i = 1; i < kAgents; ++i) Start(absl::StrCat("agent-", i), "");
  Start("volunteer", "open_evaluation = true\n");
  // Secure jobs do not evaluate by themselves.
  RunJob("by-default", "");
  RunJob("asks", "[evaluation]\nevery = 1\n");

  EXPECT_EQ(EvaluationsOf("by-default").started, 0);
  const Evaluations asked = EvaluationsOf("asks");
  EXPECT_EQ(asked.started, kRounds + 1);
  EXPECT_EQ(asked.finished, kRounds + 1);
  EXPECT_THAT(asked.accepted,
              ElementsAre(testing::Pair("volunteer", kRounds + 1)));
  EXPECT_EQ(asked.reasons.size(), static_cast<size_t>(kAgents - 1));
  for (const auto& [client, reasons] : asked.reasons) {
    EXPECT_THAT(reasons, testing::SizeIs(kRounds + 1)) << client;
    EXPECT_THAT(reasons, testing::Each(HasSubstr("does not evaluate")));
  }
  EXPECT_EQ(VerifyProblem(cluster_.store()), "");
}

TEST_F(EvaluationPolicyE2eTest, AJobThatNobodyEvaluatesFinishes) {
  for (int i = 1; i <= kAgents; ++i) Start(absl::StrCat("agent-", i), "");
  RunJob("asks", "[evaluation]\nevery = 1\n");
  const Evaluations asked = EvaluationsOf("asks");
  EXPECT_EQ(asked.finished, kRounds + 1);
  EXPECT_THAT(asked.accepted, IsEmpty());
  EXPECT_EQ(VerifyProblem(cluster_.store()), "");
}

}  // namespace
}  // namespace choir::tests
