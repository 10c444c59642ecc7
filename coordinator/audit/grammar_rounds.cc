// The part of the grammar that is about rounds of training.
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/saturating_add.h"
#include "coordinator/audit/grammar.h"

namespace choir::audit {
namespace {

std::string RoundName(uint32_t round, uint32_t attempt) {
  return absl::StrCat("round ", round, ", attempt ", attempt);
}

}  // namespace

void Grammar::On(const v1::RoundStarted& record) {
  Job* job = RunningJob(record.job());
  if (job == nullptr) return;
  const uint32_t attempt = job->attempt + 1;
  if (job->round_open) {
    Wrong(absl::StrCat(RoundName(job->version + 1, job->attempt),
                       " is still in progress"));
  } else if (record.round() != job->version + 1 ||
             record.attempt() != attempt) {
    Wrong(absl::StrCat(RoundName(record.round(), record.attempt()),
                       " was started; ", RoundName(job->version + 1, attempt),
                       " would have been next"));
  }
  CheckCohort(record.cohort(), "the cohort");
  if (static_cast<uint64_t>(record.cohort_size()) > record.available()) {
    Wrong(absl::StrCat("a cohort of ", record.cohort_size(), " was drawn from ",
                       record.available(), " clients"));
  }
  job->round_open = true;
  job->attempt = record.attempt();
  job->cohort = {record.cohort().begin(), record.cohort().end()};
  job->lost.clear();
  job->accepted.clear();
  job->blame.reset();
  BeginSecure(*job, record);
}

void Grammar::On(const v1::UpdateAccepted& record) {
  Job* job = RunningJob(record.key().job());
  if (job == nullptr) return;
  const v1::TaskKey& key = record.key();
  if (!job->round_open || key.kind() != v1::TASK_KIND_TRAIN ||
      key.round() != job->version + 1 || key.attempt() != job->attempt) {
    Wrong(absl::StrCat("an update was accepted for ",
                       RoundName(key.round(), key.attempt()),
                       ", which is not in progress"));
    return;
  }
  const std::string& client = record.client();
  if (job->secure.has_value()) {
    Wrong(absl::StrCat("an update of '", client,
                       "' was accepted in the open in a secure round"));
  }
  if (job->cohort.count(client) == 0) {
    Wrong(absl::StrCat("an update of '", client,
                       "' was accepted, who is not in the cohort"));
  } else if (job->lost.count(client) > 0) {
    Wrong(absl::StrCat("an update of '", client,
                       "' was accepted after the client was given up"));
  }
  if (!job->accepted.emplace(client, Accepted{record.report(), record.weight()})
           .second) {
    Wrong(absl::StrCat("a second update of '", client,
                       "' was accepted in this round"));
  }
  const uint64_t examples = record.report().num_examples();
  if (job->options.has_value()) {
    const config::AggregationOptions& options = job->options->aggregation;
    const uint64_t weight =
        options.weighting == config::Weighting::kExamples ? examples : 1;
    if (record.weight() != weight) {
      Wrong(absl::StrCat("the update of '", client, "' has weight ",
                         record.weight(), "; the job's weighting gives ",
                         weight));
    }
    if (examples < 1 || examples > options.max_examples_per_client) {
      Wrong(absl::StrCat("'", client, "' claims ", examples, " examples; 1 to ",
                         options.max_examples_per_client, " are allowed"));
    }
  }
  Use(record.report().update(),
      absl::StrCat("update of '", client, "' in round ", key.round()), true);
}

void Grammar::On(const v1::UpdateRefused& record) {
  // Strangers are refused too, for any task that they name; so only an update
  // that was accepted before cannot be refused.
  const auto it = jobs_.find(record.key().job());
  if (it == jobs_.end()) return;
  Job& job = it->second;
  CheckAccused(job, record.key(), record.client(), record.accused());
  const bool current = job.round_open &&
                       record.key().kind() == v1::TASK_KIND_TRAIN &&
                       record.key().round() == job.version + 1 &&
                       record.key().attempt() == job.attempt;
  if (!current) return;
  if (job.accepted.count(record.client()) > 0) {
    Wrong(absl::StrCat("the update of '", record.client(),
                       "' was refused after it was accepted"));
  }
  job.lost.insert(record.client());
  if (job.secure.has_value()) job.secure->inside.erase(record.client());
}

void Grammar::On(const v1::ClientLost& record) {
  Job* job = RunningJob(record.key().job());
  if (job == nullptr) return;
  const v1::TaskKey& key = record.key();
  CheckAccused(*job, key, record.client(), record.accused());
  if (key.kind() == v1::TASK_KIND_EVALUATE) {
    if (!job->evaluating || key.round() != job->evaluated_version ||
        job->evaluation_cohort.count(record.client()) == 0) {
      Wrong(absl::StrCat("'", record.client(),
                         "' was lost from an evaluation "
                         "that it had no part in"));
    }
    return;
  }
  if (!job->round_open || key.round() != job->version + 1 ||
      key.attempt() != job->attempt ||
      job->cohort.count(record.client()) == 0 ||
      job->accepted.count(record.client()) > 0) {
    Wrong(absl::StrCat("'", record.client(), "' was lost from ",
                       RoundName(key.round(), key.attempt()),
                       ", where nothing was awaited from it"));
    return;
  }
  job->lost.insert(record.client());
  if (job->secure.has_value() &&
      job->secure->inside.erase(record.client()) == 0) {
    Wrong(absl::StrCat("'", record.client(), "' was lost from phase ",
                       job->secure->phase, ", which it was not in"));
  }
}

void Grammar::CheckSurvivors(const Job& job, const v1::RoundCommitted& record,
                             Step& step) {
  if (record.survivors().empty()) Wrong("a round was committed with no update");
  CheckCohort(record.survivors(), "the list of survivors");
  uint64_t total = 0;
  uint64_t bytes_up = 0;
  uint64_t bytes_down = 0;
  for (const std::string& client : record.survivors()) {
    if (job.cohort.count(client) == 0) {
      Wrong(absl::StrCat("survivor '", client, "' is not in the cohort"));
    }
    const auto it = job.accepted.find(client);
    if (it == job.accepted.end()) {
      Wrong(absl::StrCat("no update of survivor '", client,
                         "' was accepted in this attempt"));
      continue;
    }
    const Accepted& accepted = it->second;
    total = base::SaturatingAdd(total, accepted.weight);
    bytes_up = base::SaturatingAdd(bytes_up, accepted.report.update().size());
    bytes_down =
        base::SaturatingAdd(bytes_down, accepted.report.bytes_downloaded());
    step.updates.push_back({client, accepted.report.update(), accepted.weight});
  }
  const std::set<std::string> survivors(record.survivors().begin(),
                                        record.survivors().end());
  for (const auto& [client, accepted] : job.accepted) {
    if (survivors.count(client) == 0) {
      Wrong(absl::StrCat("the accepted update of '", client,
                         "' is not in the sum"));
    }
  }
  if (total != record.total_weight()) {
    Wrong(absl::StrCat("the total weight is given as ", record.total_weight(),
                       "; the survivors' weights add up to ", total));
  }
  if (bytes_up != record.bytes_up() || bytes_down != record.bytes_down()) {
    Wrong(absl::StrCat("bytes moved are given as ", record.bytes_up(), " up, ",
                       record.bytes_down(), " down; the reports add up to ",
                       bytes_up, " and ", bytes_down));
  }
  if (job.options.has_value() &&
      record.survivors_size() < job.options->rounds.min_survivors) {
    Wrong(absl::StrCat("the round was committed with ", record.survivors_size(),
                       " updates; at least ", job.options->rounds.min_survivors,
                       " are required"));
  }
}

void Grammar::CheckVersions(const Job& job, const v1::RoundCommitted& record) {
  if (record.adapter_before().digest() != job.adapter.digest()) {
    Wrong(absl::StrCat("the round begins from adapter ",
                       record.adapter_before().digest(), "; version ",
                       job.version, " is ", job.adapter.digest()));
  }
  if (record.server_state_before().digest() != job.server_state.digest()) {
    Wrong(absl::StrCat("the server's optimiser begins from ",
                       record.server_state_before().digest(),
                       "; the round before left ", job.server_state.digest()));
  }
}

void Grammar::On(const v1::RoundCommitted& record) {
  Job* job = RunningJob(record.job());
  if (job == nullptr) return;
  if (record.round() <= job->version) {
    Wrong(absl::StrCat("round ", record.round(), " was committed before"));
    return;
  }
  if (!job->round_open || record.round() != job->version + 1 ||
      record.attempt() != job->attempt) {
    Wrong(absl::StrCat(RoundName(record.round(), record.attempt()),
                       " was committed but was not in progress"));
    return;
  }
  Step step;
  if (job->secure.has_value()) {
    CheckSecureSurvivors(*job, record, step);
  } else {
    CheckSurvivors(*job, record, step);
  }
  CheckVersions(*job, record);
  const std::string of = absl::StrCat(" of round ", record.round());
  Use(record.aggregate(), absl::StrCat("aggregate", of));
  Use(record.adapter(), absl::StrCat("adapter", of));
  if (!record.server_state().digest().empty()) {
    Use(record.server_state(), absl::StrCat("server state", of));
  }
  for (const v1::BlobRef& group : record.group_aggregates()) {
    Use(group, absl::StrCat("aggregate of a group", of));
  }
  if (job->options.has_value()) {
    step.event = event_;
    step.committed = record;
    step.options = job->options->aggregation;
    steps_.push_back(std::move(step));
  }
  job->version = record.round();
  job->adapter = record.adapter();
  job->server_state = record.server_state();
  job->round_open = false;
  job->attempt = 0;
  job->blame.reset();
  job->accepted.clear();
  job->secure.reset();
  ++rounds_committed_;
}

void Grammar::On(const v1::RoundLost& record) {
  Job* job = RunningJob(record.job());
  if (job == nullptr) return;
  if (!job->round_open || record.round() != job->version + 1 ||
      record.attempt() != job->attempt) {
    Wrong(absl::StrCat(RoundName(record.round(), record.attempt()),
                       " was lost but was not in progress"));
    return;
  }
  job->round_open = false;
  job->accepted.clear();
  job->secure.reset();
}

}  // namespace choir::audit
