// The round engine: decides what happens in a job, and does no I/O.
//
// It knows no clock, thread, socket, file or tensor. A driver (the daemon, the
// simulator, a test) hands it events; it answers with journal records and
// actions. The driver makes the records durable first and carries out the
// actions afterwards, so that whatever the world has seen is in the journal.
//
// State changes only by records: Handle() decides on records and applies them,
// Replay() applies records read from a journal. An engine that replayed the
// records of another is in the same state; Resume() then says again what has
// to be done (timers, tasks, an aggregation cut off by a crash).
//
// A round: select a cohort from the available clients, send plans, collect
// updates until enough are in, all are accounted for or the deadline passes;
// then aggregate, or lose the round and begin it again with attempt + 1. Rounds
// that are summed in secret: secure_events.h.
#ifndef CHOIR_COORDINATOR_ENGINE_ENGINE_H_
#define CHOIR_COORDINATOR_ENGINE_ENGINE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "choir/v1/coordinator.pb.h"
#include "choir/v1/journal.pb.h"
#include "coordinator/engine/secure_events.h"
#include "proto/config/job_options.h"

namespace choir::engine {

// ---------------------------------------------------------------- events ----

// The client is connected and has no work. Repeated arrivals are harmless: a
// client that was given a task and comes back without reporting gets the same
// task again. A client that was given a task is not available until it arrives
// again; after its report was accepted, the next phase waits for that, but not
// longer than half a minute.
struct ClientArrived {
  std::string client;
};
// The client no longer waits for work. Does not end a task it was given.
struct ClientLeft {
  std::string client;
};
// A trained update; the driver has checked the blob itself (digest, layout,
// finite values).
struct UpdateReceived {
  std::string client;
  v1::TaskKey key;
  v1::TrainReport report;
};
// An update that failed the driver's checks, or a task the client gave up.
struct TaskFailed {
  std::string client;
  v1::TaskKey key;
  std::string reason;
  // True: the peer sent something broken (journaled as refused); false: it
  // could not do the task (journaled as lost).
  bool refused = false;
};
struct EvaluationReceived {
  std::string client;
  v1::TaskKey key;
  v1::EvaluationReport report;
};
// The answer to Aggregate. `committed` has everything that the aggregation
// knows: aggregate, total_weight, server states, adapter.
struct AggregateDone {
  v1::RoundCommitted committed;
};
struct AggregateFailed {
  uint32_t round;
  uint32_t attempt;
  std::string reason;
};
struct TimerFired {
  uint64_t timer;
};
struct StopRequested {
  std::string reason;
};

using Event =
    std::variant<ClientArrived, ClientLeft, UpdateReceived, TaskFailed,
                 EvaluationReceived, AggregateDone, AggregateFailed, TimerFired,
                 StopRequested, SecureAnswered, SecureRefused, SecureUnfit,
                 SecurePhaseAdvanced>;

// --------------------------------------------------------------- actions ----

struct SendTask {
  std::string client;
  v1::TaskPlan plan;  // deadline_ms is left to the driver, from `deadline`
  absl::Time deadline;
};
// One timer at most is pending; a new one replaces the old.
struct SetTimer {
  uint64_t timer;
  absl::Time at;
};
struct CancelTimer {};

struct WeightedUpdate {
  std::string client;
  v1::BlobRef update;
  uint64_t weight;
};
// Sum the updates, step the server optimiser, store the new adapter, and
// answer with AggregateDone or AggregateFailed. Doing it twice is harmless.
struct Aggregate {
  uint32_t round;
  uint32_t attempt;
  std::vector<WeightedUpdate> updates;  // sorted by client
  v1::BlobRef adapter;
  v1::BlobRef server_state;  // empty digest: none yet
};
// The updates of a round that is over; nothing needs them any more.
struct DiscardUpdates {
  std::vector<v1::BlobRef> updates;
};
struct FinishJob {
  v1::JobFinished finished;
};

using Action = std::variant<SendTask, SetTimer, CancelTimer, Aggregate,
                            DiscardUpdates, FinishJob, CloseSecurePhase,
                            OpenSecurePhase, AggregateSecure, AbortSecure>;

struct Outcome {
  std::vector<v1::JournalRecord> records;
  std::vector<Action> actions;
  // Answer to UpdateReceived, EvaluationReceived and TaskFailed.
  v1::ReportResponse response;
};

// What is fixed before a job's first round (journaled as JobStarted).
using JobFacts = v1::JobStarted;

// A summary for people and status calls.
struct Progress {
  uint32_t rounds_committed = 0;
  uint32_t rounds_total = 0;
  uint32_t rounds_lost = 0;
  uint32_t available_clients = 0;
  v1::BlobRef adapter;
  uint32_t version = 0;
  // NaN where nothing was evaluated yet.
  double heldout_loss_before;
  double heldout_loss;
  uint64_t bytes_up = 0;
  uint64_t bytes_down = 0;
  // In words, for example "3 of 4 clients available" or "2 updates of 4".
  std::string waiting_for;
  bool finished = false;
  v1::JobFinished result;
};

// Threads: one thread at a time. Cost of an event: O(log cohort), of starting
// a round: O(available clients). Memory: O(clients), nothing per past round.
class Engine {
 public:
  // `make_session` is needed if options.secure_aggregation is enabled.
  Engine(config::JobOptions options, JobFacts facts,
         SessionMaker make_session = nullptr);
  ~Engine();

  // Applies a record from the journal. INVALID_ARGUMENT or DATA_LOSS if it
  // cannot follow the state the engine is in (a broken journal); records of
  // other jobs and kinds are ignored.
  absl::Status Replay(const v1::JournalRecord& record);

  // To be called once, before the first Handle(): begins the job, or goes on
  // after Replay(). Deadlines begin anew.
  Outcome Resume(absl::Time now);

  Outcome Handle(const Event& event, absl::Time now);

  // Whether a report of this client on this task could still be accepted.
  // False: Handle() answers without looking at the update, so that the driver
  // need not check it either.
  bool Wants(absl::string_view client, const v1::TaskKey& key) const;
  // The session of the secure round in progress, null if there is none. Valid
  // until the next call.
  const v1::SecureSession* secure_session() const;
  // The open phase of the secure round that `key` names ("" if it is over, is
  // being closed, or is no such round) and whether `client` is still in it.
  std::string secure_phase(const v1::TaskKey& key) const;
  bool WantsSecure(absl::string_view client, const v1::TaskKey& key) const;
  // Updates accepted in the round in progress; none between rounds.
  std::vector<v1::BlobRef> updates_in_use() const;

  Progress progress() const;
  const config::JobOptions& options() const;
  const JobFacts& facts() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace choir::engine

#endif  // CHOIR_COORDINATOR_ENGINE_ENGINE_H_
