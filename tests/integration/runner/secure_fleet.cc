#include "tests/integration/runner/secure_fleet.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/sim_random.h"
#include "base/status_macros.h"
#include "coordinator/runner/base_model.h"
#include "coordinator/runner/secure_round.h"
#include "model/adapter/peft_folder.h"
#include "privacy/secagg/round_spec.h"
#include "proto/codec/flat_update.h"
#include "proto/codec/plan_digest.h"

namespace choir::runner {

// Remembers what it gave out.
class SecureFleet::Recorder final : public base::SecureRandom {
 public:
  Recorder(uint64_t seed, std::vector<std::string>& secrets)
      : random_(seed), secrets_(secrets) {}
  void Fill(absl::Span<uint8_t> out) override {
    random_.Fill(out);
    if (out.size() < 16) return;
    secrets_.emplace_back(reinterpret_cast<const char*>(out.data()), 16);
  }

 private:
  secagg::SeededRandom random_;
  std::vector<std::string>& secrets_;
};

SecureFleet::SecureFleet(std::vector<std::string> clients, store::Store& store,
                         base::ManualClock& clock, uint64_t seed)
    : names_(std::move(clients)),
      store_(store),
      clock_(clock),
      authority_(7),
      verifier_(authority_),
      random_(seed * 1000) {
  for (const std::string& name : names_) {
    const uint64_t its = base::DeriveSeed(seed, {name});
    Client& client = clients_[name];
    client.signer = std::make_unique<secagg::TestSigner>(name, its, authority_);
    client.random = std::make_unique<Recorder>(its + 1, secrets_);
  }
}

SecureFleet::~SecureFleet() = default;

absl::Status SecureFleet::Start(const config::JobOptions& options,
                                const RunnerOptions& runner_options,
                                base::ThreadPool* pool) {
  options_ = options;
  RunnerHooks hooks;
  hooks.send_task = [this](const std::string& client, v1::TaskPlan plan) {
    clients_[client].plan = std::move(plan);
  };
  hooks.on_record = [this](const v1::JournalRecord& record) {
    records_.push_back(record);
  };
  hooks.send_secure = [this](
                          const std::string& client, const v1::TaskKey&,
                          const absl::StatusOr<v1::SecureServerMessage>& said) {
    if (clients_[client].session.has_value()) clients_[client].answer = said;
  };
  RunnerOptions secure = runner_options;
  secure.verifier = &verifier_;
  secure.random = &random_;
  CHOIR_ASSIGN_OR_RETURN(runner_,
                         JobRunner::Start(options, secure, store_, clock_, pool,
                                          std::move(hooks)));
  CHOIR_ASSIGN_OR_RETURN(
      layout_, LayoutOfJob(options, runner_->facts(), store_.blobs()));
  return absl::OkStatus();
}

absl::StatusOr<ClientUpdate> SecureFleet::UpdateOf(
    const v1::TaskPlan& plan) const {
  CHOIR_ASSIGN_OR_RETURN(const std::string bytes,
                         store_.blobs().Read(plan.adapter().digest()));
  CHOIR_ASSIGN_OR_RETURN(const std::vector<float> adapter,
                         model::DecodeAdapterFile(bytes, layout_));
  base::SimRandom random(plan.seed());
  ClientUpdate update;
  update.values.resize(adapter.size());
  for (size_t i = 0; i < adapter.size(); ++i) {
    update.values[i] =
        static_cast<float>(0.01 * (random.Uniform() - 0.5)) - 0.1f * adapter[i];
  }
  update.weight = options_.aggregation.weighting == config::Weighting::kUniform
                      ? 1
                      : 1 + plan.seed() % 20;
  return update;
}

aggregate::IntegerSum SecureFleet::PlainSum(
    uint32_t round, const std::vector<std::string>& names) const {
  aggregate::IntegerSum sum = *aggregate::IntegerSum::Create(
      layout_, options_.aggregation.fixed_point_bits);
  for (const std::string& name : names) {
    const ClientUpdate& update = updates_.at(round).at(name);
    CHOIR_CHECK(sum.Add(update.values, update.weight).ok());
  }
  return sum;
}

absl::Status SecureFleet::Begin(Client& client) {
  const v1::TaskPlan& plan = *client.plan;
  CHOIR_ASSIGN_OR_RETURN(const ClientUpdate update, UpdateOf(plan));
  updates_[plan.key().round()][client.signer->name()] = update;
  secrets_.push_back(
      std::string(reinterpret_cast<const char*>(update.values.data()), 16));
  v1::SecureSession session = plan.secure_session();
  if (mislead_at_start) mislead_at_start(client.signer->name(), session);
  const secagg::ContributionSpec spec =
      secagg::RoundSpec(plan.aggregation(), plan.secure_aggregation(), session,
                        static_cast<uint64_t>(layout_.num_elements()));
  secagg::Contribution contribution;
  contribution.values = update.values;
  contribution.weight = update.weight;
  contribution.mean_loss = 2.0;
  contribution.rounding_seed = client.random->NextUint64();
  CHOIR_ASSIGN_OR_RETURN(secagg::MaskedVector input,
                         secagg::EncodeContribution(spec, contribution));
  secrets_.push_back(
      input.Encode().substr(secagg::kMaskedVectorHeaderBytes, 16));
  secagg::ClientExpectations expectations;
  expectations.model_digest = codec::ModelDigest(plan);
  expectations.config_digest = codec::ConfigDigest(plan);
  client.session.emplace(
      session, expectations, std::move(input),
      secagg::ClientEnvironment{*client.signer, verifier_, client.history,
                                *client.random});
  client.ready = client.session->Start();
  return absl::OkStatus();
}

void SecureFleet::End(Client& client) {
  client.session.reset();
  client.ready.reset();
  client.answer.reset();
  client.plan.reset();
}

void SecureFleet::NoteSecrets(const secagg::ClientStep& step) {
  for (const auto& share : step.message.unmask().shares()) {
    for (const std::string& secret : {share.self_mask(), share.mask_key()}) {
      if (secret.size() >= 16) secrets_.push_back(secret);
    }
  }
  for (const auto& share : step.message.share().shares()) {
    secrets_.push_back(share.sealed());
  }
  if (step.payload.size() > 32) {
    secrets_.push_back(
        step.payload.substr(secagg::kMaskedVectorHeaderBytes, 16));
  }
}

absl::Status SecureFleet::Deliver(const std::string& name) {
  Client& client = clients_[name];
  const v1::TaskKey key = client.plan->key();
  v1::SecureExchangeRequest request;
  *request.mutable_key() = key;
  *request.mutable_message() = client.ready->message;
  request.set_bytes_downloaded(10);
  std::string payload = client.ready->payload;
  NoteSecrets(*client.ready);
  if (client.ready->refused()) {
    refusals.push_back(client.ready->message.refusal());
  }
  if (tamper) tamper(name, request, payload);
  for (int i = 0; i < times; ++i) {
    if (!payload.empty()) {
      CHOIR_RETURN_IF_ERROR(store_.blobs().Put(payload).status());
    }
    auto answer = runner_->PostSecure(name, request);
    if (absl::IsUnavailable(answer.status())) return answer.status();
    if (!answer.ok()) {
      client.answer = answer.status();
    } else if (answer->has_value()) {
      client.answer = **answer;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> SecureFleet::Act(const std::string& name) {
  Client& client = clients_[name];
  if (client.answer.has_value()) {
    absl::StatusOr<v1::SecureServerMessage> answer = *std::move(client.answer);
    client.answer.reset();
    client.ready.reset();
    if (absl::IsInvalidArgument(answer.status())) {
      if (stubborn.count(name) == 0) return answer.status();
      client.gone = client.plan->key();
      End(client);
      return true;
    }
    if (answer.ok()) {
      if (mislead) mislead(name, *answer);
      client.ready = client.session->Handle(*answer);
    }
    if (!client.ready.has_value()) End(client);
  }
  if (client.plan.has_value() && !client.session.has_value() &&
      client.plan->has_secure_session()) {
    CHOIR_RETURN_IF_ERROR(Begin(client));
  }
  if (client.ready.has_value()) {
    const std::string phase(PhaseOf(client.ready->message));
    if (vanishes && vanishes(name, client.plan->key(), phase)) {
      client.gone = client.plan->key();
      End(client);
      return true;
    }
    const bool refused = client.ready->refused();
    CHOIR_RETURN_IF_ERROR(Deliver(name));
    client.ready.reset();
    if (refused) End(client);
    return true;
  }
  if (client.session.has_value()) return false;  // waits
  if (client.plan.has_value()) {
    v1::EvaluationReport report;
    report.set_tokens(10);
    report.set_loss_sum(30.0 - client.plan->key().round());
    CHOIR_RETURN_IF_ERROR(
        runner_
            ->Post(engine::EvaluationReceived{name, client.plan->key(), report})
            .status());
    client.plan.reset();
    return true;
  }
  if (client.gone.has_value()) {
    const v1::JournalRecord& last = records_.back();
    const bool over = last.has_round_committed() || last.has_round_lost() ||
                      last.has_evaluation_started();
    if (!over) return false;
    client.gone.reset();
  }
  CHOIR_RETURN_IF_ERROR(runner_->Post(engine::ClientArrived{name}).status());
  return false;
}

absl::Status SecureFleet::Turn() {
  bool worked = false;
  for (const std::string& name : names_) {
    CHOIR_ASSIGN_OR_RETURN(const bool acted, Act(name));
    worked |= acted;
  }
  for (const auto& [name, client] : clients_) {
    worked |= client.answer.has_value() || client.ready.has_value() ||
              (client.plan.has_value() && !client.session.has_value());
  }
  if (worked || runner_->finished()) return absl::OkStatus();
  const absl::optional<absl::Time> wakeup = runner_->next_wakeup();
  if (!wakeup.has_value()) {
    return absl::DeadlineExceededError(
        absl::StrCat("stuck: ", runner_->progress().waiting_for));
  }
  clock_.SetTime(std::max(*wakeup, clock_.Now()));
  return runner_->Poll();
}

absl::Status SecureFleet::Run() {
  for (int turns = 0; !runner_->finished(); ++turns) {
    if (turns > 10000) return absl::DeadlineExceededError("no end");
    CHOIR_RETURN_IF_ERROR(Turn());
  }
  return absl::OkStatus();
}

}  // namespace choir::runner
