// How the runner carries out what the engine has decided.
#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "coordinator/aggregate/server_optimizer.h"
#include "coordinator/runner/job_runner_impl.h"
#include "coordinator/runner/update_sum.h"

namespace choir::runner {
namespace {

// Pause before writing is tried again.
constexpr absl::Duration kRetryAfter = absl::Seconds(1);

}  // namespace

absl::Status JobRunnerImpl::Unavailable(absl::string_view what,
                                        const absl::Status& status) {
  retry_at_ = clock_.Now() + kRetryAfter;
  const std::string message = absl::StrCat(
      "cannot write ", what, " to ", store_.root(), ": ", status.message(),
      "; nothing is lost, this is tried again every ",
      absl::FormatDuration(kRetryAfter));
  base::LogError(message);
  return absl::UnavailableError(message);
}

absl::Status JobRunnerImpl::Drain() {
  while (true) {
    CHOIR_RETURN_IF_ERROR(PersistRecords());
    if (actions_.empty()) break;
    CHOIR_RETURN_IF_ERROR(Perform(actions_.front()));
    actions_.pop_front();
  }
  retry_at_ = absl::InfiniteFuture();
  return absl::OkStatus();
}

absl::Status JobRunnerImpl::PersistRecords() {
  if (records_.empty()) return absl::OkStatus();
  const absl::Status appended = store_.journal().Append(records_);
  if (!appended.ok()) return Unavailable("the journal", appended);
  const std::vector<v1::JournalRecord> durable = std::move(records_);
  records_.clear();
  if (hooks_.on_record) {
    for (const v1::JournalRecord& record : durable) hooks_.on_record(record);
  }
  return absl::OkStatus();
}

absl::Status JobRunnerImpl::Perform(engine::Action& action) {
  if (auto* send = std::get_if<engine::SendTask>(&action)) {
    const absl::Duration left =
        std::max(absl::ZeroDuration(), send->deadline - clock_.Now());
    send->plan.set_deadline_ms(
        static_cast<uint64_t>(absl::ToInt64Milliseconds(left)));
    base::LogDebug("job ", send->plan.key().job(), ", round ",
                   send->plan.key().round(), ": task for ", send->client,
                   ", due in ", absl::FormatDuration(left));
    hooks_.send_task(send->client, std::move(send->plan));
  } else if (const auto* timer = std::get_if<engine::SetTimer>(&action)) {
    timer_ = *timer;
  } else if (std::holds_alternative<engine::CancelTimer>(action)) {
    timer_.reset();
  } else if (const auto* sum = std::get_if<engine::Aggregate>(&action)) {
    return PerformAggregate(*sum);
  } else if (const auto* discard =
                 std::get_if<engine::DiscardUpdates>(&action)) {
    return PerformDiscard(*discard);
  } else if (const auto* close =
                 std::get_if<engine::CloseSecurePhase>(&action)) {
    return PerformClose(*close);
  } else if (const auto* open = std::get_if<engine::OpenSecurePhase>(&action)) {
    return PerformOpen(*open);
  } else if (const auto* secure =
                 std::get_if<engine::AggregateSecure>(&action)) {
    return PerformSecureSum(*secure);
  } else if (const auto* abort = std::get_if<engine::AbortSecure>(&action)) {
    PerformAbort(*abort);
  } else if (std::holds_alternative<engine::FinishJob>(action)) {
    finished_ = true;
    return PerformDiscard({});  // strays
  }
  return absl::OkStatus();
}

absl::Status JobRunnerImpl::PerformAggregate(const engine::Aggregate& action) {
  const absl::StatusOr<aggregate::IntegerSum> sum =
      SumUpdates(action.updates, layout_, engine_->options().aggregation,
                 store_.blobs(), pool_);
  if (!sum.ok()) return AnswerSum(action.round, action.attempt, sum.status());
  absl::StatusOr<v1::RoundCommitted> committed =
      StepServer(action.round, action.attempt, action.adapter,
                 action.server_state, sum->Encode());
  if (absl::IsUnavailable(committed.status())) return committed.status();
  if (committed.ok()) committed->set_total_weight(sum->total_weight());
  return AnswerSum(action.round, action.attempt, std::move(committed));
}

absl::Status JobRunnerImpl::AnswerSum(
    uint32_t round, uint32_t attempt,
    absl::StatusOr<v1::RoundCommitted> committed) {
  engine::Event answer;
  if (committed.ok()) {
    answer = engine::AggregateDone{*std::move(committed)};
  } else {
    base::LogError("round ", round, ", attempt ", attempt,
                   ": no sum: ", committed.status().ToString());
    answer =
        engine::AggregateFailed{round, attempt, committed.status().ToString()};
  }
  Enqueue(engine_->Handle(answer, clock_.Now()));
  return absl::OkStatus();
}

absl::StatusOr<v1::BlobRef> JobRunnerImpl::PutBlob(const std::string& bytes) {
  absl::StatusOr<v1::BlobRef> blob = store_.blobs().Put(bytes);
  if (!blob.ok()) return Unavailable("a blob", blob.status());
  return blob;
}

absl::StatusOr<v1::RoundCommitted> JobRunnerImpl::StepServer(
    uint32_t round, uint32_t attempt, const v1::BlobRef& adapter,
    const v1::BlobRef& server_state, const std::string& sum_bytes) {
  const store::BlobStore& blobs = store_.blobs();
  CHOIR_ASSIGN_OR_RETURN(const std::string before,
                         blobs.Read(adapter.digest()));
  std::string state;
  if (!server_state.digest().empty()) {
    CHOIR_ASSIGN_OR_RETURN(state, blobs.Read(server_state.digest()));
  }
  CHOIR_ASSIGN_OR_RETURN(const aggregate::ServerStepResult step,
                         aggregate::ServerStep(before, sum_bytes, state,
                                               engine_->options().aggregation));
  v1::RoundCommitted committed;
  committed.set_round(round);
  committed.set_attempt(attempt);
  CHOIR_ASSIGN_OR_RETURN(*committed.mutable_aggregate(), PutBlob(sum_bytes));
  CHOIR_ASSIGN_OR_RETURN(*committed.mutable_adapter(),
                         PutBlob(step.adapter_after));
  if (!step.server_state.empty()) {
    CHOIR_ASSIGN_OR_RETURN(*committed.mutable_server_state(),
                           PutBlob(step.server_state));
  }
  return committed;
}

absl::Status JobRunnerImpl::PerformDiscard(
    const engine::DiscardUpdates& action) {
  std::set<std::string> digests = std::move(strays_);
  strays_.clear();
  // Masked vectors are of no use to anybody, whatever is kept.
  for (auto it = digests.begin(); it != digests.end();) {
    const bool remove = options_.keep_updates
                            ? IsMaskedBlob(store_.blobs(), *it)
                            : IsUpdateBlob(store_.blobs(), *it);
    it = remove ? std::next(it) : digests.erase(it);
  }
  if (options_.keep_updates) return RemoveBlobs(digests);
  for (const v1::BlobRef& update : action.updates) {
    digests.insert(update.digest());
  }
  // Equal updates have one blob.
  for (const v1::BlobRef& update : engine_->updates_in_use()) {
    digests.erase(update.digest());
  }
  return RemoveBlobs(digests);
}

absl::Status JobRunnerImpl::RemoveBlobs(const std::set<std::string>& digests) {
  for (const std::string& digest : digests) {
    const absl::Status removed = store_.blobs().Remove(digest);
    if (!removed.ok()) {
      base::LogWarning("cannot remove update ", digest, ": ",
                       removed.message());
    }
  }
  return absl::OkStatus();
}

}  // namespace choir::runner
