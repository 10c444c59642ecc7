#include "coordinator/rpc/job_table.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "proto/config/toml_config.h"

namespace choir::rpc {

bool IsFinalState(absl::string_view state) {
  return state == "done" || state == "failed" || state == "stopped";
}

absl::StatusOr<JobTable::Entry*> JobTable::Find(absl::string_view job) {
  auto found = jobs_.find(std::string(job));
  if (found == jobs_.end()) {
    return absl::DataLossError(absl::StrCat("the journal speaks of job \"", job,
                                            "\", which was never submitted"));
  }
  return &found->second;
}

absl::Status JobTable::ApplySubmitted(const v1::JobSubmitted& record) {
  const std::string& name = record.config().name();
  if (jobs_.find(name) != jobs_.end()) {
    return absl::DataLossError(
        absl::StrCat("job \"", name, "\" was submitted twice"));
  }
  Entry& entry = jobs_[name];
  entry.config = record.config();
  entry.status.set_job(name);
  entry.status.set_state("queued");
  entry.status.set_rounds_total(record.config().rounds().count());
  entry.status.set_heldout_loss_before(
      std::numeric_limits<double>::quiet_NaN());
  entry.status.set_heldout_loss(std::numeric_limits<double>::quiet_NaN());
  entry.status.set_heldout_accuracy(std::numeric_limits<double>::quiet_NaN());
  order_.push_back(name);
  return absl::OkStatus();
}

absl::Status JobTable::ApplyStarted(const v1::JobStarted& record) {
  CHOIR_ASSIGN_OR_RETURN(Entry * entry, Find(record.job()));
  entry->started = record;
  entry->status.set_state("running");
  entry->status.set_adapter_digest(record.adapter().digest());
  entry->adapters.assign(1, record.adapter());
  for (const v1::ModelFile& file : record.base_model()) {
    model_blobs_.insert(file.blob().digest());
  }
  model_blobs_.insert(record.adapter().digest());
  model_blobs_.insert(record.adapter_config().digest());
  return absl::OkStatus();
}

absl::Status JobTable::ApplyCommitted(const v1::RoundCommitted& record) {
  CHOIR_ASSIGN_OR_RETURN(Entry * entry, Find(record.job()));
  if (record.round() != entry->adapters.size()) {
    return absl::DataLossError(absl::StrCat(
        "round ", record.round(), " of job \"", record.job(),
        "\" was committed after version ", entry->adapters.size(), " - 1"));
  }
  entry->adapters.push_back(record.adapter());
  model_blobs_.insert(record.adapter().digest());
  v1::JobStatus& status = entry->status;
  status.set_rounds_committed(record.round());
  status.set_adapter_digest(record.adapter().digest());
  return absl::OkStatus();
}

absl::Status JobTable::ApplyEvaluated(const v1::EvaluationFinished& record) {
  CHOIR_ASSIGN_OR_RETURN(Entry * entry, Find(record.job()));
  if (record.tokens() == 0) return absl::OkStatus();
  const double loss = record.loss_sum() / static_cast<double>(record.tokens());
  if (record.version() == 0) entry->status.set_heldout_loss_before(loss);
  entry->status.set_heldout_loss(loss);
  if (entry->correct.has_value()) {
    entry->status.set_heldout_accuracy(static_cast<double>(*entry->correct) /
                                       static_cast<double>(record.tokens()));
  }
  return absl::OkStatus();
}

absl::Status JobTable::CountBytes(const std::string& job, uint64_t up,
                                  uint64_t down) {
  CHOIR_ASSIGN_OR_RETURN(Entry * entry, Find(job));
  v1::JobStatus& status = entry->status;
  // The numbers are claims of clients: they must not wrap around.
  const auto add = [](uint64_t a, uint64_t b) {
    return a + b < a ? std::numeric_limits<uint64_t>::max() : a + b;
  };
  status.set_bytes_up(add(status.bytes_up(), up));
  status.set_bytes_down(add(status.bytes_down(), down));
  return absl::OkStatus();
}

absl::Status JobTable::ApplyFinished(const v1::JobFinished& record) {
  CHOIR_ASSIGN_OR_RETURN(Entry * entry, Find(record.job()));
  switch (record.state()) {
    case v1::JobFinished::DONE:
      entry->status.set_state("done");
      break;
    case v1::JobFinished::STOPPED:
      entry->status.set_state("stopped");
      break;
    default:
      entry->status.set_state("failed");
      break;
  }
  entry->status.set_reason(record.reason());
  return absl::OkStatus();
}

absl::Status JobTable::Apply(const v1::JournalRecord& record) {
  base::MutexLock lock(&mu_);
  switch (record.record_case()) {
    case v1::JournalRecord::kJobSubmitted:
      return ApplySubmitted(record.job_submitted());
    case v1::JournalRecord::kJobStarted:
      return ApplyStarted(record.job_started());
    case v1::JournalRecord::kJobFinished:
      return ApplyFinished(record.job_finished());
    case v1::JournalRecord::kRoundCommitted:
      CHOIR_RETURN_IF_ERROR(ApplyCommitted(record.round_committed()));
      // Else each update was counted when it was accepted.
      return record.round_committed().has_secure_session()
                 ? CountBytes(record.round_committed().job(), 0,
                              record.round_committed().bytes_down())
                 : absl::OkStatus();
    case v1::JournalRecord::kUpdateAccepted: {
      const v1::UpdateAccepted& update = record.update_accepted();
      return CountBytes(update.key().job(), update.report().update().size(),
                        update.report().bytes_downloaded());
    }
    case v1::JournalRecord::kSecurePhaseClosed: {
      const v1::SecurePhaseClosed& closed = record.secure_phase_closed();
      uint64_t up = 0;
      for (const auto& client : closed.clients()) up += client.bytes();
      return CountBytes(closed.key().job(), up, 0);
    }
    case v1::JournalRecord::kEvaluationAccepted: {
      const v1::EvaluationAccepted& done = record.evaluation_accepted();
      if (done.report().has_correct()) {
        CHOIR_ASSIGN_OR_RETURN(Entry * entry, Find(done.key().job()));
        entry->correct = entry->correct.value_or(0) + done.report().correct();
      }
      return CountBytes(done.key().job(), 0, done.report().bytes_downloaded());
    }
    case v1::JournalRecord::kEvaluationStarted: {
      CHOIR_ASSIGN_OR_RETURN(Entry * entry,
                             Find(record.evaluation_started().job()));
      entry->correct.reset();
      return absl::OkStatus();
    }
    case v1::JournalRecord::kEvaluationFinished:
      return ApplyEvaluated(record.evaluation_finished());
    case v1::JournalRecord::kRoundLost: {
      CHOIR_ASSIGN_OR_RETURN(Entry * entry, Find(record.round_lost().job()));
      entry->status.set_rounds_lost(entry->status.rounds_lost() + 1);
      return absl::OkStatus();
    }
    default:
      return absl::OkStatus();
  }
}

bool JobTable::Contains(absl::string_view job) const {
  base::MutexLock lock(&mu_);
  return jobs_.find(std::string(job)) != jobs_.end();
}

absl::optional<v1::JobConfig> JobTable::Next() const {
  base::MutexLock lock(&mu_);
  for (const std::string& name : order_) {
    const Entry& entry = jobs_.at(name);
    if (!IsFinalState(entry.status.state())) return entry.config;
  }
  return absl::nullopt;
}

uint32_t JobTable::Ahead(absl::string_view job) const {
  base::MutexLock lock(&mu_);
  uint32_t ahead = 0;
  for (const std::string& name : order_) {
    if (name == job) break;
    if (!IsFinalState(jobs_.at(name).status.state())) ++ahead;
  }
  return ahead;
}

bool JobTable::Finished(absl::string_view job) const {
  base::MutexLock lock(&mu_);
  auto found = jobs_.find(std::string(job));
  return found != jobs_.end() && IsFinalState(found->second.status.state());
}

absl::StatusOr<v1::JobStatus> JobTable::Status(absl::string_view job) const {
  base::MutexLock lock(&mu_);
  auto found = jobs_.find(std::string(job));
  if (found == jobs_.end()) {
    return absl::NotFoundError(absl::StrCat(
        "no job \"", job, "\"; there ",
        order_.empty() ? "are none"
                       : absl::StrCat("is: ", absl::StrJoin(order_, ", "))));
  }
  v1::JobStatus status = found->second.status;
  status.set_config(config::ToToml(found->second.config));
  return status;
}

std::vector<v1::JobStatus> JobTable::All() const {
  base::MutexLock lock(&mu_);
  std::vector<v1::JobStatus> out;
  out.reserve(order_.size());
  for (const std::string& name : order_) out.push_back(jobs_.at(name).status);
  return out;
}

absl::StatusOr<v1::GetModelResponse> JobTable::Model(absl::string_view job,
                                                     int32_t version) const {
  base::MutexLock lock(&mu_);
  auto found = jobs_.find(std::string(job));
  if (found == jobs_.end()) {
    return absl::NotFoundError(absl::StrCat("no job \"", job, "\""));
  }
  const Entry& entry = found->second;
  if (entry.adapters.empty()) {
    return absl::FailedPreconditionError(absl::StrCat("job \"", job, "\" is ",
                                                      entry.status.state(),
                                                      " and has no model yet"));
  }
  const int32_t latest = static_cast<int32_t>(entry.adapters.size()) - 1;
  if (version < -1 || version > latest) {
    return absl::NotFoundError(absl::StrCat(
        "job \"", job, "\" has versions 0 to ", latest, ", not ", version));
  }
  const int32_t chosen = version == -1 ? latest : version;
  v1::GetModelResponse model;
  model.set_job(std::string(job));
  model.set_version(static_cast<uint32_t>(chosen));
  v1::ModelFile* weights = model.add_files();
  weights->set_name("adapter_model.safetensors");
  *weights->mutable_blob() = entry.adapters[static_cast<size_t>(chosen)];
  v1::ModelFile* settings = model.add_files();
  settings->set_name("adapter_config.json");
  *settings->mutable_blob() = entry.started.adapter_config();
  return model;
}

bool JobTable::IsModelBlob(absl::string_view digest) const {
  base::MutexLock lock(&mu_);
  return model_blobs_.contains(digest);
}

}  // namespace choir::rpc
