// A real coordinator and real agents on loopback with mutual TLS, for
// end-to-end tests.
#ifndef CHOIR_TESTS_SUPPORT_CLUSTER_H_
#define CHOIR_TESTS_SUPPORT_CLUSTER_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "tests/support/process.h"

namespace choir::tests {

struct JobView {
  std::string state;
  std::string adapter_digest;
  int rounds_committed = 0;
  int rounds_lost = 0;
};

// Failures to set up end the test program with a message.
// Threads: one thread at a time.
class Cluster {
 public:
  // Makes certificates and configuration in a new folder; starts nothing.
  // `store` is the store's folder (default: inside the cluster's).
  explicit Cluster(std::string store = "");

  const std::string& dir() const { return dir_; }
  const std::string& store() const { return store_; }
  std::string PathOf(const std::string& name) const;

  // Starts choir-coordinator and waits until it listens; on the first start
  // the system chooses the port, later starts use it again.
  void StartCoordinator();
  // The same without waiting; false from WaitForCoordinator() if it ended.
  void LaunchCoordinator();
  bool WaitForCoordinator();
  Process* coordinator() { return coordinator_.get(); }
  // host:port; empty before the first start.
  const std::string& address() const { return address_; }

  // Writes the agent's configuration, with a fresh token if it has none yet.
  void AddAgent(const std::string& name, const std::string& data_file);
  void StartAgent(const std::string& name);
  // Adds and starts agent-1 to agent-`count`, each with 24 examples of its own.
  void StartAgents(int count);
  Process* agent(const std::string& name) { return agents_.at(name).get(); }
  const std::vector<std::string>& agent_names() const { return agent_names_; }

  // choir-admin with the operator's certificate.
  CommandResult Admin(const std::vector<std::string>& arguments);
  void Submit(const std::string& job_toml);
  // Empty state while the coordinator cannot be asked.
  JobView ShowJob(const std::string& job);
  // Waits until the job's state is done, failed or stopped.
  JobView AwaitJob(const std::string& job, absl::Duration timeout);
  // The last lines of every log, to explain a failure.
  std::string Logs() const;

 private:
  std::string dir_;
  std::string store_;
  std::string address_;
  std::unique_ptr<Process> coordinator_;
  std::vector<std::string> agent_names_;
  std::map<std::string, std::unique_ptr<Process>> agents_;
};

// `count` prompt/response examples about `topic` as JSONL text.
std::string MakeExamples(const std::string& topic, int count);

// A job over tests/data/micro-llama: name, rounds, clients; `extra` is TOML
// lines appended to [rounds].
std::string MicroJob(const std::string& name, int rounds, int clients,
                     const std::string& extra = "");

// choir-audit verify of a store; the test's failure message if not ok.
std::string VerifyProblem(const std::string& store);

}  // namespace choir::tests

#endif  // CHOIR_TESTS_SUPPORT_CLUSTER_H_
