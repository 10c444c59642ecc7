#include "coordinator/engine/engine.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/saturating_add.h"
#include "base/sim_random.h"
#include "coordinator/engine/engine_impl.h"
#include "coordinator/selection/selection.h"

namespace choir::engine {
namespace {

// At most so many steps without an event; more would be an endless loop.
constexpr int64_t kMaxSteps = 1000000;

v1::JournalRecord RoundLostRecord(const v1::TaskKey& key,
                                  const std::string& reason) {
  v1::JournalRecord record;
  v1::RoundLost& lost = *record.mutable_round_lost();
  lost.set_job(key.job());
  lost.set_round(key.round());
  lost.set_attempt(key.attempt());
  lost.set_reason(reason);
  return record;
}

}  // namespace

Outcome Engine::Impl::Resume(absl::Time now) {
  now_ = now;
  Outcome outcome;
  if (std::holds_alternative<WaitingForClients>(state_.phase())) {
    returning_ = state_.last_reporters();
  }
  if (const auto* finished = std::get_if<Finished>(&state_.phase())) {
    outcome.actions.push_back(FinishJob{finished->result});
    return outcome;
  }
  if (const auto* secure = std::get_if<SecureSum>(&state_.phase())) {
    returning_.insert(secure->round.cohort.pending.begin(),
                      secure->round.cohort.pending.end());
    LoseRound(
        absl::StrCat("the coordinator was restarted in phase ", secure->phase,
                     " of secure aggregation, whose keys and shares are "
                     "never written"),
        outcome);
  }
  Advance(outcome);
  return outcome;
}

Outcome Engine::Impl::Handle(const Event& event, absl::Time now) {
  now_ = std::max(now_, now);
  Outcome outcome;
  std::visit([&](const auto& e) { On(e, outcome); }, event);
  Advance(outcome);
  return outcome;
}

void Engine::Impl::Record(v1::JournalRecord record, Outcome& outcome) {
  const absl::Status applied = state_.Apply(record);
  if (!applied.ok()) {
    std::fprintf(stderr, "%s\n", std::string(applied.message()).c_str());
  }
  CHOIR_CHECK(applied.ok());
  outcome.records.push_back(std::move(record));
}

void Engine::Impl::Advance(Outcome& outcome) {
  BlameAccused(outcome);
  for (int64_t steps = 0; Step(outcome); ++steps) {
    CHOIR_CHECK(steps < kMaxSteps);
    BlameAccused(outcome);
  }
  UpdateTimer(outcome);
}

bool Engine::Impl::Step(Outcome& outcome) {
  const Phase& phase = state_.phase();
  if (std::holds_alternative<Finished>(phase)) return false;
  if (entered_serial_ != state_.phase_serial()) {
    entered_serial_ = state_.phase_serial();
    entered_ = now_;
    strangers_.clear();
    answered_.clear();
    closing_ = false;
    if (const auto* training = std::get_if<Training>(&phase)) {
      leaving_.clear();
      downloaded_.clear();
      SendTasks(training->cohort, outcome);
    } else if (const auto* secure = std::get_if<SecureSum>(&phase)) {
      EnterSecure(*secure, outcome);
      return true;
    } else if (const auto* evaluating = std::get_if<Evaluating>(&phase)) {
      SendTasks(evaluating->cohort, outcome);
    } else if (const auto* aggregating = std::get_if<Aggregating>(&phase)) {
      StepAggregating(*aggregating, outcome);
    }
  }
  if (const auto* waiting = std::get_if<WaitingForClients>(&phase)) {
    return StepWaiting(*waiting, outcome);
  }
  if (const auto* training = std::get_if<Training>(&phase)) {
    return StepTraining(*training, outcome);
  }
  if (const auto* secure = std::get_if<SecureSum>(&phase)) {
    return StepSecure(*secure, outcome);
  }
  if (const auto* evaluating = std::get_if<Evaluating>(&phase)) {
    return StepEvaluating(*evaluating, outcome);
  }
  return false;
}

// With what was wrong, which is often the same with every client.
std::string Engine::Impl::WhyTooManyLost() const {
  std::string why = absl::StrCat(
      "round ", state_.round(), " was lost ", state_.lost_in_a_row(),
      " times in a row, the limit of rounds.max_lost_in_a_row");
  if (!state_.lost_reason().empty()) {
    absl::StrAppend(&why, "; the last time because ", state_.lost_reason());
  }
  if (!state_.dropout_reason().empty()) {
    absl::StrAppend(&why, "; the last client to drop out, ",
                    state_.dropout_reason());
  }
  return why;
}

bool Engine::Impl::StepWaiting(const WaitingForClients& waiting,
                               Outcome& outcome) {
  const config::RoundsOptions& rounds = state_.options().rounds;
  if (state_.lost_in_a_row() >=
      static_cast<uint32_t>(rounds.max_lost_in_a_row)) {
    Finish(v1::JobFinished::FAILED, WhyTooManyLost(), outcome);
    return false;
  }
  if (!waiting.evaluate &&
      waiting.number > static_cast<uint32_t>(rounds.count)) {
    Finish(v1::JobFinished::DONE, "", outcome);
    return false;
  }
  if (!CanBegin(waiting)) return false;
  returning_.clear();
  if (waiting.evaluate) {
    BeginEvaluation(waiting.number, outcome);
  } else {
    BeginRound(outcome);
  }
  return true;
}

bool Engine::Impl::CanBegin(const WaitingForClients& waiting) const {
  const config::RoundsOptions& rounds = state_.options().rounds;
  const bool all_back =
      returning_.empty() ||
      now_ >= entered_ + std::min(kReturnGrace, rounds.deadline);
  if (waiting.evaluate && waiting.number > 0) {
    return (all_back && !available_.empty()) ||
           now_ >= entered_ + rounds.deadline;
  }
  return all_back &&
         available_.size() >= static_cast<size_t>(rounds.min_available);
}

// All who are available, without those who have cost the round an attempt as
// long as there are enough others.
std::set<std::string> Engine::Impl::Candidates() const {
  std::set<std::string> candidates(available_.begin(), available_.end());
  if (state_.blamed().empty()) return candidates;
  const config::SecureAggregationOptions& secure =
      state_.options().secure_aggregation;
  std::set<std::string> others = candidates;
  for (const std::string& client : state_.blamed()) others.erase(client);
  const size_t needed =
      std::max(SurvivorsNeeded(),
               static_cast<size_t>(secure.min_groups() * secure.group_size));
  return others.size() < needed ? candidates : others;
}

void Engine::Impl::BeginRound(Outcome& outcome) {
  const config::JobOptions& options = state_.options();
  const uint32_t round = state_.round();
  const uint32_t attempt = state_.attempt();
  const uint64_t seed = base::DeriveSeed(
      options.seed, {"select", absl::StrCat(round), absl::StrCat(attempt)});
  const std::set<std::string> candidates = Candidates();
  const std::vector<std::string> cohort =
      options.rounds.selection == config::Selection::kUniform
          ? selection::SelectUniform(candidates, options.rounds.num_to_select(),
                                     seed)
          : selection::SelectPoisson(candidates, options.rounds.sampling_rate,
                                     seed);
  v1::JournalRecord record;
  v1::RoundStarted& started = *record.mutable_round_started();
  started.set_job(options.name);
  started.set_round(round);
  started.set_attempt(attempt);
  started.mutable_cohort()->Add(cohort.begin(), cohort.end());
  started.set_available(static_cast<uint32_t>(candidates.size()));
  started.set_seed(seed);
  if (secure() && !MakeSession(cohort, started, outcome)) return;
  Record(std::move(record), outcome);
}

void Engine::Impl::BeginEvaluation(uint32_t version, Outcome& outcome) {
  const config::JobOptions& options = state_.options();
  std::vector<std::string> cohort(available_.begin(), available_.end());
  if (options.evaluation.cohort_size > 0) {
    const uint64_t seed = base::DeriveSeed(
        options.seed, {"select-evaluation", absl::StrCat(version)});
    cohort = selection::SelectUniform({available_.begin(), available_.end()},
                                      options.evaluation.cohort_size, seed);
  }
  v1::JournalRecord record;
  v1::EvaluationStarted& started = *record.mutable_evaluation_started();
  started.set_job(options.name);
  started.set_version(version);
  started.set_attempt(1);
  started.mutable_cohort()->Add(cohort.begin(), cohort.end());
  Record(std::move(record), outcome);
}

bool Engine::Impl::StepTraining(const Training& training, Outcome& outcome) {
  const config::RoundsOptions& rounds = state_.options().rounds;
  const Cohort& cohort = training.cohort;
  const size_t got = training.accepted.size();
  const size_t possible = got + cohort.pending.size();
  const size_t needed =
      secure() ? SurvivorsNeeded() : std::max<size_t>(1, rounds.min_survivors);
  if (possible < needed) {
    std::string reason =
        possible == 0 && cohort.out.empty()
            ? std::string("the draw selected no client")
            : absl::StrCat("only ", possible, " of the ", needed,
                           " updates needed can still arrive");
    LoseRound(reason, outcome);
    return true;
  }
  if (secure()) return StepReady(training, outcome);
  if (now_ < entered_ + rounds.deadline) return false;
  LosePending(cohort, outcome);
  return true;
}

bool Engine::Impl::StepAggregating(const Aggregating& aggregating,
                                   Outcome& outcome) {
  const Training& round = aggregating.round;
  Aggregate action;
  action.round = round.cohort.key.round();
  action.attempt = round.cohort.key.attempt();
  for (const auto& [client, update] : round.accepted) {
    action.updates.push_back({client, update.report.update(), update.weight});
  }
  action.adapter = state_.adapter();
  action.server_state = state_.server_state();
  outcome.actions.push_back(std::move(action));
  return false;
}

bool Engine::Impl::StepEvaluating(const Evaluating& evaluating,
                                  Outcome& outcome) {
  if (!evaluating.cohort.pending.empty()) {
    if (now_ < entered_ + state_.options().rounds.deadline) return false;
    LosePending(evaluating.cohort, outcome);
    return true;
  }
  FinishEvaluation(evaluating, outcome);
  return true;
}

void Engine::Impl::LosePending(const Cohort& cohort, Outcome& outcome) {
  // Copies: every record changes the cohort, the last one may end the phase.
  const std::vector<std::string> late(cohort.pending.begin(),
                                      cohort.pending.end());
  const v1::TaskKey key = cohort.key;
  for (const std::string& client : late) {
    v1::JournalRecord record;
    v1::ClientLost& lost = *record.mutable_client_lost();
    *lost.mutable_key() = key;
    lost.set_client(client);
    lost.set_reason(
        absl::StrCat("no report within ",
                     absl::FormatDuration(state_.options().rounds.deadline)));
    Record(std::move(record), outcome);
  }
}

void Engine::Impl::LoseRound(const std::string& reason, Outcome& outcome) {
  FlushLeaving(outcome);
  Discard(outcome);
  AbortSession(reason, outcome);
  v1::TaskKey key;
  key.set_job(state_.options().name);
  key.set_round(state_.round());
  key.set_attempt(state_.attempt());
  Record(RoundLostRecord(key, reason), outcome);
}

void Engine::Impl::FinishEvaluation(const Evaluating& evaluating,
                                    Outcome& outcome) {
  v1::JournalRecord record;
  v1::EvaluationFinished& finished = *record.mutable_evaluation_finished();
  finished.set_job(state_.options().name);
  finished.set_version(evaluating.cohort.key.round());
  finished.set_attempt(evaluating.cohort.key.attempt());
  finished.set_clients(static_cast<uint32_t>(evaluating.accepted.size()));
  double loss_sum = 0.0;
  uint64_t tokens = 0;
  for (const auto& [client, report] : evaluating.accepted) {
    loss_sum += report.loss_sum();
    tokens = base::SaturatingAdd(tokens, report.tokens());
  }
  finished.set_loss_sum(loss_sum);
  finished.set_tokens(tokens);
  Record(std::move(record), outcome);
}

void Engine::Impl::Finish(v1::JobFinished::State state,
                          const std::string& reason, Outcome& outcome) {
  FlushLeaving(outcome);
  Discard(outcome);
  AbortSession(reason.empty() ? "the job is over" : reason, outcome);
  v1::JournalRecord record;
  v1::JobFinished& finished = *record.mutable_job_finished();
  finished.set_job(state_.options().name);
  finished.set_state(state);
  finished.set_reason(reason);
  const v1::JobFinished result = finished;
  Record(std::move(record), outcome);
  outcome.actions.push_back(FinishJob{result});
  available_.clear();
  returning_.clear();
}

void Engine::Impl::Discard(Outcome& outcome) {
  DiscardUpdates discard{UpdatesInUse()};
  // Of secure rounds too: what was sent in the open all the same.
  if (discard.updates.empty() && !secure()) return;
  outcome.actions.push_back(std::move(discard));
}

Engine::Engine(config::JobOptions options, JobFacts facts,
               SessionMaker make_session)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(facts),
                                   std::move(make_session))) {}
Engine::~Engine() = default;

absl::Status Engine::Replay(const v1::JournalRecord& record) {
  return impl_->Replay(record);
}
Outcome Engine::Resume(absl::Time now) { return impl_->Resume(now); }
Outcome Engine::Handle(const Event& event, absl::Time now) {
  return impl_->Handle(event, now);
}
bool Engine::Wants(absl::string_view client, const v1::TaskKey& key) const {
  return impl_->Wants(client, key);
}
const v1::SecureSession* Engine::secure_session() const {
  return impl_->SessionInProgress();
}
std::string Engine::secure_phase(const v1::TaskKey& key) const {
  return impl_->SecurePhaseOf(key);
}
bool Engine::WantsSecure(absl::string_view client,
                         const v1::TaskKey& key) const {
  return impl_->WantsSecure(client, key);
}
std::vector<v1::BlobRef> Engine::updates_in_use() const {
  return impl_->UpdatesInUse();
}
Progress Engine::progress() const { return impl_->GetProgress(); }
const config::JobOptions& Engine::options() const {
  return impl_->state().options();
}
const JobFacts& Engine::facts() const { return impl_->state().facts(); }

}  // namespace choir::engine
