// The engine's inside: JobState, what is not journaled (who is connected, when
// waits end), and the decisions.
#ifndef CHOIR_COORDINATOR_ENGINE_ENGINE_IMPL_H_
#define CHOIR_COORDINATOR_ENGINE_ENGINE_IMPL_H_

#include <map>
#include <set>
#include <string>

#include "absl/types/optional.h"
#include "coordinator/engine/engine.h"
#include "coordinator/engine/job_state.h"

namespace choir::engine {

// How long a phase waits for those who have just reported, so that it is not
// begun without them because they need a moment to ask for work again.
inline constexpr absl::Duration kReturnGrace = absl::Seconds(30);

class Engine::Impl {
 public:
  Impl(config::JobOptions options, JobFacts facts, SessionMaker make_session)
      : state_(std::move(options), std::move(facts)),
        make_session_(std::move(make_session)) {}

  absl::Status Replay(const v1::JournalRecord& record) {
    return state_.Apply(record);
  }
  Outcome Resume(absl::Time now);
  Outcome Handle(const Event& event, absl::Time now);
  bool Wants(absl::string_view client, const v1::TaskKey& key) const;
  std::vector<v1::BlobRef> UpdatesInUse() const;
  const v1::SecureSession* SessionInProgress() const;
  std::string SecurePhaseOf(const v1::TaskKey& key) const;
  bool WantsSecure(absl::string_view client, const v1::TaskKey& key) const;
  Progress GetProgress() const;
  const JobState& state() const { return state_; }

 private:
  using Names = std::set<std::string, std::less<>>;

  // events.cc: one per event. They decide on records; Advance() does the rest.
  void On(const ClientArrived& event, Outcome& outcome);
  void On(const ClientLeft& event, Outcome& outcome);
  void On(const UpdateReceived& event, Outcome& outcome);
  void On(const TaskFailed& event, Outcome& outcome);
  void On(const EvaluationReceived& event, Outcome& outcome);
  void On(const AggregateDone& event, Outcome& outcome);
  void On(const AggregateFailed& event, Outcome& outcome);
  void On(const TimerFired& event, Outcome& outcome);
  void On(const StopRequested& event, Outcome& outcome);

  // secure.cc
  void On(const SecureAnswered& event, Outcome& outcome);
  void On(const SecureRefused& event, Outcome& outcome);
  void On(const SecureUnfit& event, Outcome& outcome);
  void On(const SecurePhaseAdvanced& event, Outcome& outcome);
  void OnSecureSum(const SecureSum& sum, const AggregateDone& event,
                   Outcome& outcome);
  bool secure() const { return state_.options().secure_aggregation.enabled; }
  absl::string_view OpenPhase() const;
  size_t SurvivorsNeeded() const;
  // Why a member leaves a session.
  struct Leaving {
    std::string reason;
    bool refused = false;              // by its own word
    std::vector<std::string> accused;  // as in SecureRefused
  };
  void LoseMember(const std::string& client, const Leaving& why,
                  Outcome& outcome);
  void RecordLost(const std::string& client, const v1::TaskKey& key,
                  const Leaving& why, Outcome& outcome);
  // A refusal by who is out, or of an attempt that is over.
  void NoteLateRefusal(const std::string& client, const v1::TaskKey& key,
                       const Leaving& why, Outcome& outcome);
  // Records whom enough have named.
  void BlameAccused(Outcome& outcome);
  // Records those who have left during a phase that they had answered.
  void FlushLeaving(Outcome& outcome);
  void EnterSecure(const SecureSum& sum, Outcome& outcome);
  bool StepReady(const Training& training, Outcome& outcome);
  bool StepSecure(const SecureSum& sum, Outcome& outcome);
  std::string SecureShortfall(const SecureSum& sum) const;
  // The session of the round about to begin; false after failing the job.
  bool MakeSession(const std::vector<std::string>& cohort,
                   v1::RoundStarted& started, Outcome& outcome);
  void AbortSession(const std::string& reason, Outcome& outcome);
  absl::optional<absl::Time> SecureDeadline() const;
  std::string SecureProgress() const;

  // Null unless `key` names the phase in progress.
  const Cohort* CurrentCohort(const v1::TaskKey& key) const;
  // Answers a report that changes nothing: repeated, late, or from a stranger
  // (which is journaled).
  void AnswerUnwanted(const std::string& client, const v1::TaskKey& key,
                      Outcome& outcome);
  void AnswerUnwantedOf(const Cohort& cohort, const std::string& client,
                        const v1::TaskKey& key, Outcome& outcome);
  void Refuse(const std::string& client, const v1::TaskKey& key,
              const std::string& reason, Outcome& outcome);
  void NoteReporter(const std::string& client);

  // engine.cc: brings the phases forward as far as they go now.
  void Advance(Outcome& outcome);
  // One step; false if there is nothing to do but wait.
  bool Step(Outcome& outcome);
  bool StepWaiting(const WaitingForClients& waiting, Outcome& outcome);
  std::string WhyTooManyLost() const;
  bool StepTraining(const Training& training, Outcome& outcome);
  bool StepAggregating(const Aggregating& aggregating, Outcome& outcome);
  bool StepEvaluating(const Evaluating& evaluating, Outcome& outcome);

  bool CanBegin(const WaitingForClients& waiting) const;
  std::set<std::string> Candidates() const;
  void BeginRound(Outcome& outcome);
  void BeginEvaluation(uint32_t version, Outcome& outcome);
  void LoseRound(const std::string& reason, Outcome& outcome);
  void LosePending(const Cohort& cohort, Outcome& outcome);
  void FinishEvaluation(const Evaluating& evaluating, Outcome& outcome);
  void Finish(v1::JobFinished::State state, const std::string& reason,
              Outcome& outcome);
  // The accepted updates of the round in progress are needed no more.
  void Discard(Outcome& outcome);
  // Sends its task to everyone pending in a phase that has just begun, or that
  // goes on after a restart.
  void SendTasks(const Cohort& cohort, Outcome& outcome);
  void SendTaskTo(const std::string& client, const v1::TaskKey& key,
                  Outcome& outcome);
  v1::TaskPlan MakePlan(const std::string& client,
                        const v1::TaskKey& key) const;

  // Makes the one timer agree with what is awaited.
  void UpdateTimer(Outcome& outcome);
  absl::Time NextDeadline() const;

  // Adds the record and applies it, as Replay() would.
  void Record(v1::JournalRecord record, Outcome& outcome);

  JobState state_;
  const SessionMaker make_session_;
  absl::Time now_ = absl::InfinitePast();

  // Connected and without a task.
  Names available_;
  // Reported in this or the last phase, and not back yet.
  Names returning_;
  // Refused in this phase for a task that was never given out, or have refused
  // a session that they were no longer in: journaled once each, so that no peer
  // can fill the journal.
  Names strangers_;

  // Of the phase with this serial number:
  uint64_t entered_serial_ = 0;  // 0: none
  absl::Time entered_ = absl::InfinitePast();

  // Of the open phase of a secure round:
  struct Answered {
    uint64_t bytes = 0;
    std::string digest;
  };
  std::map<std::string, Answered, std::less<>> answered_;
  // The driver was asked to close it.
  bool closing_ = false;
  // Answered in it, but will not in the next.
  std::map<std::string, Leaving> leaving_;
  // The groups asked for while sessions are begun.
  std::map<std::string, uint32_t> members_;
  // Of the secure round in progress: what its clients say they downloaded.
  std::map<std::string, uint64_t> downloaded_;

  struct Timer {
    uint64_t id;
    absl::Time at;
  };
  absl::optional<Timer> timer_;
  uint64_t next_timer_ = 1;
};

}  // namespace choir::engine

#endif  // CHOIR_COORDINATOR_ENGINE_ENGINE_IMPL_H_
