// The event loop of a simulation: moves tasks from the runner to virtual
// clients and reports back, and moves time when nothing else moves.
#ifndef CHOIR_SIM_EXPERIMENT_SIMULATION_LOOP_H_
#define CHOIR_SIM_EXPERIMENT_SIMULATION_LOOP_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "coordinator/runner/job_runner.h"
#include "coordinator/store/store.h"
#include "sim/experiment/client_pool.h"
#include "sim/experiment/experiment_options.h"
#include "sim/experiment/metrics.h"
#include "sim/experiment/population.h"
#include "sim/experiment/secure_clients.h"
#include "sim/experiment/simulation.h"

namespace choir::sim {

// Reports reach the engine in an order drawn from the seed, whatever order the
// workers finish in, so that even who is in time under over-selection is the
// same in every run. A phase's clients come back only once all of its tasks
// are accounted for; those that failed come first, because the engine waits
// for those that reported: then everyone is there when the next phase begins.
//
// Threads: one thread at a time; it owns the runner.
class SimulationLoop {
 public:
  // Everything passed outlives the loop.
  SimulationLoop(const ExperimentOptions& options, const RunOptions& run,
                 const Population& population, store::Store& store,
                 MetricsLog& metrics,
                 std::shared_ptr<const model::BaseModel> base);
  ~SimulationLoop();

  // A record of an earlier run, before Start().
  void Replay(const v1::JournalRecord& record) { Track(record); }
  // Begins the job or goes on with it; every client arrives.
  absl::Status Start();
  // Until the job is finished or stopped. Sets `interrupted` in the latter
  // case: the round in progress was finished first.
  absl::Status Run(bool& interrupted);

  const runner::JobRunner& runner() const { return *runner_; }

 private:
  enum class Fate { kReport, kDroppedOut, kNotNeeded };
  struct Sent {
    std::string client;
    v1::TaskPlan plan;
    uint64_t arrival_order = 0;
  };
  struct Done {
    Fate fate = Fate::kReport;
    v1::TaskKey key;
    VirtualResult result;
  };

  // A client in a secure round; without a session once it has dropped out.
  struct Party {
    Party() = default;
    Party(Party&&) = default;
    Party& operator=(Party&&) = default;
    ~Party() { secagg::WipeShares(*request.mutable_message()); }

    absl::optional<secagg::ClientSession> session;
    absl::optional<int> silent_from;
    v1::SecureExchangeRequest request;
  };
  struct Heard {
    std::string client;
    v1::TaskKey key;
    absl::StatusOr<v1::SecureServerMessage> answer;
  };

  void OnRecord(const v1::JournalRecord& record);
  // Follows which phase is open and who reported in it.
  void Track(const v1::JournalRecord& record);
  void OnSend(const std::string& client, v1::TaskPlan plan);
  // Orders what was sent since the last call.
  void QueueSent();
  // Hands queued tasks to the pool while it has room.
  absl::Status Feed();
  // Decides what becomes of a task before any work is done for it.
  Fate FateOf(const Sent& task) const;
  absl::StatusOr<std::shared_ptr<const std::string>> AdapterBytes(
      const v1::BlobRef& adapter);
  absl::Status Deliver(Done done);
  // Of secret sums (secure_loop.cc). When a client drops out, if at all.
  absl::optional<int> DropPhase(const std::string& client,
                                const v1::TaskPlan& plan) const;
  absl::Status JoinSecureRound(Done done);
  // Hands a client's message in, and goes on as long as it is answered at once.
  absl::Status Say(const std::string& client, secagg::ClientStep step);
  absl::Status Hear(Heard heard);
  void Leave(const std::string& client);
  void LeaveAll();
  absl::Status SendEveryoneBack();
  absl::Status AdvanceTime();
  absl::Status Arrive(const std::string& client);
  bool ShouldStop() const;

  const ExperimentOptions& options_;
  const RunOptions& run_;
  const Population& population_;
  store::Store& store_;
  MetricsLog& metrics_;
  base::WallClock wall_clock_;
  base::ManualClock clock_;

  // Of the phase in progress, from the records.
  bool phase_open_ = false;
  bool training_ = false;
  uint32_t round_ = 0;
  uint32_t attempt_ = 0;
  int phase_tasks_ = 0;
  int phase_done_ = 0;
  std::set<std::string> reporters_;  // accepted in the last phase

  std::vector<Sent> sent_;
  std::deque<Sent> queue_;
  std::map<std::string, v1::TaskKey> active_;  // by client
  uint64_t next_sequence_ = 0;  // of the next task to leave queue_
  uint64_t next_delivery_ = 0;
  std::map<uint64_t, Done> done_;  // by sequence, not yet delivered
  std::vector<std::string> back_;  // accounted for, not yet arrived again
  uint64_t records_ = 0;
  int idle_wakeups_ = 0;

  std::string adapter_digest_;
  std::shared_ptr<const std::string> adapter_bytes_;
  const std::shared_ptr<const model::BaseModel> base_;
  // Null unless updates are summed in secret.
  std::unique_ptr<SecureClients> secure_;
  SessionIds session_ids_;
  std::map<std::string, Party> parties_;
  std::deque<Heard> heard_;
  std::unique_ptr<ClientPool> pool_;
  std::unique_ptr<runner::JobRunner> runner_;
};

}  // namespace choir::sim

#endif  // CHOIR_SIM_EXPERIMENT_SIMULATION_LOOP_H_
