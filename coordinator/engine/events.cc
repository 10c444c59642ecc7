// What the engine makes of each event.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/saturating_add.h"
#include "coordinator/engine/engine_impl.h"
#include "proto/codec/task_key.h"

namespace choir::engine {
namespace {

// Most tokens a client can claim in one evaluation.
constexpr uint64_t kMaxEvaluationTokens = uint64_t{1} << 50;

void Answer(v1::ReportResponse::Verdict verdict, const std::string& reason,
            Outcome& outcome) {
  outcome.response.set_verdict(verdict);
  outcome.response.set_reason(reason);
}

// What is wrong with a report; empty if nothing.
std::string Fault(const v1::TrainReport& report,
                  const config::AggregationOptions& options) {
  if (report.num_examples() < 1 ||
      report.num_examples() > options.max_examples_per_client) {
    return absl::StrCat("claims ", report.num_examples(), " examples; 1 to ",
                        options.max_examples_per_client,
                        " are allowed (aggregation.max_examples_per_client)");
  }
  if (!std::isfinite(report.mean_loss())) {
    return "its mean loss is not finite";
  }
  if (!std::isfinite(report.dense_flops()) ||
      !std::isfinite(report.done_flops()) || report.dense_flops() < 0.0 ||
      report.done_flops() < 0.0) {
    return "its FLOPs are negative or not finite";
  }
  return "";
}

std::string Fault(const v1::EvaluationReport& report) {
  if (!std::isfinite(report.loss_sum()) || report.loss_sum() < 0.0) {
    return "its loss is negative or not finite";
  }
  if (report.tokens() > kMaxEvaluationTokens) {
    return absl::StrCat("claims ", report.tokens(), " tokens; at most ",
                        kMaxEvaluationTokens, " are allowed");
  }
  if (report.tokens() == 0 && report.loss_sum() != 0.0) {
    return "has a loss, but no tokens";
  }
  if (report.correct() > report.tokens()) {
    return absl::StrCat("claims ", report.correct(), " right labels of ",
                        report.tokens(), " examples");
  }
  return "";
}

// Mean loss over all tokens of the round; over clients if none counted any.
double MeanTrainLoss(const Training& round) {
  double weighted = 0.0;
  double tokens = 0.0;
  double plain = 0.0;
  for (const auto& [client, update] : round.accepted) {
    const double count = static_cast<double>(update.report.tokens());
    weighted += update.report.mean_loss() * count;
    tokens += count;
    plain += update.report.mean_loss();
  }
  if (tokens > 0.0) return weighted / tokens;
  return plain / static_cast<double>(round.accepted.size());
}

}  // namespace

void Engine::Impl::On(const ClientArrived& event, Outcome& outcome) {
  returning_.erase(event.client);
  const Cohort* cohort = nullptr;
  if (const auto* training = std::get_if<Training>(&state_.phase())) {
    cohort = &training->cohort;
    if (!closing_) answered_.erase(event.client);  // its keys are gone
  } else if (const auto* evaluating =
                 std::get_if<Evaluating>(&state_.phase())) {
    cohort = &evaluating->cohort;
  } else if (std::holds_alternative<SecureSum>(state_.phase())) {
    LoseMember(event.client,
               {"asked for work and has lost its session", false, {}}, outcome);
  } else if (std::holds_alternative<Finished>(state_.phase())) {
    return;
  }
  if (cohort != nullptr && cohort->pending.count(event.client) > 0) {
    // A phase that goes on after a restart sends its tasks by itself.
    if (entered_serial_ == state_.phase_serial()) {
      SendTaskTo(event.client, cohort->key, outcome);
    }
    return;
  }
  available_.insert(event.client);
}

void Engine::Impl::On(const ClientLeft& event, Outcome&) {
  available_.erase(event.client);
  returning_.erase(event.client);
}

void Engine::Impl::NoteReporter(const std::string& client) {
  available_.erase(client);
  returning_.insert(client);
}

const Cohort* Engine::Impl::CurrentCohort(const v1::TaskKey& key) const {
  const Cohort* cohort = state_.cohort();
  return cohort != nullptr && codec::SameTask(cohort->key, key) ? cohort
                                                                : nullptr;
}

bool Engine::Impl::Wants(absl::string_view client,
                         const v1::TaskKey& key) const {
  const Cohort* cohort = CurrentCohort(key);
  return cohort != nullptr &&
         !std::holds_alternative<Aggregating>(state_.phase()) &&
         cohort->pending.count(client) > 0;
}

void Engine::Impl::Refuse(const std::string& client, const v1::TaskKey& key,
                          const std::string& reason, Outcome& outcome) {
  // What it has said in a session counts; but it is heard of no more.
  if (std::holds_alternative<SecureSum>(state_.phase()) &&
      CurrentCohort(key) != nullptr) {
    LoseMember(client, {reason, false, {}}, outcome);
    return Answer(v1::ReportResponse::REFUSED, reason, outcome);
  }
  answered_.erase(client);
  v1::JournalRecord record;
  v1::UpdateRefused& refused = *record.mutable_update_refused();
  *refused.mutable_key() = key;
  refused.set_client(client);
  refused.set_reason(reason);
  Record(std::move(record), outcome);
  Answer(v1::ReportResponse::REFUSED, reason, outcome);
}

// Of a phase in progress, to which the client has nothing to add.
void Engine::Impl::AnswerUnwantedOf(const Cohort& cohort,
                                    const std::string& client,
                                    const v1::TaskKey& key, Outcome& outcome) {
  using Response = v1::ReportResponse;
  const Phase& phase = state_.phase();
  const Training* training = state_.round_in_progress();
  const auto* evaluating = std::get_if<Evaluating>(&phase);
  if ((training != nullptr && training->accepted.count(client) > 0) ||
      (evaluating != nullptr && evaluating->accepted.count(client) > 0)) {
    return Answer(Response::ACCEPTED, "", outcome);
  }
  const auto out = cohort.out.find(client);
  if (out != cohort.out.end()) {
    return Answer(out->second ? Response::REFUSED : Response::TOO_LATE,
                  out->second ? "was refused before"
                              : "the client was given up in this round",
                  outcome);
  }
  if (cohort.pending.count(client) > 0) {
    return Answer(Response::TOO_LATE, "the round has enough updates", outcome);
  }
  Refuse(client, key,
         absl::StrCat("'", client, "' is not in the cohort of round ",
                      key.round()),
         outcome);
}

void Engine::Impl::AnswerUnwanted(const std::string& client,
                                  const v1::TaskKey& key, Outcome& outcome) {
  using Response = v1::ReportResponse;
  if (key.job() != state_.options().name) {
    return Answer(Response::TOO_LATE,
                  absl::StrCat("job '", key.job(), "' is not running"),
                  outcome);
  }
  for (const ClosedPhase* closed :
       {&state_.last_training(), &state_.last_evaluation()}) {
    if (codec::SameTask(closed->key, key) &&
        closed->accepted.count(client) > 0) {
      return Answer(Response::ACCEPTED, "", outcome);
    }
  }
  if (const Cohort* cohort = CurrentCohort(key)) {
    return AnswerUnwantedOf(*cohort, client, key, outcome);
  }
  if (std::holds_alternative<Finished>(state_.phase())) {
    return Answer(Response::TOO_LATE, "the job is finished", outcome);
  }
  const bool training = key.kind() == v1::TASK_KIND_TRAIN;
  const auto* waiting = std::get_if<WaitingForClients>(&state_.phase());
  const bool evaluations_to_come = waiting != nullptr && waiting->evaluate;
  const bool past = training
                        ? std::make_pair(key.round(), key.attempt()) <
                              std::make_pair(state_.round(), state_.attempt())
                        : key.kind() == v1::TASK_KIND_EVALUATE &&
                              (key.round() < state_.rounds_committed() ||
                               (key.round() == state_.rounds_committed() &&
                                !evaluations_to_come));
  if (past) {
    return Answer(Response::TOO_LATE,
                  absl::StrCat("round ", key.round(), ", attempt ",
                               key.attempt(), " is over"),
                  outcome);
  }
  const std::string reason = absl::StrCat(
      "no such task: round ", key.round(), ", attempt ", key.attempt(),
      ", kind ", key.kind(), " was never given out");
  if (!strangers_.insert(client).second) {
    return Answer(Response::REFUSED, reason, outcome);
  }
  Refuse(client, key, reason, outcome);
}

void Engine::Impl::On(const UpdateReceived& event, Outcome& outcome) {
  if (!Wants(event.client, event.key) ||
      event.key.kind() != v1::TASK_KIND_TRAIN) {
    return AnswerUnwanted(event.client, event.key, outcome);
  }
  const config::AggregationOptions& options = state_.options().aggregation;
  const std::string fault =
      secure() ? "was sent in the open; this job's updates are summed in "
                 "secret (SecureExchange)"
               : Fault(event.report, options);
  if (!fault.empty()) return Refuse(event.client, event.key, fault, outcome);
  v1::JournalRecord record;
  v1::UpdateAccepted& accepted = *record.mutable_update_accepted();
  *accepted.mutable_key() = event.key;
  accepted.set_client(event.client);
  *accepted.mutable_report() = event.report;
  accepted.set_weight(options.weighting == config::Weighting::kExamples
                          ? event.report.num_examples()
                          : 1);
  NoteReporter(event.client);
  Record(std::move(record), outcome);
  Answer(v1::ReportResponse::ACCEPTED, "", outcome);
}

void Engine::Impl::On(const TaskFailed& event, Outcome& outcome) {
  if (!Wants(event.client, event.key)) {
    return AnswerUnwanted(event.client, event.key, outcome);
  }
  if (event.refused) {
    return Refuse(event.client, event.key, event.reason, outcome);
  }
  if (std::holds_alternative<SecureSum>(state_.phase())) {
    LoseMember(event.client, {event.reason, false, {}}, outcome);
    return Answer(v1::ReportResponse::ACCEPTED, "", outcome);
  }
  answered_.erase(event.client);
  RecordLost(event.client, event.key, {event.reason, false, {}}, outcome);
  Answer(v1::ReportResponse::ACCEPTED, "", outcome);
}

void Engine::Impl::On(const EvaluationReceived& event, Outcome& outcome) {
  if (!Wants(event.client, event.key) ||
      event.key.kind() != v1::TASK_KIND_EVALUATE) {
    return AnswerUnwanted(event.client, event.key, outcome);
  }
  const std::string fault = Fault(event.report);
  if (!fault.empty()) return Refuse(event.client, event.key, fault, outcome);
  v1::JournalRecord record;
  v1::EvaluationAccepted& accepted = *record.mutable_evaluation_accepted();
  *accepted.mutable_key() = event.key;
  accepted.set_client(event.client);
  *accepted.mutable_report() = event.report;
  NoteReporter(event.client);
  Record(std::move(record), outcome);
  Answer(v1::ReportResponse::ACCEPTED, "", outcome);
}

void Engine::Impl::On(const AggregateDone& event, Outcome& outcome) {
  if (const auto* sum = std::get_if<SecureSum>(&state_.phase())) {
    return OnSecureSum(*sum, event, outcome);
  }
  const auto* aggregating = std::get_if<Aggregating>(&state_.phase());
  if (aggregating == nullptr ||
      event.committed.round() != aggregating->round.cohort.key.round() ||
      event.committed.attempt() != aggregating->round.cohort.key.attempt()) {
    return;  // of a round that was stopped meanwhile
  }
  v1::JournalRecord record;
  v1::RoundCommitted& committed = *record.mutable_round_committed();
  committed = event.committed;
  committed.set_job(state_.options().name);
  committed.clear_survivors();
  uint64_t bytes_up = 0;
  uint64_t bytes_down = 0;
  for (const auto& [client, update] : aggregating->round.accepted) {
    committed.add_survivors(client);
    bytes_up = base::SaturatingAdd(bytes_up, update.report.update().size());
    bytes_down =
        base::SaturatingAdd(bytes_down, update.report.bytes_downloaded());
  }
  *committed.mutable_server_state_before() = state_.server_state();
  *committed.mutable_adapter_before() = state_.adapter();
  committed.set_mean_train_loss(MeanTrainLoss(aggregating->round));
  committed.set_bytes_up(bytes_up);
  committed.set_bytes_down(bytes_down);
  Discard(outcome);
  Record(std::move(record), outcome);
}

void Engine::Impl::On(const AggregateFailed& event, Outcome& outcome) {
  const Training* round = state_.round_in_progress();
  if (round == nullptr || std::holds_alternative<Training>(state_.phase()) ||
      event.round != round->cohort.key.round() ||
      event.attempt != round->cohort.key.attempt()) {
    return;
  }
  LoseRound(absl::StrCat("the sum failed: ", event.reason), outcome);
}

void Engine::Impl::On(const TimerFired& event, Outcome&) {
  if (!timer_.has_value() || timer_->id != event.timer) return;
  // A driver may be early by a rounding error.
  now_ = std::max(now_, timer_->at);
  timer_.reset();
}

void Engine::Impl::On(const StopRequested& event, Outcome& outcome) {
  if (std::holds_alternative<Finished>(state_.phase())) return;
  Finish(v1::JobFinished::STOPPED, event.reason, outcome);
}

}  // namespace choir::engine
