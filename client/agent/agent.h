// The agent: checks in, works, reports, for months if need be.
//
// It only ever dials out. Killed at any moment and started again on the same
// state folder it goes on: downloads resume, finished work is reported, work
// cut off is handed out again by the coordinator.
#ifndef CHOIR_CLIENT_AGENT_AGENT_H_
#define CHOIR_CLIENT_AGENT_AGENT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "base/clock.h"
#include "base/secure_random.h"
#include "client/agent/backoff.h"
#include "client/agent/blob_cache.h"
#include "client/agent/client_options.h"
#include "client/agent/enrolment.h"
#include "client/agent/sleeper.h"
#include "client/agent/state_dir.h"
#include "client/agent/task_runner.h"
#include "client/transport.h"
#include "privacy/secagg/client_session.h"
#include "privacy/secagg/identities.h"

namespace choir::client {

// All outlive the agent.
struct AgentDeps {
  Transport& transport;
  TaskRunner& runner;
  const base::Clock& clock;
  base::SecureRandom& random;
  Sleeper& sleeper;
};

// Reads bytes of a blob that is uploaded.
using BlobReader =
    std::function<absl::Status(uint64_t offset, uint64_t bytes, char* out)>;

// What one run has done.
struct AgentSummary {
  uint64_t rounds = 0;       // updates accepted
  uint64_t evaluations = 0;  // evaluations accepted
  uint64_t too_late = 0;
  uint64_t refused = 0;
  uint64_t failed = 0;  // given up, and the coordinator told
  // Secure sessions that this client ended because something was wrong.
  uint64_t secure_refusals = 0;
  uint64_t bytes_up = 0;
  uint64_t bytes_down = 0;
  bool stopped = false;  // asked to
};

// Threads: one thread at a time.
class Agent {
 public:
  // `state` is the opened folder options.state.
  Agent(const ClientOptions& options, std::unique_ptr<StateDir> state,
        const AgentDeps& deps);

  // Works until `max_rounds` updates were accepted (0: for ever) or the sleeper
  // is stopping. While the coordinator is away it keeps trying.
  // Errors: what only a person can mend, above all a revoked certificate, a
  //   refused enrolment, a state folder that cannot be written.
  absl::StatusOr<AgentSummary> Run(uint64_t max_rounds);

 private:
  // "job j, round 3", for logs.
  static std::string Label(const v1::TaskKey& key);
  bool Done(uint64_t max_rounds) const;
  // Checks in once and does what is asked.
  absl::Status Step();
  absl::Status DoTask(const v1::TaskPlan& plan);
  // OK: `result` is to be delivered. ABORTED or CANCELLED: nothing is.
  absl::Status Work(const v1::TaskPlan& plan, absl::Time expires,
                    TaskResult* result);
  absl::StatusOr<std::string> Fetch(const v1::BlobRef& blob,
                                    const std::set<std::string>& keep,
                                    absl::Time expires);
  absl::Status RememberAdapter(const v1::BlobRef& adapter);
  // Delivers what is pending until the coordinator has decided.
  absl::Status Deliver();
  absl::StatusOr<v1::ReportResponse> DeliverOnce();
  // Asks, by checking in, whether the coordinator still waits for this task.
  absl::StatusOr<bool> StillWanted(const v1::TaskKey& key);
  absl::Status UploadUpdate(const v1::ReportRequest& report);
  absl::Status UploadBlob(const v1::TaskKey& key, const v1::BlobRef& blob,
                          const BlobReader& read);
  // Why a task cannot be done at all, or is not to be by this client's policy;
  // empty if it can.
  std::string Obstacle(const v1::TaskPlan& plan) const;
  // Puts a failure in the place of pending work that, by a policy set since,
  // must not leave the device.
  absl::Status WithdrawUnmasked();
  absl::Status ReportFailure(const v1::TaskKey& key, absl::string_view reason);
  // Hands a trained update over in secret (secure_task.cc).
  absl::Status DoSecure(const v1::TaskPlan& plan, const TaskResult& trained,
                        uint64_t bytes_downloaded);
  // Fills peers_, with what was revoked.
  absl::Status ReadPeers();
  absl::StatusOr<secagg::ClientSession> BeginSession(const v1::TaskPlan& plan,
                                                     const TaskResult& trained);
  // OK: the session has ended, as it should or not. Otherwise why this client
  // gives the task up.
  absl::Status TalkInSecret(const v1::TaskKey& key,
                            secagg::ClientSession& session,
                            v1::SecureExchangeRequest request);
  // Hands one message in until it is answered; none if it need not go on.
  absl::StatusOr<absl::optional<v1::SecureServerMessage>> Exchange(
      const v1::SecureExchangeRequest& request, const std::string& payload);
  void CountEnd(const v1::TaskKey& key, const v1::SecureServerMessage& message);
  // After a refusal that concerns the task: true if it is to be tried again.
  absl::StatusOr<bool> AfterRefusal(const absl::Status& status);
  // Once the coordinator has decided; waits while the disk is full.
  absl::Status ForgetPending();
  void Count(const v1::ReportRequest& report,
             const v1::ReportResponse& response);
  // Logs and waits. Returns the status itself if it is fatal.
  absl::Status Pause(absl::string_view act, const absl::Status& status);

  const ClientOptions& options_;
  std::unique_ptr<StateDir> state_;
  AgentDeps deps_;
  BlobCache cache_;
  Enrolment enrolment_;
  Backoff backoff_;       // of calls
  Backoff task_backoff_;  // of tasks that fail
  AgentSummary summary_;
  // Consecutive answers that the upload did not arrive intact.
  int damaged_uploads_ = 0;
  // The coordinator has, or had, the whole update that is pending.
  bool uploaded_ = false;
  std::unique_ptr<secagg::CertifiedPeers> peers_;
  std::unique_ptr<secagg::DeviceHistory> history_;
};

}  // namespace choir::client

#endif  // CHOIR_CLIENT_AGENT_AGENT_H_
