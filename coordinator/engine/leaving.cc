// Who leaves a secure round before it is over, and who made others leave.
#include <string>
#include <utility>

#include "coordinator/engine/engine_impl.h"

namespace choir::engine {

void Engine::Impl::On(const SecureRefused& event, Outcome& outcome) {
  const Leaving why{event.reason, true, event.accused};
  const Cohort* cohort = CurrentCohort(event.key);
  if (SessionInProgress() == nullptr || cohort == nullptr ||
      cohort->pending.count(event.client) == 0) {
    return NoteLateRefusal(event.client, event.key, why, outcome);
  }
  if (closing_) {
    // Those who are in this phase are fixed.
    leaving_.emplace(event.client, why);
  } else if (std::holds_alternative<SecureSum>(state_.phase())) {
    LoseMember(event.client, why, outcome);
  } else {
    answered_.erase(event.client);
    RecordLost(event.client, event.key, why, outcome);
  }
}

void Engine::Impl::On(const SecureUnfit& event, Outcome& outcome) {
  const Cohort* cohort = CurrentCohort(event.key);
  if (!closing_ || cohort == nullptr ||
      !std::holds_alternative<Training>(state_.phase())) {
    return;
  }
  closing_ = false;
  for (const auto& [client, reason] : event.reasons) {
    if (cohort->pending.count(client) == 0) continue;
    answered_.erase(client);
    returning_.erase(client);
    RecordLost(client, event.key, {reason, false, {}}, outcome);
  }
}

void Engine::Impl::BlameAccused(Outcome& outcome) {
  if (std::holds_alternative<Finished>(state_.phase())) return;
  for (const auto& [client, accusers] : state_.accusations().Proven()) {
    v1::JournalRecord record;
    v1::ClientBlamed& blamed = *record.mutable_client_blamed();
    *blamed.mutable_key() = state_.accusations().key();
    blamed.set_client(client);
    for (const std::string& accuser : accusers) blamed.add_accusers(accuser);
    Record(std::move(record), outcome);
  }
}

void Engine::Impl::RecordLost(const std::string& client, const v1::TaskKey& key,
                              const Leaving& why, Outcome& outcome) {
  v1::JournalRecord record;
  v1::ClientLost& lost = *record.mutable_client_lost();
  *lost.mutable_key() = key;
  lost.set_client(client);
  lost.set_reason(why.reason);
  for (std::string& peer :
       state_.accusations().Admissible(key, client, why.accused)) {
    lost.add_accused(std::move(peer));
  }
  Record(std::move(record), outcome);
}

void Engine::Impl::NoteLateRefusal(const std::string& client,
                                   const v1::TaskKey& key, const Leaving& why,
                                   Outcome& outcome) {
  const bool given = CurrentCohort(key) != nullptr ||
                     (key.round() > 0 && key.attempt() > 0 &&
                      std::make_pair(key.round(), key.attempt()) <
                          std::make_pair(state_.round(), state_.attempt()));
  if (key.job() != state_.options().name || !given ||
      key.kind() != v1::TASK_KIND_TRAIN ||
      std::holds_alternative<Finished>(state_.phase()) ||
      !strangers_.insert(client).second) {
    return;
  }
  v1::JournalRecord record;
  v1::UpdateRefused& refused = *record.mutable_update_refused();
  *refused.mutable_key() = key;
  refused.set_client(client);
  refused.set_reason(why.reason);
  for (std::string& peer :
       state_.accusations().Admissible(key, client, why.accused)) {
    refused.add_accused(std::move(peer));
  }
  Record(std::move(record), outcome);
}

void Engine::Impl::FlushLeaving(Outcome& outcome) {
  const std::map<std::string, Leaving> leaving = std::move(leaving_);
  leaving_.clear();
  const Cohort* cohort = state_.cohort();
  if (leaving.empty() || cohort == nullptr) return;
  const v1::TaskKey key = cohort->key;
  for (const auto& [client, why] : leaving) {
    cohort = CurrentCohort(key);
    if (cohort != nullptr && cohort->pending.count(client) > 0) {
      returning_.erase(client);
      RecordLost(client, key, why, outcome);
    } else if (why.refused) {
      NoteLateRefusal(client, key, why, outcome);
    }
  }
}

void Engine::Impl::LoseMember(const std::string& client, const Leaving& why,
                              Outcome& outcome) {
  const auto* sum = std::get_if<SecureSum>(&state_.phase());
  if (sum == nullptr || sum->round.cohort.pending.count(client) == 0 ||
      (sum->phase == kSum && !why.refused)) {
    return;
  }
  // What it has said in this phase counts: the session has it.
  if (answered_.count(client) > 0) {
    leaving_.emplace(client, why);
    return;
  }
  returning_.erase(client);
  RecordLost(client, v1::TaskKey(sum->round.cohort.key), why, outcome);
}

}  // namespace choir::engine
