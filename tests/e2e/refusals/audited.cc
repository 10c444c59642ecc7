#include "tests/e2e/refusals/audited.h"

#include <signal.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/files.h"
#include "tests/support/golden.h"

namespace choir::tests {
namespace {

nlohmann::json Parse(const std::string& text) {
  return nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
}

// The records of one kind, in order.
std::vector<nlohmann::json> Records(Cluster& cluster, const std::string& kind) {
  EXPECT_EQ(cluster.Admin({"job", "list"}).exit_code, 0) << cluster.Logs();
  const CommandResult exported =
      RunProgram("choir-audit", {"export", cluster.store(), "--out", "-"});
  EXPECT_EQ(exported.exit_code, 0) << exported.err;
  std::vector<nlohmann::json> records;
  for (const absl::string_view line : absl::StrSplit(exported.out, '\n')) {
    const nlohmann::json event = Parse(std::string(line));
    if (event.is_object() && event.value("kind", "") == kind) {
      records.push_back(event["record"][kind]);
    }
  }
  return records;
}

}  // namespace

std::vector<std::string> PeerRefusals(Cluster& cluster) {
  EXPECT_EQ(cluster.Admin({"job", "list"}).exit_code, 0) << cluster.Logs();
  const CommandResult shown =
      RunProgram("choir-audit", {"show", cluster.store(), "--json"});
  EXPECT_EQ(shown.exit_code, 0) << shown.err;
  const nlohmann::json document = Parse(shown.out);
  std::vector<std::string> refusals;
  if (!document.is_object()) return refusals;
  for (const nlohmann::json& refusal : document["refusals"]) {
    refusals.push_back(absl::StrCat(refusal.value("peer", ""), " ",
                                    refusal.value("method", ""), ": ",
                                    refusal.value("reason", "")));
  }
  return refusals;
}

std::vector<std::string> UpdateRefusals(Cluster& cluster) {
  std::vector<std::string> refusals;
  for (const nlohmann::json& record : Records(cluster, "update_refused")) {
    refusals.push_back(absl::StrCat(record.value("client", ""), ": ",
                                    record.value("reason", "")));
  }
  return refusals;
}

std::vector<std::string> FinishedJobs(Cluster& cluster) {
  std::vector<std::string> jobs;
  for (const nlohmann::json& record : Records(cluster, "job_finished")) {
    jobs.push_back(absl::StrCat(record.value("job", ""), " ",
                                record.value("state", ""), ": ",
                                record.value("reason", "")));
  }
  return jobs;
}

CommandResult RunProgram(const std::string& name,
                         const std::vector<std::string>& arguments) {
  std::vector<std::string> command = {base::JoinPath(BinDir(), name)};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return RunCommand(command, absl::Seconds(60));
}

std::string OneError(const CommandResult& result, int exit_code) {
  EXPECT_EQ(result.exit_code, exit_code) << result.out << result.err;
  EXPECT_EQ(result.out, "");
  const std::vector<std::string> lines =
      absl::StrSplit(result.err, '\n', absl::SkipEmpty());
  EXPECT_EQ(lines.size(), 1u) << result.err;
  EXPECT_THAT(result.err, testing::StartsWith("error: "));
  return lines.empty() ? "" : lines[0];
}

std::string OneErrorDocument(const CommandResult& result, int exit_code) {
  EXPECT_EQ(result.exit_code, exit_code) << result.out << result.err;
  EXPECT_EQ(result.err, "");
  const nlohmann::json document = Parse(result.out);
  if (!document.is_object() || !document.contains("error")) {
    ADD_FAILURE() << "no error document: " << result.out;
    return "";
  }
  EXPECT_NE(document["error"].value("code", ""), "");
  return document["error"].value("message", "");
}

std::unique_ptr<Cluster> AuditedTest::cluster_;

void AuditedTest::SetUpTestSuite() {
  cluster_ = std::make_unique<Cluster>();
  cluster_->StartCoordinator();
}

void AuditedTest::TearDownTestSuite() {
  cluster_->coordinator()->Signal(SIGTERM);
  EXPECT_TRUE(cluster_->coordinator()->Wait(absl::Seconds(30)));
  EXPECT_EQ(cluster_->coordinator()->exit_code(), 0) << cluster_->Logs();
  EXPECT_EQ(VerifyProblem(cluster_->store()), "");
  cluster_.reset();
}

void AuditedTest::TearDown() {
  EXPECT_EQ(cluster().Admin({"client", "list"}).exit_code, 0)
      << cluster().Logs();
  EXPECT_EQ(VerifyProblem(cluster().store()), "");
}

std::vector<std::string> AuditedTest::AdminAs(const std::string& ca_folder,
                                              const std::string& name,
                                              std::vector<std::string> verb) {
  const std::string own = cluster().PathOf(absl::StrCat(ca_folder, "/", name));
  for (const std::string& argument :
       {std::string("--coordinator"), cluster().address(), std::string("--ca"),
        cluster().PathOf("ca/ca.crt"), std::string("--cert"), own + ".crt",
        std::string("--key"), own + ".key"}) {
    verb.push_back(argument);
  }
  return verb;
}

void AuditedTest::Issue(const std::string& role, const std::string& name) {
  const CommandResult issued =
      RunProgram("choir-admin", {"ca", "issue", "--dir", cluster().PathOf("ca"),
                                 "--role", role, "--name", name});
  ASSERT_EQ(issued.exit_code, 0) << issued.err;
}

}  // namespace choir::tests
