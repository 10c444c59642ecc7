// The same clients give the same adapter over gRPC and in the simulator, with
// one worker and with two, and after a simulator was killed and resumed.
#include <gtest/gtest.h>
#include <signal.h>

#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "base/files.h"
#include "tests/support/cluster.h"
#include "tests/support/golden.h"

namespace choir::tests {
namespace {

constexpr int kClients = 3;
constexpr int kRounds = 6;

class EqualAdaptersTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = NewTempDir();
    std::string all;
    for (int i = 1; i <= kClients; ++i) {
      const std::string name = absl::StrCat("client-", i);
      all += MakeExamples(name, 20 + i);
      ASSERT_TRUE(base::WriteFileAtomic(base::JoinPath(dir_, name + ".jsonl"),
                                        MakeExamples(name, 20 + i))
                      .ok());
    }
    ASSERT_TRUE(
        base::WriteFileAtomic(base::JoinPath(dir_, "all.jsonl"), all).ok());
    job_ = MicroJob("equal", kRounds, kClients);
    WriteExperiment();
  }

  // With the tables of job_ below [job].
  void WriteExperiment() {
    experiment_ = base::JoinPath(dir_, "experiment.toml");
    ASSERT_TRUE(
        base::WriteFileAtomic(
            experiment_,
            absl::StrCat("[job]\n",
                         absl::StrReplaceAll(job_, {{"\n[", "\n[job."}}),
                         "[clients]\npartition = \"natural\"\n"
                         "field = \"topic\"\n[clients.data]\npath = \"",
                         base::JoinPath(dir_, "all.jsonl"), "\"\n"))
            .ok());
  }

  std::vector<std::string> SimCommand(const std::string& out,
                                      const std::string& workers) {
    return {base::JoinPath(BinDir(), "choir-sim"),
            "run",
            experiment_,
            "--out",
            base::JoinPath(dir_, out),
            "--workers",
            workers,
            "--json"};
  }

  std::string Digest(const CommandResult& result) {
    EXPECT_EQ(result.exit_code, 0) << result.out << result.err;
    const nlohmann::json summary =
        nlohmann::json::parse(result.out, nullptr, /*allow_exceptions=*/false);
    EXPECT_TRUE(summary.is_object()) << result.out << result.err;
    if (!summary.is_object()) return "";
    return std::string(
        absl::StripPrefix(summary.value("adapter_digest", ""), "sha256:"));
  }

  // job_ with one worker, with two and over gRPC.
  void ExpectEqual() {
    const std::string one = Digest(RunCommand(SimCommand("one", "1")));
    const std::string two = Digest(RunCommand(SimCommand("two", "2")));
    ASSERT_EQ(one.size(), 64u);
    EXPECT_EQ(one, two);
    EXPECT_EQ(VerifyProblem(base::JoinPath(dir_, "one/store")), "");

    Cluster cluster;
    cluster.StartCoordinator();
    for (int i = 1; i <= kClients; ++i) {
      const std::string name = absl::StrCat("client-", i);
      cluster.AddAgent(name, base::JoinPath(dir_, name + ".jsonl"));
      cluster.StartAgent(name);
    }
    cluster.Submit(job_);
    const JobView view = cluster.AwaitJob("equal", absl::Seconds(120));
    ASSERT_EQ(view.state, "done") << cluster.Logs();
    EXPECT_EQ(std::string(absl::StripPrefix(view.adapter_digest, "sha256:")),
              one);
  }

  std::string dir_;
  std::string job_, experiment_;
};

TEST_F(EqualAdaptersTest, OverGrpcAndInTheSimulator) { ExpectEqual(); }

TEST_F(EqualAdaptersTest, OfDoraOnAQuantisedBase) {
  const std::string base =
      base::JoinPath(SourceDir(), "tests/data/micro-llama");
  const std::string quantised = base::JoinPath(dir_, "quantised");
  const CommandResult made =
      RunCommand({base::JoinPath(BinDir(), "choir-model"), "quantize",
                  "--model", base, "--to", "nf4", "--out", quantised});
  ASSERT_EQ(made.exit_code, 0) << made.out << made.err;
  job_ = absl::StrReplaceAll(
      job_, {{base, quantised}, {"[adapter]", "[adapter]\nkind = \"dora\""}});
  WriteExperiment();
  ExpectEqual();
}

TEST_F(EqualAdaptersTest, AfterTheSimulatorWasKilledAndResumed) {
  const std::string whole = Digest(RunCommand(SimCommand("whole", "2")));
  const std::string out = base::JoinPath(dir_, "killed");
  std::unique_ptr<Process> process =
      Process::Start(SimCommand("killed", "2"), "");
  // The first metrics mean that at least one round has been committed.
  ASSERT_TRUE(WaitForFile(base::JoinPath(out, "metrics.jsonl"),
                          absl::Seconds(60), process.get()));
  process->Signal(SIGKILL);
  ASSERT_TRUE(process->Wait(absl::Seconds(10)));
  std::vector<std::string> resume = SimCommand("killed", "1");
  resume.push_back("--resume");
  EXPECT_EQ(Digest(RunCommand(resume)), whole);
  EXPECT_EQ(VerifyProblem(base::JoinPath(out, "store")), "");
}

}  // namespace
}  // namespace choir::tests
