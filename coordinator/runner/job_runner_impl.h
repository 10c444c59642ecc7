// The one JobRunner there is.
#ifndef CHOIR_COORDINATOR_RUNNER_JOB_RUNNER_IMPL_H_
#define CHOIR_COORDINATOR_RUNNER_JOB_RUNNER_IMPL_H_

#include <deque>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "coordinator/runner/job_runner.h"
#include "coordinator/runner/secure_round.h"
#include "proto/codec/layout.h"

namespace choir::runner {

// Unwanted updates remembered for removal; more of them are left lying.
inline constexpr size_t kMaxStrays = 4096;

class JobRunnerImpl final : public JobRunner {
 public:
  JobRunnerImpl(const RunnerOptions& options, store::Store& store,
                const base::Clock& clock, base::ThreadPool* pool,
                RunnerHooks hooks)
      : options_(options),
        store_(store),
        clock_(clock),
        pool_(pool),
        hooks_(std::move(hooks)) {}

  // The rest of JobRunner::Start().
  absl::Status Begin(const config::JobOptions& options);

  absl::StatusOr<v1::ReportResponse> Post(engine::Event event) override;
  absl::StatusOr<absl::optional<v1::SecureServerMessage>> PostSecure(
      const std::string& client,
      const v1::SecureExchangeRequest& request) override;
  void ArrivedAt(absl::Time at) override { arrived_ = at; }
  absl::optional<absl::Time> next_wakeup() const override;
  absl::Status Poll() override;
  engine::Progress progress() const override { return engine_->progress(); }
  const engine::JobFacts& facts() const override { return engine_->facts(); }
  bool finished() const override {
    return finished_ && records_.empty() && actions_.empty();
  }

 private:
  // Rebuilds the engine from the journal; leaves engine_ null for a job that
  // was not started. Whether it was submitted.
  absl::StatusOr<bool> ReplayJournal(const config::JobOptions& options);
  // Makes the job's beginning durable.
  absl::Status StartJob(const config::JobOptions& options, bool submitted);
  // A crash may have come between the end of a round and this.
  absl::Status DiscardLeftovers();
  absl::Status DiscardMasked();

  // Null if the update may be counted; otherwise why it is refused. An error
  // is ours, not the peer's: UNAVAILABLE.
  absl::StatusOr<absl::optional<std::string>> CheckUpdate(
      const v1::TrainReport& report) const;

  void Enqueue(engine::Outcome outcome);
  // When what is being handled arrived.
  absl::Time Arrived() const;
  // Makes the records durable, then acts; what the actions lead to, too.
  // UNAVAILABLE if something could not be written: the rest is kept.
  absl::Status Drain();
  absl::Status PersistRecords();
  absl::Status Perform(engine::Action& action);
  absl::Status PerformAggregate(const engine::Aggregate& action);
  // Tells the engine what became of a sum.
  absl::Status AnswerSum(uint32_t round, uint32_t attempt,
                         absl::StatusOr<v1::RoundCommitted> committed);
  absl::StatusOr<v1::RoundCommitted> StepServer(uint32_t round,
                                                uint32_t attempt,
                                                const v1::BlobRef& adapter,
                                                const v1::BlobRef& server_state,
                                                const std::string& sum_bytes);
  absl::StatusOr<v1::BlobRef> PutBlob(const std::string& bytes);
  absl::Status PerformDiscard(const engine::DiscardUpdates& action);
  absl::Status RemoveBlobs(const std::set<std::string>& digests);

  // secure_actions.cc
  std::unique_ptr<engine::Engine> MakeEngine(const config::JobOptions& options,
                                             engine::JobFacts facts);
  absl::StatusOr<v1::SecureSession> MakeSession(const v1::TaskPlan& plan,
                                                uint32_t max_clients) const;
  secagg::ContributionSpec SpecOf(const v1::SecureSession& session) const;
  // The round that `key` names, made from the engine's session if it is new;
  // null if it is over.
  SecureRound* SecureRoundOf(const v1::TaskKey& key);
  // The message itself; PostSecure() looks after its vector.
  absl::StatusOr<absl::optional<v1::SecureServerMessage>> HearSecure(
      const std::string& client, const v1::SecureExchangeRequest& request);
  // If the blob is one: it is of no use any more.
  void RemoveMasked(const std::string& digest);
  // Those that were refused.
  void RemoveMaskedStrays();
  // `round` is null if it is over.
  absl::Status RefuseSession(SecureRound* round, const std::string& client,
                             const v1::SecureExchangeRequest& request);
  // Hands a message that is new to the sessions, and what it means to the
  // engine.
  absl::Status TakeSecure(SecureRound& round, const std::string& client,
                          const v1::SecureExchangeRequest& request);
  absl::Status PerformClose(const engine::CloseSecurePhase& action);
  absl::Status PerformOpen(const engine::OpenSecurePhase& action);
  absl::Status PerformSecureSum(const engine::AggregateSecure& action);
  absl::StatusOr<v1::RoundCommitted> SumSecurely(
      const engine::AggregateSecure& action);
  void PerformAbort(const engine::AbortSecure& action);
  void SendSecure(const std::string& client, const v1::TaskKey& key,
                  const absl::StatusOr<v1::SecureServerMessage>& answer);
  // Remembers that writing failed, and when to try again.
  absl::Status Unavailable(absl::string_view what, const absl::Status& status);

  const RunnerOptions options_;
  store::Store& store_;
  const base::Clock& clock_;
  base::ThreadPool* const pool_;
  const RunnerHooks hooks_;
  std::unique_ptr<engine::Engine> engine_;
  codec::Layout layout_;

  // Decided, but not durable yet; and what waits for that.
  std::vector<v1::JournalRecord> records_;
  std::deque<engine::Action> actions_;
  absl::Time retry_at_ = absl::InfiniteFuture();
  absl::Time arrived_ = absl::InfiniteFuture();

  // Updates that came too late or were refused; removed with their round.
  std::set<std::string> strays_;
  // Updates of the last round that the journal says is over.
  std::vector<std::string> leftovers_;

  // The secure round in progress, or the last one.
  std::unique_ptr<SecureRound> secure_;
  // Since the last attempt began, once for each client.
  std::set<std::string> refusals_logged_;
  // Of the secure rounds since this process began.
  secagg::UsedKeys used_keys_;
  // Whose PostSecure() is running.
  std::string asking_;

  absl::optional<engine::SetTimer> timer_;
  bool finished_ = false;
};

}  // namespace choir::runner

#endif  // CHOIR_COORDINATOR_RUNNER_JOB_RUNNER_IMPL_H_
