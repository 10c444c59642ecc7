#include "coordinator/audit/grammar.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/saturating_add.h"

namespace choir::audit {
void Grammar::Wrong(absl::string_view what) {
  findings_->push_back({event_, absl::StrCat("event ", event_),
                        absl::StrCat("event ", event_, ": ", what)});
}

void Grammar::Use(const v1::BlobRef& blob, absl::string_view what,
                  bool may_be_absent) {
  if (blob.digest().empty()) {
    Wrong(absl::StrCat("it names no blob as ", what));
    return;
  }
  uses_.push_back(
      {event_, blob.digest(), blob.size(), std::string(what), may_be_absent});
}

void Grammar::Next(const store::JournalEntry& entry,
                   std::vector<Finding>& findings) {
  event_ = entry.sequence;
  findings_ = &findings;
  const v1::JournalRecord& record = entry.record;
  using R = v1::JournalRecord;
  switch (record.record_case()) {
    case R::kStoreCreated:
      if (event_ != 1) Wrong("a store is created once, by its first event");
      break;
    case R::kTokenCreated:
      On(record.token_created());
      break;
    case R::kClientEnrolled:
      On(record.client_enrolled());
      break;
    case R::kJobSubmitted:
      On(record.job_submitted());
      break;
    case R::kJobStarted:
      On(record.job_started());
      break;
    case R::kJobFinished:
      On(record.job_finished());
      break;
    case R::kRoundStarted:
      On(record.round_started());
      break;
    case R::kUpdateAccepted:
      On(record.update_accepted());
      break;
    case R::kUpdateRefused:
      On(record.update_refused());
      break;
    case R::kClientLost:
      On(record.client_lost());
      break;
    case R::kRoundCommitted:
      On(record.round_committed());
      break;
    case R::kRoundLost:
      On(record.round_lost());
      break;
    case R::kSecurePhaseClosed:
      On(record.secure_phase_closed());
      break;
    case R::kClientBlamed:
      On(record.client_blamed());
      break;
    case R::kEvaluationStarted:
      On(record.evaluation_started());
      break;
    case R::kEvaluationAccepted:
      On(record.evaluation_accepted());
      break;
    case R::kEvaluationFinished:
      On(record.evaluation_finished());
      break;
    default:
      break;  // facts about peers, which nothing else follows from
  }
}

void Grammar::On(const v1::TokenCreated& record) {
  if (!tokens_.emplace(record.token_sha256(), "").second) {
    Wrong("this token was created before");
  }
}

void Grammar::On(const v1::ClientEnrolled& record) {
  if (record.token_sha256().empty()) return;
  std::string& spent_by = tokens_[record.token_sha256()];
  if (!spent_by.empty() && spent_by != record.name()) {
    Wrong(absl::StrCat("client '", record.name(),
                       "' enrolled with the token "
                       "that '",
                       spent_by, "' had spent"));
  }
  spent_by = record.name();
}

void Grammar::On(const v1::JobSubmitted& record) {
  Job& job = jobs_[record.config().name()];
  if (job.options.has_value() || job.started) {
    Wrong(absl::StrCat("job '", record.config().name(),
                       "' was submitted before"));
    return;
  }
  auto options = config::ResolveJob(record.config());
  if (!options.ok()) {
    Wrong(absl::StrCat("the job's configuration is not valid: ",
                       options.status().message()));
    return;
  }
  job.options = *std::move(options);
}

void Grammar::On(const v1::JobStarted& record) {
  Job& job = jobs_[record.job()];
  if (job.started || job.finished) {
    Wrong(absl::StrCat("job '", record.job(), "' was started before"));
    return;
  }
  if (!job.options.has_value()) {
    Wrong(absl::StrCat("job '", record.job(), "' was never submitted"));
  }
  job.started = true;
  job.adapter = record.adapter();
  for (const v1::ModelFile& file : record.base_model()) {
    Use(file.blob(), absl::StrCat("base model file ", file.name()));
  }
  Use(record.adapter(), "adapter of version 0");
  Use(record.adapter_config(), "adapter configuration");
}

Grammar::Job* Grammar::RunningJob(const std::string& name) {
  const auto it = jobs_.find(name);
  if (it == jobs_.end() || !it->second.started) {
    Wrong(absl::StrCat("job '", name, "' was never started"));
    return nullptr;
  }
  if (it->second.finished) {
    Wrong(absl::StrCat("job '", name, "' is finished"));
    return nullptr;
  }
  return &it->second;
}

void Grammar::On(const v1::JobFinished& record) {
  const auto it = jobs_.find(record.job());
  if (it == jobs_.end()) {
    Wrong(absl::StrCat("job '", record.job(), "' was never submitted"));
    return;
  }
  Job& job = it->second;
  if (job.finished) {
    Wrong(absl::StrCat("job '", record.job(), "' finished before"));
  }
  if (record.state() == v1::JobFinished::DONE && job.options.has_value() &&
      static_cast<int64_t>(job.version) != job.options->rounds.count) {
    Wrong(absl::StrCat("the job is said to be done after ", job.version,
                       " rounds of ", job.options->rounds.count));
  }
  // Keeps what is needed to recognise later records as wrong, and no more.
  job.finished = true;
  job.blame.reset();
  job.accepted.clear();
  job.cohort.clear();
  job.evaluations.clear();
}

bool Grammar::CheckCohort(
    const google::protobuf::RepeatedPtrField<std::string>& names,
    absl::string_view what) {
  for (int i = 1; i < names.size(); ++i) {
    if (names[i - 1] < names[i]) continue;
    Wrong(
        absl::StrCat(what, " is not sorted, or names '", names[i], "' twice"));
    return false;
  }
  return true;
}

void Grammar::On(const v1::EvaluationStarted& record) {
  Job* job = RunningJob(record.job());
  if (job == nullptr) return;
  if (record.version() != job->version) {
    Wrong(absl::StrCat("version ", record.version(), " is evaluated while ",
                       job->version, " is the current one"));
  }
  CheckCohort(record.cohort(), "the evaluation's cohort");
  job->evaluating = true;
  job->evaluated_version = record.version();
  job->evaluation_attempt = record.attempt();
  job->evaluation_cohort = {record.cohort().begin(), record.cohort().end()};
  job->evaluations.clear();
}

void Grammar::On(const v1::EvaluationAccepted& record) {
  Job* job = RunningJob(record.key().job());
  if (job == nullptr) return;
  const v1::TaskKey& key = record.key();
  if (!job->evaluating || key.kind() != v1::TASK_KIND_EVALUATE ||
      key.round() != job->evaluated_version ||
      key.attempt() != job->evaluation_attempt) {
    Wrong(absl::StrCat("an evaluation of version ", key.round(),
                       " was accepted, which is not in progress"));
    return;
  }
  if (job->evaluation_cohort.count(record.client()) == 0) {
    Wrong(absl::StrCat("an evaluation of '", record.client(),
                       "' was accepted, who was not asked"));
  }
  if (!job->evaluations.emplace(record.client(), record.report()).second) {
    Wrong(absl::StrCat("a second evaluation of '", record.client(),
                       "' was accepted"));
  }
}

void Grammar::On(const v1::EvaluationFinished& record) {
  Job* job = RunningJob(record.job());
  if (job == nullptr) return;
  if (!job->evaluating || record.version() != job->evaluated_version ||
      record.attempt() != job->evaluation_attempt) {
    Wrong(absl::StrCat("the evaluation of version ", record.version(),
                       " finished but was not in progress"));
    return;
  }
  // In order of names, so that the sum is the same to the last bit.
  double loss_sum = 0.0;
  uint64_t tokens = 0;
  for (const auto& [client, report] : job->evaluations) {
    loss_sum += report.loss_sum();
    tokens = base::SaturatingAdd(tokens, report.tokens());
  }
  if (record.clients() != job->evaluations.size() ||
      record.tokens() != tokens || record.loss_sum() != loss_sum) {
    Wrong(absl::StrCat("the evaluation's totals (", record.clients(),
                       " clients, ", record.tokens(),
                       " tokens, loss) are not the sums over the ",
                       job->evaluations.size(), " accepted reports"));
  }
  job->evaluating = false;
  job->evaluations.clear();
}

}  // namespace choir::audit
