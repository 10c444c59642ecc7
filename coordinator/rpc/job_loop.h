// The thread that decides: it owns the journal's order, the registry's changes,
// the waiting clients and the running job.
//
// RPC handlers post work to it and return; it answers them. Jobs run one after
// another, in order of submission. Every decision is durable before its effect.
#ifndef CHOIR_COORDINATOR_RPC_JOB_LOOP_H_
#define CHOIR_COORDINATOR_RPC_JOB_LOOP_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "choir/v1/admin.pb.h"
#include "coordinator/registry/registry.h"
#include "coordinator/rpc/job_table.h"
#include "coordinator/rpc/work_board.h"
#include "coordinator/runner/job_runner.h"
#include "coordinator/store/store.h"

namespace choir::rpc {

// Makes the runner of a job; runner::JobRunner::Start, or a test's.
using RunnerFactory =
    std::function<absl::StatusOr<std::unique_ptr<runner::JobRunner>>(
        const config::JobOptions& options, runner::RunnerHooks hooks)>;

struct JobLoopOptions {
  // Longest wait of one check-in.
  absl::Duration long_poll = absl::Seconds(20);
  // A client that does not come back for so long after its check-in ended is
  // no longer available.
  absl::Duration absence = absl::Seconds(15);
  // Updates that were uploaded but never reported are kept too.
  bool keep_updates = false;
  RunnerFactory make_runner;
};

// What a waiting client is told: a task, to ask again, or an error.
using CheckInAnswer =
    std::function<void(const absl::StatusOr<v1::CheckInResponse>&)>;
using SecureAnswer =
    std::function<void(const absl::StatusOr<v1::SecureExchangeResponse>&)>;

// Threads: Post, Stop, idle and Wake are safe; everything else belongs to the
// loop's thread (call it from posted work).
class JobLoop {
 public:
  // The references outlive the loop; registry and jobs have been brought up to
  // date with the journal.
  JobLoop(JobLoopOptions options, store::Store& store,
          registry::Registry& registry, JobTable& jobs, WorkBoard& board,
          const base::Clock& clock);
  ~JobLoop();
  JobLoop(const JobLoop&) = delete;
  JobLoop& operator=(const JobLoop&) = delete;

  // What drops the unfinished upload of a client whose task takes nothing any
  // more; before Start().
  void set_abandon_upload(std::function<void(const std::string&)> abandon) {
    abandon_upload_ = std::move(abandon);
  }
  void Start();
  // False once the loop is stopping: `work` is then not run.
  bool Post(std::function<void()> work);
  // Runs what was posted, answers waiting clients with UNAVAILABLE, joins. What
  // the running job has decided is durable. May be called twice.
  void Stop();
  // Looks at the timers now (tests move the clock by hand).
  void Wake();
  // No job is queued or running.
  bool idle() const { return idle_; }

  // Appends to the journal, then applies to registry and jobs. UNAVAILABLE if
  // the disk is full: nothing has happened then.
  absl::Status Record(absl::Span<const v1::JournalRecord> records);

  // `answer` is called once, now or later, on this thread; `call` tells two
  // check-ins of the same client apart.
  void CheckIn(const std::string& client, const v1::Capabilities& capabilities,
               uint64_t call, CheckInAnswer answer);
  // The client hung up.
  void CancelCheckIn(const std::string& client, uint64_t call);
  // Ends the client's wait with `reason`; the task it has is lost.
  void Dismiss(const std::string& client, const absl::Status& reason);

  // secure_exchange.cc: a message of a secure round; `answer` is called once,
  // now or later, on this thread. A client waits for one answer at a time: a
  // newer call takes the place of an older one.
  void SecureExchange(const std::string& client,
                      const v1::SecureExchangeRequest& request, uint64_t call,
                      SecureAnswer answer);
  // The client hung up. It may ask again.
  void CancelExchange(const std::string& client, uint64_t call);

  absl::StatusOr<v1::ReportResponse> Report(const std::string& client,
                                            const v1::ReportRequest& request);

  // ALREADY_EXISTS for a name that was used before.
  absl::StatusOr<v1::SubmitJobResponse> Submit(const v1::JobConfig& config,
                                               const std::string& by);
  absl::StatusOr<v1::JobStatus> StopJob(const std::string& job,
                                        const std::string& by);
  absl::StatusOr<v1::JobStatus> Status(const std::string& job) const;

  bool Connected(const std::string& client) const;
  // Sorted.
  std::vector<std::string> ConnectedClients() const;
  v1::Capabilities CapabilitiesOf(const std::string& client) const;

 private:
  struct Peer {
    v1::Capabilities capabilities;
    uint64_t call = 0;
    CheckInAnswer answer;  // empty: not waiting
    // Waiting: when to send it away. Else: when it counts as gone.
    absl::Time until = absl::InfiniteFuture();
    // The runner was told that it is here.
    bool present = false;
  };

  struct Exchange {
    v1::TaskKey key;
    uint64_t call = 0;
    SecureAnswer answer;
    absl::Time until;  // when to send it away
  };

  struct Work {
    std::function<void()> run;
    absl::Time arrived;
  };

  void Run();
  // Waits for work or the next timer; empty for a timer, false to end.
  bool Next(Work* work);
  // Up to when all that has arrived is worked off: timers are due by this time,
  // so that nobody who was in time is late for having queued.
  absl::Time WorkedOffUntil();
  absl::Time NextTimer() const;
  void FireTimers();
  void FirePeerTimers(absl::Time now);
  void StartNextJob();
  void AdvanceJobs();
  void RemoveUnreported();
  // Whether it was an update, or masked vector, that can go.
  bool RemoveUpdate(const std::string& digest, bool only_masked);
  // Masked vectors that nobody will add any more.
  void Drop(const WorkBoard::Remains& remains);
  void DropLate(const v1::JournalRecord& record);
  void OnTask(const std::string& client, v1::TaskPlan plan);
  void OnRecord(const v1::JournalRecord& record);
  void OnSecure(const std::string& client, const v1::TaskKey& key,
                const absl::StatusOr<v1::SecureServerMessage>& answer);
  // If it waits.
  void AnswerExchange(const std::string& client,
                      const absl::StatusOr<v1::SecureExchangeResponse>& answer);
  void AnswerAllExchanges(const absl::Status& status);
  void FireExchangeTimers(absl::Time now);
  void Arrive(const std::string& client);
  void Leave(const std::string& client);
  void Answer(Peer& peer, const absl::StatusOr<v1::CheckInResponse>& answer);
  void FailJob(const std::string& job, const absl::Status& why);
  absl::StatusOr<v1::ReportResponse> PostToRunner(engine::Event event);
  // Logs an error once until there is none again.
  void NoteTrouble(const absl::Status& status);

  const JobLoopOptions options_;
  store::Store& store_;
  registry::Registry& registry_;
  JobTable& jobs_;
  WorkBoard& board_;
  const base::Clock& clock_;

  std::function<void(const std::string&)> abandon_upload_;
  std::unique_ptr<runner::JobRunner> runner_;
  std::string running_job_;
  // When what is worked off now arrived.
  absl::Time arrived_ = absl::InfinitePast();
  std::map<std::string, Peer> peers_;
  // Who waits for the next message of a secure round, by client.
  std::map<std::string, Exchange> exchanges_;
  absl::Time next_exchange_timer_ = absl::InfiniteFuture();
  // At most the earliest `until` of all peers.
  absl::Time next_peer_timer_ = absl::InfiniteFuture();
  // While the journal cannot be written: when to try again.
  absl::Time retry_at_ = absl::InfinitePast();
  bool troubled_ = false;
  std::atomic<bool> idle_{false};

  base::Mutex mu_;
  std::deque<Work> work_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  bool woken_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace choir::rpc

#endif  // CHOIR_COORDINATOR_RPC_JOB_LOOP_H_
