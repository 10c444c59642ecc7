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
  const std::string message =
      absl::StrCat("cannot write ", what, " to ", store_.root(), ": ",
                   status.message(),
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
  } else if (std::holds_alternative<engine::FinishJob>(action)) {
    finished_ = true;
    return PerformDiscard({});  // strays
  }
  return absl::OkStatus();
}

absl::Status JobRunnerImpl::PerformAggregate(const engine::Aggregate& action) {
  engine::Event answer;
  const absl::StatusOr<aggregate::IntegerSum> sum =
      SumUpdates(action.updates, layout_, engine_->options().aggregation,
                 store_.blobs(), pool_);
  absl::StatusOr<v1::RoundCommitted> committed =
      sum.ok() ? StepServer(action, sum->Encode())
               : absl::StatusOr<v1::RoundCommitted>(sum.status());
  if (sum.ok() && absl::IsUnavailable(committed.status())) {
    return committed.status();
  }
  if (committed.ok()) {
    committed->set_total_weight(sum->total_weight());
    answer = engine::AggregateDone{*std::move(committed)};
  } else {
    base::LogError("round ", action.round, ", attempt ", action.attempt,
                   ": no sum: ", committed.status().ToString());
    answer = engine::AggregateFailed{action.round, action.attempt,
                                     committed.status().ToString()};
  }
  Enqueue(engine_->Handle(answer, clock_.Now()));
  return absl::OkStatus();
}

absl::StatusOr<v1::RoundCommitted> JobRunnerImpl::StepServer(
    const engine::Aggregate& action, const std::string& sum_bytes) {
  store::BlobStore& blobs = store_.blobs();
  CHOIR_ASSIGN_OR_RETURN(const std::string adapter,
                         blobs.Read(action.adapter.digest()));
  std::string state;
  if (!action.server_state.digest().empty()) {
    CHOIR_ASSIGN_OR_RETURN(state, blobs.Read(action.server_state.digest()));
  }
  CHOIR_ASSIGN_OR_RETURN(
      const aggregate::ServerStepResult step,
      aggregate::ServerStep(adapter, sum_bytes, state,
                            engine_->options().aggregation));
  v1::RoundCommitted committed;
  committed.set_round(action.round);
  committed.set_attempt(action.attempt);
  const auto put = [&](const std::string& bytes,
                       v1::BlobRef* ref) -> absl::Status {
    absl::StatusOr<v1::BlobRef> blob = blobs.Put(bytes);
    if (!blob.ok()) return Unavailable("a blob", blob.status());
    *ref = *std::move(blob);
    return absl::OkStatus();
  };
  CHOIR_RETURN_IF_ERROR(put(sum_bytes, committed.mutable_aggregate()));
  CHOIR_RETURN_IF_ERROR(put(step.adapter_after, committed.mutable_adapter()));
  if (!step.server_state.empty()) {
    CHOIR_RETURN_IF_ERROR(
        put(step.server_state, committed.mutable_server_state()));
  }
  return committed;
}

absl::Status JobRunnerImpl::PerformDiscard(
    const engine::DiscardUpdates& action) {
  std::set<std::string> digests = std::move(strays_);
  strays_.clear();
  if (options_.keep_updates) return absl::OkStatus();
  for (auto it = digests.begin(); it != digests.end();) {
    it = IsUpdateBlob(store_.blobs(), *it) ? std::next(it) : digests.erase(it);
  }
  for (const v1::BlobRef& update : action.updates) {
    digests.insert(update.digest());
  }
  // Equal updates have one blob.
  for (const v1::BlobRef& update : engine_->updates_in_use()) {
    digests.erase(update.digest());
  }
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
