// The engine's side of tasks and timers, and its account of itself.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/sim_random.h"
#include "coordinator/engine/engine_impl.h"

namespace choir::engine {

v1::TaskPlan Engine::Impl::MakePlan(const std::string& client,
                                    const v1::TaskKey& key) const {
  const config::JobOptions& options = state_.options();
  const v1::JobStarted& facts = state_.facts();
  v1::TaskPlan plan;
  *plan.mutable_key() = key;
  // Not of the attempt: a round begun again trains the same.
  const char* purpose =
      key.kind() == v1::TASK_KIND_TRAIN ? "train" : "evaluate";
  plan.set_seed(base::DeriveSeed(options.seed,
                                 {purpose, absl::StrCat(key.round()), client}));
  *plan.mutable_base_model() = facts.base_model();
  *plan.mutable_adapter() = state_.adapter();
  plan.set_layout_digest(facts.layout_digest());
  const v1::JobConfig resolved = config::ToProto(options);
  *plan.mutable_adapter_config() = resolved.adapter();
  *plan.mutable_training() = resolved.training();
  *plan.mutable_aggregation() = resolved.aggregation();
  if (secure() && key.kind() == v1::TASK_KIND_TRAIN) {
    *plan.mutable_secure_aggregation() = resolved.secure_aggregation();
    const v1::SecureSession* session = SessionInProgress();
    if (session != nullptr) *plan.mutable_secure_session() = *session;
  }
  return plan;
}

void Engine::Impl::SendTaskTo(const std::string& client, const v1::TaskKey& key,
                              Outcome& outcome) {
  available_.erase(client);
  SendTask send;
  send.client = client;
  send.plan = MakePlan(client, key);
  send.deadline = entered_ + state_.options().rounds.deadline;
  outcome.actions.push_back(std::move(send));
}

void Engine::Impl::SendTasks(const Cohort& cohort, Outcome& outcome) {
  for (const std::string& client : cohort.pending) {
    SendTaskTo(client, cohort.key, outcome);
  }
}

absl::Time Engine::Impl::NextDeadline() const {
  const absl::Duration deadline = state_.options().rounds.deadline;
  const Phase& phase = state_.phase();
  if (std::holds_alternative<Training>(phase) ||
      std::holds_alternative<Evaluating>(phase)) {
    return entered_ + deadline;
  }
  if (const auto secure = SecureDeadline()) return *secure;
  const auto* waiting = std::get_if<WaitingForClients>(&phase);
  if (waiting == nullptr) return absl::InfiniteFuture();
  const absl::Time grace = entered_ + std::min(kReturnGrace, deadline);
  if (!returning_.empty() && now_ < grace) return grace;
  if (waiting->evaluate && waiting->number > 0) return entered_ + deadline;
  return absl::InfiniteFuture();
}

void Engine::Impl::UpdateTimer(Outcome& outcome) {
  const absl::Time at = NextDeadline();
  if (at == absl::InfiniteFuture()) {
    if (timer_.has_value()) outcome.actions.push_back(CancelTimer{});
    timer_.reset();
    return;
  }
  if (timer_.has_value() && timer_->at == at) return;
  timer_ = Timer{next_timer_++, at};
  outcome.actions.push_back(SetTimer{timer_->id, at});
}

std::vector<v1::BlobRef> Engine::Impl::UpdatesInUse() const {
  const Training* training = state_.round_in_progress();
  std::vector<v1::BlobRef> updates;
  if (training == nullptr) return updates;
  for (const auto& [client, update] : training->accepted) {
    updates.push_back(update.report.update());
  }
  return updates;
}

Progress Engine::Impl::GetProgress() const {
  Progress progress;
  const config::RoundsOptions& rounds = state_.options().rounds;
  progress.rounds_committed = state_.rounds_committed();
  progress.rounds_total = static_cast<uint32_t>(rounds.count);
  progress.rounds_lost = state_.rounds_lost();
  progress.available_clients = static_cast<uint32_t>(available_.size());
  progress.adapter = state_.adapter();
  progress.version = state_.rounds_committed();
  progress.heldout_loss_before = state_.heldout_loss_before();
  progress.heldout_loss = state_.heldout_loss();
  progress.bytes_up = state_.bytes_up();
  progress.bytes_down = state_.bytes_down();
  const Phase& phase = state_.phase();
  if (const auto* waiting = std::get_if<WaitingForClients>(&phase)) {
    const bool any = waiting->evaluate && waiting->number > 0;
    const size_t needed = any ? 1 : static_cast<size_t>(rounds.min_available);
    progress.waiting_for =
        available_.size() < needed || returning_.empty()
            ? absl::StrCat(available_.size(), " of ", needed,
                           " clients available")
            : absl::StrCat(returning_.size(), " clients to come back");
  } else if (SessionInProgress() != nullptr) {
    progress.waiting_for = SecureProgress();
  } else if (const auto* training = std::get_if<Training>(&phase)) {
    progress.waiting_for = absl::StrCat(training->accepted.size(),
                                        " updates of ", training->target);
  } else if (const auto* sum = std::get_if<Aggregating>(&phase)) {
    progress.waiting_for =
        absl::StrCat("the sum of ", sum->round.accepted.size(), " updates");
  } else if (const auto* evaluating = std::get_if<Evaluating>(&phase)) {
    const size_t got = evaluating->accepted.size();
    progress.waiting_for = absl::StrCat(
        got, " evaluations of ", got + evaluating->cohort.pending.size());
  } else if (const auto* finished = std::get_if<Finished>(&phase)) {
    progress.finished = true;
    progress.result = finished->result;
  }
  return progress;
}

}  // namespace choir::engine
