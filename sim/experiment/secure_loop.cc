// The part of the event loop that moves the messages of secret sums.
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/sim_random.h"
#include "base/status_macros.h"
#include "sim/experiment/simulation_loop.h"

namespace choir::sim {
namespace {

// As RunOptions::drop_phase counts; 0 is before any message.
int PhaseOf(const v1::SecureClientMessage& message) {
  switch (message.message_case()) {
    case v1::SecureClientMessage::kShare:
      return 1;
    case v1::SecureClientMessage::kMasked:
      return 2;
    case v1::SecureClientMessage::kUnmask:
      return 3;
    case v1::SecureClientMessage::kConfirm:  // not in every session
      return 4;
    default:
      return 0;
  }
}

}  // namespace

absl::optional<int> SimulationLoop::DropPhase(const std::string& client,
                                              const v1::TaskPlan& plan) const {
  const v1::TaskKey& key = plan.key();
  if (key.kind() != v1::TASK_KIND_TRAIN) return absl::nullopt;
  if (run_.drop_phase) {
    return run_.drop_phase(key.round(), key.attempt(), client);
  }
  base::SimRandom random(base::DeriveSeed(
      options_.job.seed, {"dropout", absl::StrCat(key.round()),
                          absl::StrCat(key.attempt()), client}));
  if (options_.dropout_rate <= 0.0 ||
      random.Uniform() >= options_.dropout_rate) {
    return absl::nullopt;
  }
  if (!plan.has_secure_session()) return 0;
  const bool confirms = plan.secure_session().assumptions().adversary() ==
                        v1::SecureAssumptions::SEMI_MALICIOUS;
  return static_cast<int>(random.Below(confirms ? 5 : 4));
}

absl::Status SimulationLoop::JoinSecureRound(Done done) {
  const std::string client = done.result.client;
  Party party;
  party.session = std::move(done.result.session);
  party.silent_from = done.result.silent_from;
  *party.request.mutable_key() = done.key;
  party.request.set_bytes_downloaded(done.result.bytes_downloaded);
  secagg::ClientStep step = party.session->Start();
  parties_[client] = std::move(party);
  ++phase_done_;
  if (run_.on_client) run_.on_client(phase_done_, phase_tasks_, false);
  reporters_.insert(client);
  return Say(client, std::move(step));
}

absl::Status SimulationLoop::Say(const std::string& client,
                                 secagg::ClientStep step) {
  while (true) {
    Party& party = parties_.at(client);
    const int phase = PhaseOf(step.message);
    if (phase > 0 && party.silent_from == phase) {
      // Dropped out; it comes back when the round is over.
      party.session.reset();
      return absl::OkStatus();
    }
    if (step.refused()) {
      const v1::SecureRefusal& refusal = step.message.refusal();
      base::LogWarning("virtual client ", client, " refuses to go on: ",
                       v1::SecureRefusal::Reason_Name(refusal.reason()), ": ",
                       refusal.detail());
    }
    if (!step.payload.empty()) {
      CHOIR_RETURN_IF_ERROR(store_.blobs().Put(step.payload).status());
    }
    secagg::WipeShares(*party.request.mutable_message());
    *party.request.mutable_message() = std::move(step.message);
    const absl::StatusOr<absl::optional<v1::SecureServerMessage>> answer =
        runner_->PostSecure(client, party.request);
    if (absl::IsAborted(answer.status())) {
      Leave(client);
      return absl::OkStatus();
    }
    CHOIR_RETURN_IF_ERROR(answer.status());
    if (!answer->has_value()) return absl::OkStatus();
    absl::optional<secagg::ClientStep> next = party.session->Handle(**answer);
    if (!next.has_value()) {
      if (party.session->finished()) Leave(client);
      return absl::OkStatus();
    }
    step = *std::move(next);
  }
}

absl::Status SimulationLoop::Hear(Heard heard) {
  const auto found = parties_.find(heard.client);
  if (found == parties_.end() || !found->second.session.has_value() ||
      found->second.request.key().round() != heard.key.round() ||
      found->second.request.key().attempt() != heard.key.attempt()) {
    return absl::OkStatus();
  }
  if (!heard.answer.ok()) {
    Leave(heard.client);
    return absl::OkStatus();
  }
  absl::optional<secagg::ClientStep> step =
      found->second.session->Handle(*heard.answer);
  if (step.has_value()) return Say(heard.client, *std::move(step));
  if (found->second.session->finished()) Leave(heard.client);
  return absl::OkStatus();
}

void SimulationLoop::Leave(const std::string& client) {
  parties_.erase(client);
  active_.erase(client);
  back_.push_back(client);
}

void SimulationLoop::LeaveAll() {
  while (!parties_.empty()) {
    const std::string client = parties_.begin()->first;
    Leave(client);
  }
}

}  // namespace choir::sim
