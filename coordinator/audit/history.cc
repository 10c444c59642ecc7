#include "coordinator/audit/history.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "coordinator/store/journal_reader.h"
#include "coordinator/store/journal_row.h"

namespace choir::audit {
namespace {

// Fills a History record by record. Threads: one.
class Historian {
 public:
  explicit Historian(History& history) : history_(history) {}
  void Next(const store::JournalEntry& entry);

 private:
  JobHistory& JobOf(const std::string& name);
  // The open attempt with these numbers; null if there is none.
  Attempt* OpenAttempt(const std::string& job, uint32_t round,
                       uint32_t attempt);
  Attempt* AttemptOf(const v1::TaskKey& key);
  Part* PartOf(const v1::TaskKey& key, const std::string& client);
  void OnRoundStarted(const v1::RoundStarted& record, absl::Time now);
  void OnUpdateAccepted(const v1::UpdateAccepted& record);
  void OnOut(const v1::TaskKey& key, const std::string& client,
             const std::string& outcome, const std::string& reason);
  void OnSecurePhase(const v1::SecurePhaseClosed& record);
  void OnRoundCommitted(const v1::RoundCommitted& record);
  void OnRoundLost(const v1::RoundLost& record);
  void OnEvaluation(const v1::JournalRecord& record);
  void OnJobFinished(const v1::JobFinished& record);

  History& history_;
  Attempt* touched_ = nullptr;
};

JobHistory& Historian::JobOf(const std::string& name) {
  for (JobHistory& job : history_.jobs) {
    if (job.name == name) return job;
  }
  history_.jobs.emplace_back();
  history_.jobs.back().name = name;
  history_.jobs.back().state = "queued";
  return history_.jobs.back();
}

Attempt* Historian::OpenAttempt(const std::string& job, uint32_t round,
                                uint32_t attempt) {
  std::vector<Attempt>& attempts = JobOf(job).attempts;
  if (attempts.empty() || attempts.back().round != round ||
      attempts.back().attempt != attempt) {
    return nullptr;
  }
  touched_ = &attempts.back();
  return touched_;
}

Attempt* Historian::AttemptOf(const v1::TaskKey& key) {
  if (key.kind() != v1::TASK_KIND_TRAIN) return nullptr;
  return OpenAttempt(key.job(), key.round(), key.attempt());
}

Part* Historian::PartOf(const v1::TaskKey& key, const std::string& client) {
  Attempt* attempt = AttemptOf(key);
  if (attempt == nullptr) return nullptr;
  for (Part& part : attempt->parts) {
    if (part.client == client) return &part;
  }
  // Not in the cohort: a stranger who was refused.
  attempt->parts.emplace_back();
  attempt->parts.back().client = client;
  return &attempt->parts.back();
}

void Historian::OnRoundStarted(const v1::RoundStarted& record, absl::Time now) {
  JobHistory& job = JobOf(record.job());
  Attempt attempt;
  attempt.job = record.job();
  attempt.round = record.round();
  attempt.attempt = record.attempt();
  attempt.state = "running";
  attempt.started = now;
  attempt.available = record.available();
  attempt.selected = static_cast<uint32_t>(record.cohort_size());
  if (record.has_secure_session()) attempt.session = record.secure_session();
  for (const std::string& client : record.cohort()) {
    Part part;
    part.client = client;
    part.outcome = "waiting";
    attempt.parts.push_back(std::move(part));
  }
  job.attempts.push_back(std::move(attempt));
  touched_ = &job.attempts.back();
}

void Historian::OnUpdateAccepted(const v1::UpdateAccepted& record) {
  Part* part = PartOf(record.key(), record.client());
  if (part == nullptr) return;
  part->outcome = "accepted";
  part->weight = record.weight();
  part->train = record.report();
  touched_->bytes_up += record.report().update().size();
  touched_->bytes_down += record.report().bytes_downloaded();
}

void Historian::OnOut(const v1::TaskKey& key, const std::string& client,
                      const std::string& outcome, const std::string& reason) {
  Part* part = PartOf(key, client);
  if (part == nullptr) return;
  part->outcome = outcome;
  part->reason = reason;
}

void Historian::OnSecurePhase(const v1::SecurePhaseClosed& record) {
  Attempt* attempt = AttemptOf(record.key());
  if (attempt == nullptr) return;
  attempt->phases.push_back(record);
  for (const auto& client : record.clients()) {
    attempt->bytes_up += client.bytes();
  }
  for (const std::string& client : record.dropped()) {
    OnOut(record.key(), client, "lost",
          absl::StrCat("no answer in phase ", record.phase()));
  }
  // Whoever is in the sum has taken part, also if it dropped out afterwards.
  if (record.phase() != "masked_input") return;
  for (const auto& client : record.clients()) {
    PartOf(record.key(), client.client())->outcome = "masked";
  }
}

void Historian::OnRoundCommitted(const v1::RoundCommitted& record) {
  Attempt* attempt =
      OpenAttempt(record.job(), record.round(), record.attempt());
  if (attempt == nullptr) return;
  attempt->state = "committed";
  attempt->survivors = {record.survivors().begin(), record.survivors().end()};
  attempt->bytes_up = record.bytes_up();
  attempt->bytes_down = record.bytes_down();
  attempt->mean_train_loss = record.mean_train_loss();
  attempt->committed = record;
  if (!record.has_secure_session()) return;
  for (Part& part : attempt->parts) {
    if (std::binary_search(record.survivors().begin(), record.survivors().end(),
                           part.client)) {
      part.outcome = "accepted";
      part.reason.clear();
    }
  }
}

void Historian::OnRoundLost(const v1::RoundLost& record) {
  Attempt* attempt =
      OpenAttempt(record.job(), record.round(), record.attempt());
  if (attempt == nullptr) return;
  attempt->state = "lost";
  attempt->reason = record.reason();
}

void Historian::OnEvaluation(const v1::JournalRecord& record) {
  if (record.has_evaluation_started()) {
    const v1::EvaluationStarted& started = record.evaluation_started();
    Evaluation evaluation;
    evaluation.version = started.version();
    evaluation.attempt = started.attempt();
    evaluation.asked = static_cast<uint32_t>(started.cohort_size());
    JobOf(started.job()).evaluations.push_back(evaluation);
    return;
  }
  if (record.has_evaluation_accepted()) {
    const v1::EvaluationAccepted& accepted = record.evaluation_accepted();
    JobHistory& job = JobOf(accepted.key().job());
    if (job.evaluations.empty()) return;
    Evaluation& evaluation = job.evaluations.back();
    evaluation.bytes_down += accepted.report().bytes_downloaded();
    if (accepted.report().has_correct()) {
      evaluation.correct =
          evaluation.correct.value_or(0) + accepted.report().correct();
    }
    return;
  }
  if (!record.has_evaluation_finished()) return;
  const v1::EvaluationFinished& finished = record.evaluation_finished();
  JobHistory& job = JobOf(finished.job());
  if (job.evaluations.empty()) return;
  Evaluation& evaluation = job.evaluations.back();
  evaluation.finished = true;
  evaluation.clients = finished.clients();
  evaluation.loss_sum = finished.loss_sum();
  evaluation.tokens = finished.tokens();
  if (finished.tokens() > 0) {
    job.heldout_loss[finished.version()] =
        finished.loss_sum() / static_cast<double>(finished.tokens());
    if (evaluation.correct.has_value()) {
      job.heldout_accuracy[finished.version()] = evaluation.accuracy();
    }
  }
}

void Historian::OnJobFinished(const v1::JobFinished& record) {
  JobHistory& job = JobOf(record.job());
  job.reason = record.reason();
  switch (record.state()) {
    case v1::JobFinished::DONE:
      job.state = "done";
      break;
    case v1::JobFinished::STOPPED:
      job.state = "stopped";
      break;
    default:
      job.state = "failed";
      break;
  }
}

void Historian::Next(const store::JournalEntry& entry) {
  ++history_.events;
  touched_ = nullptr;
  const v1::JournalRecord& record = entry.record;
  ++history_.records_by_kind[store::ColumnsOf(record).kind];
  using R = v1::JournalRecord;
  switch (record.record_case()) {
    case R::kJobSubmitted:
      JobOf(record.job_submitted().config().name()).submitted =
          record.job_submitted();
      break;
    case R::kJobStarted: {
      JobHistory& job = JobOf(record.job_started().job());
      job.started = record.job_started();
      job.state = "running";
      break;
    }
    case R::kJobFinished:
      OnJobFinished(record.job_finished());
      break;
    case R::kRoundStarted:
      OnRoundStarted(record.round_started(), entry.time);
      break;
    case R::kUpdateAccepted:
      OnUpdateAccepted(record.update_accepted());
      break;
    case R::kUpdateRefused:
      OnOut(record.update_refused().key(), record.update_refused().client(),
            "refused", record.update_refused().reason());
      break;
    case R::kClientLost:
      OnOut(record.client_lost().key(), record.client_lost().client(), "lost",
            record.client_lost().reason());
      break;
    case R::kRoundCommitted:
      OnRoundCommitted(record.round_committed());
      break;
    case R::kSecurePhaseClosed:
      OnSecurePhase(record.secure_phase_closed());
      break;
    case R::kClientBlamed:
      if (Attempt* attempt = AttemptOf(record.client_blamed().key())) {
        attempt->blamed.push_back(record.client_blamed());
      }
      break;
    case R::kRoundLost:
      OnRoundLost(record.round_lost());
      break;
    case R::kPeerRefused:
      history_.refusals.push_back(
          {entry.sequence, entry.time, record.peer_refused()});
      break;
    default:
      OnEvaluation(record);
      break;
  }
  if (touched_ != nullptr) touched_->ended = entry.time;
}

}  // namespace

double Evaluation::accuracy() const {
  return tokens == 0 ? std::nan("")
                     : static_cast<double>(correct.value_or(0)) /
                           static_cast<double>(tokens);
}

absl::optional<double> Attempt::flops_saved() const {
  double dense = 0.0;
  double done = 0.0;
  for (const Part& part : parts) {
    if (part.outcome != "accepted" || !part.train.has_value()) continue;
    dense += part.train->dense_flops();
    done += part.train->done_flops();
  }
  if (!(dense > 0.0)) return absl::nullopt;
  return 1.0 - done / dense;
}

double Attempt::seconds() const {
  // A wall clock that was set back must not give a negative time.
  return std::max(0.0, absl::ToDoubleSeconds(ended - started));
}

int Attempt::CountParts(absl::string_view outcome) const {
  int count = 0;
  for (const Part& part : parts) count += outcome == part.outcome ? 1 : 0;
  return count;
}

uint64_t JobHistory::BytesDown(const Attempt& attempt) const {
  uint64_t bytes = attempt.bytes_down;
  for (const Evaluation& evaluation : evaluations) {
    if (evaluation.version == attempt.round ||
        (evaluation.version == 0 && attempt.round == 1)) {
      bytes += evaluation.bytes_down;
    }
  }
  return bytes;
}

std::vector<const Attempt*> JobHistory::rounds() const {
  std::vector<const Attempt*> last;
  for (const Attempt& attempt : attempts) {
    if (!last.empty() && last.back()->round == attempt.round) {
      last.back() = &attempt;
    } else {
      last.push_back(&attempt);
    }
  }
  return last;
}

absl::StatusOr<std::vector<const JobHistory*>> History::Select(
    const std::string& job) const {
  std::vector<const JobHistory*> selected;
  for (const JobHistory& one : jobs) {
    if (job.empty() || one.name == job) selected.push_back(&one);
  }
  if (!job.empty() && selected.empty()) {
    return absl::NotFoundError(
        absl::StrCat("the store knows no job '", job,
                     "'; 'choir-audit show STORE' lists those it knows"));
  }
  return selected;
}

absl::StatusOr<History> ReadHistory(const std::string& root) {
  CHOIR_ASSIGN_OR_RETURN(const auto reader, store::JournalReader::Open(root));
  History history;
  Historian historian(history);
  CHOIR_RETURN_IF_ERROR(
      reader->ForEachRow([&](const store::JournalRow& row) -> absl::Status {
        CHOIR_ASSIGN_OR_RETURN(const store::JournalEntry entry,
                               store::DecodeEntry(row));
        historian.Next(entry);
        return absl::OkStatus();
      }));
  return history;
}

}  // namespace choir::audit
