// What a job's journal records, applied in order, amount to.
//
// Nothing here depends on time or on who is connected; that is the engine's
// business and is not journaled.
#ifndef CHOIR_COORDINATOR_ENGINE_JOB_STATE_H_
#define CHOIR_COORDINATOR_ENGINE_JOB_STATE_H_

#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "choir/v1/coordinator.pb.h"
#include "choir/v1/journal.pb.h"
#include "coordinator/engine/accusations.h"
#include "proto/config/job_options.h"

namespace choir::engine {

// The clients of one phase. Each is in exactly one of pending, out and the
// phase's accepted reports.
struct Cohort {
  v1::TaskKey key;
  std::set<std::string, std::less<>> pending;
  // Out of the phase; true if refused, false if lost. Also strangers that were
  // refused, so that each is journaled once.
  std::map<std::string, bool, std::less<>> out;
};

struct AcceptedUpdate {
  v1::TrainReport report;
  uint64_t weight = 0;
};

// The next phase has not begun: an evaluation of version `number`, or round
// `number`. A round beyond the last means that the job is done.
struct WaitingForClients {
  bool evaluate = false;
  uint32_t number = 0;
};
struct Training {
  Cohort cohort;
  // The round is complete with so many updates.
  size_t target = 0;
  std::map<std::string, AcceptedUpdate, std::less<>> accepted;
  // Set in secure rounds, where nothing is ever accepted.
  absl::optional<v1::SecureSession> session;
};
// Keys were advertised and sessions begun (secure_events.h).
struct SecureSum {
  // round.cohort.pending: the members still in; out: everybody else.
  Training round;
  // The phase that is open, or kSum when all are closed.
  std::string phase;
  // The group of each client whose keys were advertised.
  std::map<std::string, uint32_t, std::less<>> members;
  // Groups that are not lost.
  std::set<uint32_t> groups;
  // Whose masked vectors are in the sums of these groups.
  std::set<std::string, std::less<>> survivors;
  uint64_t bytes_up = 0;
};
// Enough updates are in; those pending are no longer needed.
struct Aggregating {
  Training round;
};
struct Evaluating {
  Cohort cohort;
  std::map<std::string, v1::EvaluationReport, std::less<>> accepted;
};
struct Finished {
  v1::JobFinished result;
};
using Phase = std::variant<WaitingForClients, Training, SecureSum, Aggregating,
                           Evaluating, Finished>;

// Who was accepted in a phase that is over.
struct ClosedPhase {
  v1::TaskKey key;
  std::set<std::string, std::less<>> accepted;
};

// Threads: one thread at a time. Memory: O(cohort).
class JobState {
 public:
  JobState(config::JobOptions options, v1::JobStarted facts);

  // The only way to change anything. Errors: DATA_LOSS if the record cannot
  // follow; nothing is changed then. Records of other jobs and other kinds
  // change nothing.
  absl::Status Apply(const v1::JournalRecord& record);

  const config::JobOptions& options() const { return options_; }
  const v1::JobStarted& facts() const { return facts_; }
  const Phase& phase() const { return phase_; }
  // Grows with every change of the phase.
  uint64_t phase_serial() const { return phase_serial_; }

  // The round in progress, or the next one, and its attempt.
  uint32_t round() const { return rounds_committed_ + 1; }
  uint32_t attempt() const;
  uint32_t rounds_committed() const { return rounds_committed_; }
  uint32_t rounds_lost() const { return rounds_lost_; }
  uint32_t lost_in_a_row() const { return lost_in_a_row_; }
  // Why an attempt at this round was lost last, and what was last said of a
  // client that dropped out of one ("'name': reason"). Empty: nothing was.
  const std::string& lost_reason() const { return lost_reason_; }
  const std::string& dropout_reason() const { return dropout_reason_; }
  // The round in progress, in whichever phase; null between rounds.
  const Training* round_in_progress() const;
  // Of that round or of the evaluation in progress; null if there is none.
  const Cohort* cohort() const;
  const v1::BlobRef& adapter() const { return adapter_; }
  const v1::BlobRef& server_state() const { return server_state_; }
  double heldout_loss_before() const { return heldout_loss_before_; }
  double heldout_loss() const { return heldout_loss_; }
  uint64_t bytes_up() const { return bytes_up_; }
  uint64_t bytes_down() const { return bytes_down_; }
  // Who has cost an earlier attempt at this round its sum.
  const std::set<std::string, std::less<>>& blamed() const { return blamed_; }
  // Who says of whom that its keys cannot be used.
  const Accusations& accusations() const { return accusations_; }
  const ClosedPhase& last_training() const { return last_training_; }
  const ClosedPhase& last_evaluation() const { return last_evaluation_; }
  // The accepted clients of the phase that ended last.
  const std::set<std::string, std::less<>>& last_reporters() const {
    return last_was_evaluation_ ? last_evaluation_.accepted
                                : last_training_.accepted;
  }

 private:
  absl::Status ApplyRoundStarted(const v1::RoundStarted& record);
  absl::Status ApplyUpdateAccepted(const v1::UpdateAccepted& record);
  // UpdateRefused or ClientLost.
  template <typename Out>
  absl::Status ApplyOut(const Out& record, bool refused);
  // secure_state.cc
  absl::Status ApplySecurePhase(const v1::SecurePhaseClosed& record);
  absl::Status CheckAccounted(const Cohort& cohort,
                              const v1::SecurePhaseClosed& record) const;
  absl::Status ApplyClientBlamed(const v1::ClientBlamed& record);
  void CloseAdvertising(const v1::SecurePhaseClosed& record,
                        const Training& training);
  void CloseSecure(const v1::SecurePhaseClosed& record, SecureSum sum);
  absl::Status ApplySecureCommitted(const SecureSum& sum,
                                    const v1::RoundCommitted& record);
  absl::Status ApplyRoundCommitted(const v1::RoundCommitted& record);
  absl::Status EnterCommitted(const v1::RoundCommitted& record);
  absl::Status ApplyRoundLost(const v1::RoundLost& record);
  absl::Status ApplyEvaluationStarted(const v1::EvaluationStarted& record);
  absl::Status ApplyEvaluationAccepted(const v1::EvaluationAccepted& record);
  absl::Status ApplyEvaluationFinished(const v1::EvaluationFinished& record);
  absl::Status ApplyJobFinished(const v1::JobFinished& record);

  // Keeps lost_reason() and dropout_reason(); before the record is applied.
  void NoteReasons(const v1::JournalRecord& record);
  template <typename Out>
  void NoteDropout(const Out& record);
  bool EvaluationDue(uint32_t version) const;
  void Enter(Phase phase);
  void EnterAfterVersion(uint32_t version);
  // Training becomes Aggregating when nothing more is awaited.
  void CloseTrainingIfComplete();
  void RememberTraining(const Training& training);

  config::JobOptions options_;
  v1::JobStarted facts_;
  Phase phase_;
  uint64_t phase_serial_ = 0;
  uint32_t rounds_committed_ = 0;
  uint32_t rounds_lost_ = 0;
  uint32_t lost_in_a_row_ = 0;  // also: attempts of the round that are over
  std::string lost_reason_, dropout_reason_;
  v1::BlobRef adapter_;
  v1::BlobRef server_state_;
  double heldout_loss_before_ = std::numeric_limits<double>::quiet_NaN();
  double heldout_loss_ = std::numeric_limits<double>::quiet_NaN();
  uint64_t bytes_up_ = 0;
  uint64_t bytes_down_ = 0;
  std::set<std::string, std::less<>> blamed_;
  Accusations accusations_;
  ClosedPhase last_training_;
  ClosedPhase last_evaluation_;
  bool last_was_evaluation_ = false;
};

// The phase that follows `phase` under options.
absl::string_view NextSecurePhase(
    absl::string_view phase, const config::SecureAggregationOptions& options);

// DATA_LOSS: "journal is broken: <record> cannot follow, <why>".
absl::Status BrokenJournal(absl::string_view record, absl::string_view why);

}  // namespace choir::engine

#endif  // CHOIR_COORDINATOR_ENGINE_JOB_STATE_H_
