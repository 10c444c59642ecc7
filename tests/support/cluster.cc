#include "tests/support/cluster.h"

#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "base/files.h"
#include "tests/support/golden.h"

namespace choir::tests {
namespace {

constexpr absl::Duration kStart = absl::Seconds(60);

[[noreturn]] void Fail(const std::string& message) {
  std::fprintf(stderr, "cluster: %s\n", message.c_str());
  std::abort();
}

std::string Bin(const std::string& name) {
  return base::JoinPath(BinDir(), name);
}

void Run(const std::vector<std::string>& arguments) {
  const CommandResult result = RunCommand(arguments);
  if (result.exit_code != 0) {
    Fail(absl::StrCat(arguments[0], " ", arguments[1], " ended with ",
                      result.exit_code, ": ", result.out, result.err));
  }
}

void Write(const std::string& path, const std::string& text) {
  const absl::Status status =
      base::WriteFileAtomic(path, text, base::Durability::kProcessCrash);
  if (!status.ok()) Fail(std::string(status.message()));
}

}  // namespace

Cluster::Cluster(std::string store)
    : dir_(NewTempDir()), store_(std::move(store)) {
  if (store_.empty()) store_ = PathOf("store");
  Run({Bin("choir-admin"), "ca", "init", "--dir", PathOf("ca")});
  Run({Bin("choir-admin"), "ca", "issue", "--dir", PathOf("ca"), "--role",
       "coordinator", "--name", "coordinator", "--host", "127.0.0.1"});
  Run({Bin("choir-admin"), "ca", "issue", "--dir", PathOf("ca"), "--role",
       "operator", "--name", "operator"});
}

std::string Cluster::PathOf(const std::string& name) const {
  return base::JoinPath(dir_, name);
}

void Cluster::LaunchCoordinator() {
  std::remove(PathOf("port").c_str());
  Write(
      PathOf("coordinator.toml"),
      absl::StrCat("listen = \"", address_.empty() ? "127.0.0.1:0" : address_,
                   "\"\nstore = \"", store_, "\"\nport_file = \"",
                   PathOf("port"), "\"\n[tls]\nca_certificate = \"",
                   PathOf("ca/ca.crt"), "\"\ncertificate = \"",
                   PathOf("ca/coordinator.crt"), "\"\nprivate_key = \"",
                   PathOf("ca/coordinator.key"), "\"\ncrl = \"",
                   PathOf("ca/crl.pem"), "\"\n[enrolment]\nca_private_key = \"",
                   PathOf("ca/ca.key"), "\"\n"));
  coordinator_ = Process::Start(
      {Bin("choir-coordinator"), "--config", PathOf("coordinator.toml")},
      PathOf("coordinator.log"));
}

bool Cluster::WaitForCoordinator() {
  if (!WaitForFile(PathOf("port"), kStart, coordinator_.get())) return false;
  address_ = absl::StrCat("127.0.0.1:", *base::ReadFile(PathOf("port")));
  while (!address_.empty() && address_.back() == '\n') address_.pop_back();
  return true;
}

void Cluster::StartCoordinator() {
  LaunchCoordinator();
  if (!WaitForCoordinator()) Fail("the coordinator did not start\n" + Logs());
}

void Cluster::AddAgent(const std::string& name, const std::string& data_file) {
  const CommandResult token =
      Admin({"token", "create", "--client", name, "--json"});
  const nlohmann::json parsed =
      nlohmann::json::parse(token.out, nullptr, /*allow_exceptions=*/false);
  if (token.exit_code != 0 || !parsed.contains("token")) {
    Fail(absl::StrCat("no token: ", token.out, token.err));
  }
  Write(PathOf(name + ".token"), parsed["token"].get<std::string>() + "\n");
  Write(PathOf(name + ".toml"),
        absl::StrCat("name = \"", name, "\"\ncoordinator = \"", address_,
                     "\"\nstate = \"", PathOf(name), "\"\nca_certificate = \"",
                     PathOf("ca/ca.crt"), "\"\ntoken_file = \"",
                     PathOf(name + ".token"), "\"\n[data]\npath = \"",
                     data_file, "\"\n[device]\nkind = \"cpu\"\n"));
  agent_names_.push_back(name);
}

void Cluster::StartAgent(const std::string& name) {
  agents_[name] =
      Process::Start({Bin("choir-client"), "--config", PathOf(name + ".toml")},
                     PathOf(name + ".log"));
}

void Cluster::StartAgents(int count) {
  for (int i = 1; i <= count; ++i) {
    const std::string name = absl::StrCat("agent-", i);
    const std::string data = PathOf(name + ".jsonl");
    Write(data, MakeExamples(name, 24));
    AddAgent(name, data);
    StartAgent(name);
  }
}

CommandResult Cluster::Admin(const std::vector<std::string>& arguments) {
  std::vector<std::string> command = {Bin("choir-admin")};
  command.insert(command.end(), arguments.begin(), arguments.end());
  for (const std::string& argument :
       {std::string("--coordinator"), address_, std::string("--ca"),
        PathOf("ca/ca.crt"), std::string("--cert"), PathOf("ca/operator.crt"),
        std::string("--key"), PathOf("ca/operator.key")}) {
    command.push_back(argument);
  }
  return RunCommand(command, absl::Seconds(30));
}

void Cluster::Submit(const std::string& job_toml) {
  // The job's tables stand below [job], beside those of other programs.
  Write(PathOf("job.toml"),
        absl::StrCat("[job]\n",
                     absl::StrReplaceAll(job_toml, {{"\n[", "\n[job."}})));
  const CommandResult result = Admin({"job", "submit", PathOf("job.toml")});
  if (result.exit_code != 0) {
    Fail(absl::StrCat("job submit: ", result.out, result.err));
  }
}

JobView Cluster::ShowJob(const std::string& job) {
  const CommandResult result = Admin({"job", "show", job, "--json"});
  const nlohmann::json parsed =
      nlohmann::json::parse(result.out, nullptr, /*allow_exceptions=*/false);
  JobView view;
  if (result.exit_code != 0 || !parsed.is_object()) return view;
  view.state = parsed.value("state", "");
  view.adapter_digest = parsed.value("adapter_digest", "");
  view.rounds_committed = parsed.value("rounds_committed", 0);
  view.rounds_lost = parsed.value("rounds_lost", 0);
  return view;
}

JobView Cluster::AwaitJob(const std::string& job, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  JobView view;
  while (absl::Now() < deadline) {
    view = ShowJob(job);
    if (view.state == "done" || view.state == "failed" ||
        view.state == "stopped") {
      break;
    }
    absl::SleepFor(absl::Milliseconds(100));
  }
  return view;
}

std::string Cluster::Logs() const {
  std::string text;
  std::vector<std::string> names = agent_names_;
  names.push_back("coordinator");
  for (const std::string& name : names) {
    const std::string log = base::ReadFile(PathOf(name + ".log")).value_or("");
    absl::StrAppend(&text, "--- ", name, "\n",
                    log.substr(log.size() > 3000 ? log.size() - 3000 : 0));
  }
  return text;
}

std::string MakeExamples(const std::string& topic, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    absl::StrAppend(&text, "{\"topic\":\"", topic, "\",\"prompt\":\"Define ",
                    topic, " ", i, ":\",\"response\":\"a kind of ", topic,
                    " that has number ", i * i % 97, "\"}\n");
  }
  return text;
}

std::string MicroJob(const std::string& name, int rounds, int clients,
                     const std::string& extra) {
  return absl::StrCat(
      "name = \"", name, "\"\nseed = 3\n[model]\nbase = \"",
      base::JoinPath(SourceDir(), "tests/data/micro-llama"),
      "\"\n[adapter]\nrank = 2\n[training]\nlearning_rate = 0.01\n"
      "batch_size = 4\nlocal_steps = 2\nmax_sequence_length = 48\n"
      "[rounds]\ncount = ",
      rounds, "\ncohort_size = ", clients, "\ndeadline = \"120s\"\n", extra);
}

std::string VerifyProblem(const std::string& store) {
  const CommandResult result =
      RunCommand({Bin("choir-audit"), "verify", store, "--json"});
  const nlohmann::json parsed =
      nlohmann::json::parse(result.out, nullptr, /*allow_exceptions=*/false);
  if (result.exit_code == 0 && parsed.is_object() &&
      parsed.value("ok", false)) {
    return "";
  }
  return absl::StrCat("verify ended with ", result.exit_code, ": ", result.out,
                      result.err);
}

}  // namespace choir::tests
