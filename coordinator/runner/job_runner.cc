#include "coordinator/runner/job_runner.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "coordinator/runner/base_model.h"
#include "coordinator/runner/job_runner_impl.h"
#include "coordinator/runner/update_sum.h"
#include "proto/codec/flat_update.h"

namespace choir::runner {
namespace {

// Norms are compared in double; clients clip in their own way.
constexpr double kNormTolerance = 1e-3;

absl::Time WakeupOf(const absl::optional<engine::SetTimer>& timer) {
  return timer.has_value() ? timer->at : absl::InfiniteFuture();
}

// The job's configuration without what may differ after a move.
std::string Comparable(v1::JobConfig config) {
  config.mutable_model()->clear_base();
  return config.SerializeAsString();
}

// Of reports alone; other events have no answer.
void LogAnswer(const engine::Event& event, const v1::ReportResponse& response) {
  if (response.verdict() == v1::ReportResponse::VERDICT_UNSPECIFIED) return;
  std::visit(
      [&response](const auto& report) {
        if constexpr (requires { report.client, report.key; }) {
          base::LogDebug(
              "job ", report.key.job(), ", round ", report.key.round(),
              ": report of ", report.client, ": ",
              v1::ReportResponse::Verdict_Name(response.verdict()),
              response.reason().empty() ? "" : ", ", response.reason());
        }
      },
      event);
}

}  // namespace

absl::StatusOr<std::unique_ptr<JobRunner>> JobRunner::Start(
    const config::JobOptions& options, const RunnerOptions& runner_options,
    store::Store& store, const base::Clock& clock, base::ThreadPool* pool,
    RunnerHooks hooks) {
  CHOIR_CHECK(hooks.send_task != nullptr);
  CHOIR_CHECK(
      !options.secure_aggregation.enabled ||
      (hooks.send_secure != nullptr && runner_options.verifier != nullptr));
  auto runner = std::make_unique<JobRunnerImpl>(runner_options, store, clock,
                                                pool, std::move(hooks));
  CHOIR_RETURN_IF_ERROR(runner->Begin(options));
  return std::unique_ptr<JobRunner>(std::move(runner));
}

absl::Status JobRunnerImpl::Begin(const config::JobOptions& options) {
  CHOIR_ASSIGN_OR_RETURN(const bool submitted, ReplayJournal(options));
  if (engine_ == nullptr) {
    CHOIR_RETURN_IF_ERROR(CheckSecureJob(options));
    CHOIR_RETURN_IF_ERROR(StartJob(options, submitted));
  }
  CHOIR_ASSIGN_OR_RETURN(
      layout_, LayoutOfJob(options, engine_->facts(), store_.blobs()));
  CHOIR_RETURN_IF_ERROR(DiscardLeftovers());
  if (options.secure_aggregation.enabled) {
    CHOIR_RETURN_IF_ERROR(DiscardMasked());
  }
  Enqueue(engine_->Resume(clock_.Now()));
  const absl::Status drained = Drain();
  // A full disk is no reason not to start: Poll() tries again.
  if (!drained.ok() && !absl::IsUnavailable(drained)) return drained;
  return absl::OkStatus();
}

absl::StatusOr<bool> JobRunnerImpl::ReplayJournal(
    const config::JobOptions& options) {
  absl::optional<v1::JobConfig> submitted;
  std::vector<std::string> round;  // digests of the round in progress
  const absl::Status read = store_.journal().ForEach(
      [&](const store::JournalEntry& entry) -> absl::Status {
        const v1::JournalRecord& record = entry.record;
        if (record.has_job_submitted() &&
            record.job_submitted().config().name() == options.name) {
          submitted = record.job_submitted().config();
        }
        if (engine_ == nullptr && record.has_job_started() &&
            record.job_started().job() == options.name) {
          engine_ = MakeEngine(options, record.job_started());
        }
        if (engine_ == nullptr) return absl::OkStatus();
        const absl::Status applied = engine_->Replay(record);
        if (!applied.ok()) {
          return absl::Status(
              applied.code(),
              absl::StrCat("entry ", entry.sequence, ": ", applied.message()));
        }
        if (record.has_update_accepted() &&
            record.update_accepted().key().job() == options.name) {
          round.push_back(record.update_accepted().report().update().digest());
        } else if (!round.empty() && engine_->updates_in_use().empty()) {
          leftovers_ = std::move(round);
          round.clear();
        }
        return absl::OkStatus();
      });
  CHOIR_RETURN_IF_ERROR(read);
  if (engine_ != nullptr && submitted.has_value() &&
      Comparable(*submitted) != Comparable(config::ToProto(options))) {
    return absl::FailedPreconditionError(absl::StrCat(
        "job '", options.name, "' was begun in ", store_.root(),
        " with another configuration; give the job another name or use "
        "another store"));
  }
  return submitted.has_value();
}

absl::Status JobRunnerImpl::StartJob(const config::JobOptions& options,
                                     bool submitted) {
  CHOIR_ASSIGN_OR_RETURN(v1::JobStarted facts,
                         ImportBaseModel(options, store_.blobs()));
  std::vector<v1::JournalRecord> records;
  if (!submitted) {
    v1::JournalRecord record;
    *record.mutable_job_submitted()->mutable_config() =
        config::ToProto(options);
    record.mutable_job_submitted()->set_submitted_by("local");
    records.push_back(std::move(record));
  }
  v1::JournalRecord record;
  *record.mutable_job_started() = facts;
  records.push_back(std::move(record));
  CHOIR_RETURN_IF_ERROR(store_.journal().Append(records));
  if (hooks_.on_record) {
    for (const v1::JournalRecord& durable : records) hooks_.on_record(durable);
  }
  engine_ = MakeEngine(options, std::move(facts));
  return absl::OkStatus();
}

absl::Status JobRunnerImpl::DiscardLeftovers() {
  engine::DiscardUpdates discard;
  for (const std::string& digest : leftovers_) {
    discard.updates.emplace_back();
    discard.updates.back().set_digest(digest);
  }
  leftovers_.clear();
  return PerformDiscard(discard);
}

// Of sessions that ended with the process before.
absl::Status JobRunnerImpl::DiscardMasked() {
  CHOIR_ASSIGN_OR_RETURN(const std::vector<std::string> blobs,
                         store_.blobs().List());
  std::set<std::string> masked;
  for (const std::string& digest : blobs) {
    if (IsMaskedBlob(store_.blobs(), digest)) masked.insert(digest);
  }
  return RemoveBlobs(masked);
}

absl::StatusOr<absl::optional<std::string>> JobRunnerImpl::CheckUpdate(
    const v1::TrainReport& report) const {
  using Fault = absl::optional<std::string>;
  const v1::BlobRef& blob = report.update();
  const uint64_t expected = codec::EncodedUpdateBytes(layout_);
  if (blob.size() != expected) {
    return Fault(absl::StrCat("update has ", blob.size(),
                              " bytes; this job's updates have ", expected));
  }
  // A digest has one spelling in the journal: auditors compare texts.
  if (!store::IsDigestText(blob.digest())) {
    return Fault(
        "update is not named by 64 lower-case hexadecimal digits (SHA-256)");
  }
  const absl::StatusOr<std::string> bytes = store_.blobs().Read(blob.digest());
  if (absl::IsNotFound(bytes.status())) {
    return Fault(absl::StrCat("update ", blob.digest(), " was not uploaded"));
  }
  if (absl::IsInvalidArgument(bytes.status()) ||
      absl::IsDataLoss(bytes.status())) {
    return Fault(std::string(bytes.status().message()));
  }
  if (!bytes.ok()) {
    return absl::UnavailableError(
        absl::StrCat("cannot read an update: ", bytes.status().message()));
  }
  const config::AggregationOptions& aggregation =
      engine_->options().aggregation;
  const absl::StatusOr<std::vector<float>> values =
      codec::DecodeFlatUpdate(*bytes, layout_, aggregation.max_magnitude());
  if (!values.ok()) return Fault(std::string(values.status().message()));
  if (aggregation.clip_norm_l2 > 0.0) {
    double squares = 0.0;
    for (const float x : *values) squares += static_cast<double>(x) * x;
    const double limit = aggregation.clip_norm_l2 * (1.0 + kNormTolerance);
    if (std::sqrt(squares) > limit) {
      return Fault(absl::StrCat(
          "update is longer than aggregation.clip_norm_l2 = ",
          aggregation.clip_norm_l2, "; the client has to clip it"));
    }
  }
  return Fault();
}

absl::StatusOr<v1::ReportResponse> JobRunnerImpl::Post(engine::Event event) {
  CHOIR_RETURN_IF_ERROR(Drain());
  if (const auto* update = std::get_if<engine::UpdateReceived>(&event)) {
    const bool open = !engine_->options().secure_aggregation.enabled;
    if (open && engine_->Wants(update->client, update->key)) {
      CHOIR_ASSIGN_OR_RETURN(const absl::optional<std::string> fault,
                             CheckUpdate(update->report));
      if (fault.has_value()) {
        const std::string digest = update->report.update().digest();
        if (strays_.size() < kMaxStrays) strays_.insert(digest);
        event = engine::TaskFailed{update->client, update->key, *fault, true};
      }
    }
  }
  engine::Outcome outcome = engine_->Handle(event, Arrived());
  const v1::ReportResponse response = outcome.response;
  LogAnswer(event, response);
  if (const auto* update = std::get_if<engine::UpdateReceived>(&event)) {
    if (response.verdict() != v1::ReportResponse::ACCEPTED &&
        strays_.size() < kMaxStrays) {
      strays_.insert(update->report.update().digest());
    }
  }
  Enqueue(std::move(outcome));
  const absl::Status drained = Drain();
  // What is durable may be answered, even if an action has to be repeated.
  if (!drained.ok() && (!records_.empty() || !absl::IsUnavailable(drained))) {
    return drained;
  }
  return response;
}

absl::optional<absl::Time> JobRunnerImpl::next_wakeup() const {
  const absl::Time at = std::min(WakeupOf(timer_), retry_at_);
  if (at == absl::InfiniteFuture()) return absl::nullopt;
  return at;
}

absl::Status JobRunnerImpl::Poll() {
  CHOIR_RETURN_IF_ERROR(Drain());
  const absl::Time now = clock_.Now();
  if (!timer_.has_value() || now < timer_->at) return absl::OkStatus();
  const engine::TimerFired fired{timer_->timer};
  timer_.reset();
  Enqueue(engine_->Handle(fired, now));
  return Drain();
}

absl::Time JobRunnerImpl::Arrived() const {
  return std::min(clock_.Now(), arrived_);
}

void JobRunnerImpl::Enqueue(engine::Outcome outcome) {
  records_.insert(records_.end(),
                  std::make_move_iterator(outcome.records.begin()),
                  std::make_move_iterator(outcome.records.end()));
  actions_.insert(actions_.end(),
                  std::make_move_iterator(outcome.actions.begin()),
                  std::make_move_iterator(outcome.actions.end()));
}

}  // namespace choir::runner
