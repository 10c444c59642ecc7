// Rounds that are summed in secret (secure_events.h).
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/saturating_add.h"
#include "base/sim_random.h"
#include "coordinator/engine/engine_impl.h"
#include "coordinator/selection/selection.h"
#include "proto/codec/task_key.h"

namespace choir::engine {

const v1::SecureSession* Engine::Impl::SessionInProgress() const {
  const Training* round = state_.round_in_progress();
  return round != nullptr && round->session.has_value() ? &*round->session
                                                        : nullptr;
}

// "" if no phase of a secure round is open.
absl::string_view Engine::Impl::OpenPhase() const {
  if (closing_ || SessionInProgress() == nullptr) return "";
  if (const auto* sum = std::get_if<SecureSum>(&state_.phase())) {
    return sum->phase == kSum ? absl::string_view() : sum->phase;
  }
  return kAdvertiseKeys;
}

std::string Engine::Impl::SecurePhaseOf(const v1::TaskKey& key) const {
  return CurrentCohort(key) == nullptr ? "" : std::string(OpenPhase());
}

bool Engine::Impl::WantsSecure(absl::string_view client,
                               const v1::TaskKey& key) const {
  const Cohort* cohort = CurrentCohort(key);
  return cohort != nullptr && !OpenPhase().empty() &&
         cohort->pending.count(client) > 0;
}

size_t Engine::Impl::SurvivorsNeeded() const {
  const config::JobOptions& options = state_.options();
  return static_cast<size_t>(
      std::max(options.rounds.min_survivors,
               options.secure_aggregation.min_survivors()));
}

bool Engine::Impl::MakeSession(const std::vector<std::string>& cohort,
                               v1::RoundStarted& started, Outcome& outcome) {
  CHOIR_CHECK(make_session_ != nullptr);
  const config::JobOptions& options = state_.options();
  size_t most = cohort.size();
  if (options.rounds.selection == config::Selection::kUniform) {
    most = std::min(most, static_cast<size_t>(options.rounds.cohort_size));
  }
  const size_t group =
      static_cast<size_t>(options.secure_aggregation.group_size);
  if (group > 0) most = std::min(most, 2 * group - 1);
  v1::TaskKey key;
  key.set_job(started.job());
  key.set_round(started.round());
  key.set_attempt(started.attempt());
  key.set_kind(v1::TASK_KIND_TRAIN);
  absl::StatusOr<v1::SecureSession> session = make_session_(
      MakePlan("", key), static_cast<uint32_t>(std::max<size_t>(1, most)));
  if (!session.ok()) {
    Finish(v1::JobFinished::FAILED, std::string(session.status().message()),
           outcome);
    return false;
  }
  *started.mutable_secure_session() = *std::move(session);
  return true;
}

void Engine::Impl::On(const SecureAnswered& event, Outcome&) {
  if (!WantsSecure(event.client, event.key) || event.phase != OpenPhase()) {
    return;  // late
  }
  // Keys may be replaced until the phase is over.
  if (!answered_.emplace(event.client, Answered{event.bytes, event.digest})
           .second) {
    if (event.phase != kAdvertiseKeys) return;
    answered_[event.client] = Answered{event.bytes, event.digest};
  }
  uint64_t& downloaded = downloaded_[event.client];
  downloaded = std::max(downloaded, event.bytes_downloaded);
  NoteReporter(event.client);
}

// What the round lacks; empty if it can still be summed.
std::string Engine::Impl::SecureShortfall(const SecureSum& sum) const {
  const config::SecureAggregationOptions& options =
      state_.options().secure_aggregation;
  const size_t groups = static_cast<size_t>(options.min_groups());
  if (sum.groups.size() < groups) {
    return groups == 1
               ? std::string("the session cannot go on with those who are left")
               : absl::StrCat("only ", sum.groups.size(), " of the ", groups,
                              " groups that ",
                              config::GroupRuleName(options.group_rule),
                              " needs are left");
  }
  const bool masked =
      sum.phase == kConfirm || sum.phase == kUnmask || sum.phase == kSum;
  const size_t left =
      masked ? sum.survivors.size() : sum.round.cohort.pending.size();
  if (left < SurvivorsNeeded()) {
    return absl::StrCat("only ", left, " of the ", SurvivorsNeeded(),
                        " clients needed are left");
  }
  return "";
}

void Engine::Impl::EnterSecure(const SecureSum& sum, Outcome& outcome) {
  const v1::TaskKey key = sum.round.cohort.key;
  FlushLeaving(outcome);
  const std::string shortfall = SecureShortfall(sum);
  if (!shortfall.empty()) {
    LoseRound(absl::StrCat("before the ", sum.phase == kSum ? "" : "phase ",
                           sum.phase, ": ", shortfall),
              outcome);
    return;
  }
  outcome.actions.push_back(OpenSecurePhase{key, sum.phase});
  if (sum.phase == kSum) {
    AggregateSecure action;
    action.round = key.round();
    action.attempt = key.attempt();
    action.survivors.assign(sum.survivors.begin(), sum.survivors.end());
    action.adapter = state_.adapter();
    action.server_state = state_.server_state();
    outcome.actions.push_back(std::move(action));
  }
}

// The keys of enough clients, of all who are left, or of those who were in
// time, go into sessions.
bool Engine::Impl::StepReady(const Training& training, Outcome& outcome) {
  const config::JobOptions& options = state_.options();
  if (closing_) return false;
  const size_t ready = answered_.size();
  const bool over = now_ >= entered_ + options.rounds.deadline;
  if (ready < training.target && ready < training.cohort.pending.size() &&
      !over) {
    return false;
  }
  if (ready < SurvivorsNeeded()) {
    if (!over) return false;
    LoseRound(absl::StrCat("only ", ready, " of the ", SurvivorsNeeded(),
                           " clients needed were ready within ",
                           absl::FormatDuration(options.rounds.deadline)),
              outcome);
    return true;
  }
  CloseSecurePhase close;
  close.key = training.cohort.key;
  close.phase = std::string(kAdvertiseKeys);
  std::set<std::string> names;
  for (const auto& [client, answer] : answered_) names.insert(client);
  const int group_size = options.secure_aggregation.group_size;
  const auto groups = selection::FormGroups(
      names, group_size,
      base::DeriveSeed(options.seed, {"groups", absl::StrCat(close.key.round()),
                                      absl::StrCat(close.key.attempt())}));
  const size_t wanted =
      static_cast<size_t>(options.secure_aggregation.min_groups());
  if (groups.size() < wanted) {
    if (!over && ready < training.cohort.pending.size()) return false;
    LoseRound(absl::StrCat("the ", ready, " clients that were ready make only ",
                           groups.size(), " of the ", wanted,
                           " groups needed, of at least ", group_size),
              outcome);
    return true;
  }
  for (size_t i = 0; i < groups.size(); ++i) {
    for (const std::string& client : groups[i]) {
      close.members[client] =
          group_size == 0 ? 0 : static_cast<uint32_t>(i + 1);
    }
  }
  closing_ = true;
  members_ = close.members;
  outcome.actions.push_back(std::move(close));
  return false;
}

bool Engine::Impl::StepSecure(const SecureSum& sum, Outcome& outcome) {
  if (sum.phase == kSum || closing_) return false;
  const std::string shortfall = SecureShortfall(sum);
  if (!shortfall.empty()) {
    LoseRound(absl::StrCat("in phase ", sum.phase, ": ", shortfall), outcome);
    return true;
  }
  const absl::Duration deadline =
      state_.options().secure_aggregation.phase_deadline;
  const auto& pending = sum.round.cohort.pending;
  const bool all = std::all_of(pending.begin(), pending.end(),
                               [this](const std::string& client) {
                                 return answered_.count(client) > 0;
                               });
  if (!all && now_ < entered_ + deadline) return false;
  closing_ = true;
  outcome.actions.push_back(
      CloseSecurePhase{sum.round.cohort.key, sum.phase, {}});
  return false;
}

void Engine::Impl::On(const SecurePhaseAdvanced& event, Outcome& outcome) {
  const Training* round = state_.round_in_progress();
  if (!closing_ || round == nullptr ||
      !codec::SameTask(round->cohort.key, event.key)) {
    return;  // of a round that was stopped meanwhile
  }
  const auto* sum = std::get_if<SecureSum>(&state_.phase());
  v1::JournalRecord record;
  v1::SecurePhaseClosed& closed = *record.mutable_secure_phase_closed();
  *closed.mutable_key() = event.key;
  closed.set_phase(event.phase);
  for (const std::string& client : round->cohort.pending) {
    const auto answer = answered_.find(client);
    if (answer == answered_.end()) {
      closed.add_dropped(client);
      continue;
    }
    v1::SecurePhaseClosed::Client& one = *closed.add_clients();
    one.set_client(client);
    one.set_bytes(answer->second.bytes);
    one.set_digest(answer->second.digest);
    one.set_group(sum != nullptr ? sum->members.find(client)->second
                                 : members_[client]);
  }
  for (const v1::SecurePhaseClosed::Group& group : event.groups) {
    *closed.add_groups() = group;
  }
  closed.set_seconds(absl::ToDoubleSeconds(now_ - entered_));
  for (const std::string& client : closed.dropped()) returning_.erase(client);
  Record(std::move(record), outcome);
}

void Engine::Impl::OnSecureSum(const SecureSum& sum, const AggregateDone& event,
                               Outcome& outcome) {
  const v1::TaskKey& key = sum.round.cohort.key;
  if (sum.phase != kSum || event.committed.round() != key.round() ||
      event.committed.attempt() != key.attempt()) {
    return;
  }
  v1::JournalRecord record;
  v1::RoundCommitted& committed = *record.mutable_round_committed();
  committed = event.committed;
  committed.set_job(state_.options().name);
  committed.clear_survivors();
  uint64_t bytes_down = 0;
  for (const std::string& client : sum.survivors) {
    committed.add_survivors(client);
  }
  for (const auto& [client, bytes] : downloaded_) {
    bytes_down = base::SaturatingAdd(bytes_down, bytes);
  }
  *committed.mutable_server_state_before() = state_.server_state();
  *committed.mutable_adapter_before() = state_.adapter();
  *committed.mutable_secure_session() = *sum.round.session;
  committed.set_bytes_up(sum.bytes_up);
  committed.set_bytes_down(bytes_down);
  Discard(outcome);
  Record(std::move(record), outcome);
}

void Engine::Impl::AbortSession(const std::string& reason, Outcome& outcome) {
  const v1::SecureSession* session = SessionInProgress();
  if (session == nullptr) return;
  outcome.actions.push_back(
      AbortSecure{state_.round_in_progress()->cohort.key, reason});
}

absl::optional<absl::Time> Engine::Impl::SecureDeadline() const {
  const auto* sum = std::get_if<SecureSum>(&state_.phase());
  if (sum == nullptr || sum->phase == kSum || closing_) return absl::nullopt;
  return entered_ + state_.options().secure_aggregation.phase_deadline;
}

std::string Engine::Impl::SecureProgress() const {
  if (const auto* sum = std::get_if<SecureSum>(&state_.phase())) {
    if (sum->phase == kSum) {
      return absl::StrCat("the sum of ", sum->survivors.size(),
                          " masked updates");
    }
    return absl::StrCat("phase ", sum->phase, ": ", answered_.size(), " of ",
                        sum->round.cohort.pending.size(), " answers");
  }
  return absl::StrCat(answered_.size(), " of ",
                      state_.round_in_progress()->target,
                      " clients ready to be summed");
}

}  // namespace choir::engine
