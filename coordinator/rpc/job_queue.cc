// Jobs of the job loop: submitting, starting, stopping, and what clients report
// of their tasks.
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "coordinator/rpc/grpc_status.h"
#include "coordinator/rpc/job_loop.h"
#include "coordinator/rpc/refusal_log.h"
#include "coordinator/runner/update_sum.h"
#include "model/adapter/targets.h"
#include "model/training/training_fit.h"
#include "proto/config/job_options.h"

namespace choir::rpc {
namespace {

// Room for the paths and the remedies of our own messages.
constexpr size_t kMaxReasonBytes = 2000;

v1::ReportResponse TooLate(std::string reason) {
  v1::ReportResponse response;
  response.set_verdict(v1::ReportResponse::TOO_LATE);
  response.set_reason(std::move(reason));
  return response;
}

// INVALID_ARGUMENT if the outcome does not fit the kind of task.
absl::StatusOr<engine::Event> EventOf(const std::string& client,
                                      const v1::ReportRequest& request) {
  const v1::TaskKey& key = request.key();
  switch (request.outcome_case()) {
    case v1::ReportRequest::kTrain:
      if (key.kind() != v1::TASK_KIND_TRAIN) break;
      return engine::Event(
          engine::UpdateReceived{client, key, request.train()});
    case v1::ReportRequest::kEvaluation:
      if (key.kind() != v1::TASK_KIND_EVALUATE) break;
      return engine::Event(
          engine::EvaluationReceived{client, key, request.evaluation()});
    case v1::ReportRequest::kFailure:
      return engine::Event(engine::TaskFailed{
          client, key, PrintableText(request.failure().reason()), false});
    case v1::ReportRequest::OUTCOME_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError(
      "the report's outcome does not fit the kind of its task");
}

}  // namespace

absl::StatusOr<v1::ReportResponse> JobLoop::Report(
    const std::string& client, const v1::ReportRequest& request) {
  if (runner_ == nullptr || request.key().job() != running_job_) {
    return TooLate(absl::StrCat("job \"", PrintableText(request.key().job()),
                                "\" is not running"));
  }
  CHOIR_ASSIGN_OR_RETURN(engine::Event event, EventOf(client, request));
  CHOIR_ASSIGN_OR_RETURN(v1::ReportResponse response,
                         PostToRunner(std::move(event)));
  Drop(board_.Done(client, request.key()));
  if (request.has_train()) board_.Reported(request.train().update().digest());
  return response;
}

void JobLoop::FailJob(const std::string& job, const absl::Status& why) {
  v1::JournalRecord record;
  record.mutable_job_finished()->set_job(job);
  record.mutable_job_finished()->set_state(v1::JobFinished::FAILED);
  record.mutable_job_finished()->set_reason(
      PrintableText(why.message(), kMaxReasonBytes));
  NoteTrouble(Record({record}));
}

void JobLoop::StartNextJob() {
  const absl::optional<v1::JobConfig> next = jobs_.Next();
  if (!next.has_value()) return;
  absl::StatusOr<config::JobOptions> options = config::ResolveJob(*next);
  if (!options.ok()) {
    FailJob(next->name(), options.status());
    return;
  }
  base::LogInfo("job ", next->name(), ": starting");
  running_job_ = next->name();
  Drop(board_.Clear());
  runner::RunnerHooks hooks;
  hooks.send_task = [this](const std::string& client, v1::TaskPlan plan) {
    OnTask(client, std::move(plan));
  };
  hooks.on_record = [this](const v1::JournalRecord& record) {
    OnRecord(record);
  };
  hooks.send_secure =
      [this](const std::string& client, const v1::TaskKey& key,
             const absl::StatusOr<v1::SecureServerMessage>& answer) {
        OnSecure(client, key, answer);
      };
  absl::StatusOr<std::unique_ptr<runner::JobRunner>> runner =
      options_.make_runner(*options, std::move(hooks));
  if (!runner.ok()) {
    const absl::Status& why = runner.status();
    if (absl::IsUnavailable(why) || absl::IsResourceExhausted(why)) {
      NoteTrouble(why);
    } else {
      base::LogError("job ", next->name(), " cannot start: ", why.message());
      FailJob(next->name(), why);
    }
    return;
  }
  NoteTrouble(absl::OkStatus());
  runner_ = *std::move(runner);
  std::vector<std::string> waiting;
  for (auto& [client, peer] : peers_) {
    peer.present = false;
    if (peer.answer != nullptr) waiting.push_back(client);
  }
  for (const std::string& client : waiting) Arrive(client);
}

// Single updates do not outlive their job, also those that nobody reported.
void JobLoop::RemoveUnreported() {
  for (const std::string& digest : board_.TakeUnreported()) {
    // Masked vectors are kept by nobody.
    RemoveUpdate(digest, options_.keep_updates);
  }
}

bool JobLoop::RemoveUpdate(const std::string& digest, bool only_masked) {
  const bool remove = only_masked
                          ? runner::IsMaskedBlob(store_.blobs(), digest)
                          : runner::IsUpdateBlob(store_.blobs(), digest);
  if (!remove || jobs_.IsModelBlob(digest)) return false;
  const absl::Status removed = store_.blobs().Remove(digest);
  if (!removed.ok()) {
    base::LogWarning("cannot remove update ", digest, ": ", removed.message());
  }
  return removed.ok();
}

void JobLoop::Drop(const WorkBoard::Remains& remains) {
  if (abandon_upload_ != nullptr) {
    for (const std::string& client : remains.clients) abandon_upload_(client);
  }
  for (const std::string& digest : remains.payloads) {
    if (RemoveUpdate(digest, true)) board_.Reported(digest);
  }
}

// What was not added by now never will be.
void JobLoop::DropLate(const v1::JournalRecord& record) {
  if (record.has_secure_phase_closed() &&
      record.secure_phase_closed().phase() == engine::kMaskedInput) {
    const v1::TaskKey& key = record.secure_phase_closed().key();
    Drop(board_.Close(key.job(), key.round(), key.attempt()));
  } else if (record.has_round_lost()) {
    const v1::RoundLost& lost = record.round_lost();
    Drop(board_.Close(lost.job(), lost.round(), lost.attempt()));
  }
}

void JobLoop::AdvanceJobs() {
  for (;;) {
    if (runner_ != nullptr && runner_->finished() &&
        jobs_.Finished(running_job_)) {
      AnswerAllExchanges(absl::AbortedError("the job is over"));
      runner_.reset();
      running_job_.clear();
      Drop(board_.Clear());
      RemoveUnreported();
    }
    if (runner_ != nullptr || (troubled_ && clock_.Now() < retry_at_)) break;
    if (!jobs_.Next().has_value()) {
      RemoveUnreported();
      break;
    }
    StartNextJob();
  }
  idle_ = runner_ == nullptr && !jobs_.Next().has_value();
}

absl::StatusOr<v1::SubmitJobResponse> JobLoop::Submit(
    const v1::JobConfig& config, const std::string& by) {
  CHOIR_ASSIGN_OR_RETURN(config::JobOptions options,
                         config::ResolveJob(config));
  CHOIR_RETURN_IF_ERROR(runner::CheckSecureJob(options));
  // The journal names the layers that are adapted. A base that cannot be read
  // is no reason to refuse: until the job's turn comes it may still arrive.
  std::vector<std::string> warnings;
  absl::StatusOr<config::JobOptions> named = model::WithTargets(options);
  if (named.ok()) {
    options = *std::move(named);
    CHOIR_RETURN_IF_ERROR(model::CheckJobFits(options));
  } else {
    warnings.push_back(absl::StrCat(
        "the job will fail unless its base is there when its turn comes: ",
        named.status().message()));
  }
  const std::string open = config::OpenEvaluationWarning(options);
  if (!open.empty()) warnings.push_back(open);
  if (jobs_.Contains(options.name)) {
    return absl::AlreadyExistsError(
        absl::StrCat("a job \"", options.name,
                     "\" was submitted before; choose another "
                     "name"));
  }
  v1::JournalRecord record;
  *record.mutable_job_submitted()->mutable_config() = config::ToProto(options);
  record.mutable_job_submitted()->set_submitted_by(by);
  CHOIR_RETURN_IF_ERROR(Record({record}));
  idle_ = false;
  v1::SubmitJobResponse response;
  response.set_warning(absl::StrJoin(warnings, "; "));
  for (const std::string& warning : warnings) {
    base::LogWarning("job ", options.name, ": ", warning);
  }
  response.set_job(options.name);
  response.set_queue_position(jobs_.Ahead(options.name));
  return response;
}

absl::StatusOr<v1::JobStatus> JobLoop::StopJob(const std::string& job,
                                               const std::string& by) {
  CHOIR_ASSIGN_OR_RETURN(const v1::JobStatus status, jobs_.Status(job));
  if (IsFinalState(status.state())) return Status(job);
  const std::string reason = absl::StrCat("stopped by ", by);
  if (runner_ != nullptr && running_job_ == job) {
    absl::StatusOr<v1::ReportResponse> posted =
        PostToRunner(engine::StopRequested{reason});
    if (!posted.ok()) return posted.status();
  } else {
    v1::JournalRecord record;
    record.mutable_job_finished()->set_job(job);
    record.mutable_job_finished()->set_state(v1::JobFinished::STOPPED);
    record.mutable_job_finished()->set_reason(reason);
    CHOIR_RETURN_IF_ERROR(Record({record}));
  }
  return Status(job);
}

absl::StatusOr<v1::JobStatus> JobLoop::Status(const std::string& job) const {
  CHOIR_ASSIGN_OR_RETURN(v1::JobStatus status, jobs_.Status(job));
  if (runner_ != nullptr && running_job_ == job) {
    const engine::Progress progress = runner_->progress();
    status.set_available_clients(progress.available_clients);
    status.set_waiting_for(troubled_ ? "space on the coordinator's disk"
                                     : progress.waiting_for);
    status.set_bytes_up(progress.bytes_up);
    status.set_bytes_down(progress.bytes_down);
  }
  return status;
}

}  // namespace choir::rpc
