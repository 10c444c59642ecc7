#include "sim/experiment/bank_pass.h"

#include <algorithm>
#include <utility>

#include "model/adapter/peft_folder.h"
#include "proto/config/job_options.h"

namespace choir::sim {

// Answers the one call whose result is known; everything else is the real
// trainer's work.
class BankPass::Trained final : public model::Trainer {
 public:
  Trained(model::Trainer& real, uint64_t seed, std::vector<float> start,
          std::vector<float> values, model::TrainResult result)
      : real_(real),
        seed_(seed),
        start_(std::move(start)),
        values_(std::move(values)),
        result_(std::move(result)) {}

  const codec::Layout& layout() const override { return real_.layout(); }

  absl::StatusOr<model::TrainResult> Train(
      absl::Span<float> parameters, absl::Span<const model::Example> examples,
      const config::TrainingOptions& options, uint64_t seed,
      const model::ProgressFn& progress) override {
    if (seed != seed_ || !std::equal(start_.begin(), start_.end(),
                                     parameters.begin(), parameters.end())) {
      return real_.Train(parameters, examples, options, seed, progress);
    }
    std::copy(values_.begin(), values_.end(), parameters.begin());
    return result_;
  }

  absl::StatusOr<std::vector<model::TrainResult>> TrainBank(
      absl::Span<const model::BankMember> members,
      const config::TrainingOptions& options,
      const model::ProgressFn& progress) override {
    return real_.TrainBank(members, options, progress);
  }

  absl::StatusOr<model::EvalResult> Evaluate(
      absl::Span<const float> parameters,
      absl::Span<const model::Example> examples,
      const config::TrainingOptions& options,
      const model::ProgressFn& progress) override {
    return real_.Evaluate(parameters, examples, options, progress);
  }

 private:
  model::Trainer& real_;
  const uint64_t seed_;
  const std::vector<float> start_, values_;
  const model::TrainResult result_;
};

BankPass::BankPass(model::Trainer& trainer) : trainer_(trainer) {}

BankPass::~BankPass() = default;

void BankPass::Add(const v1::TaskPlan& plan, absl::string_view adapter_bytes,
                   std::shared_ptr<const client::LocalData> data) {
  Client& client = clients_.emplace_back();
  client.seed = plan.seed();
  client.data = std::move(data);
  auto training = config::ResolveTraining(plan.training());
  auto start = model::DecodeAdapterFile(adapter_bytes, trainer_.layout());
  client.fits = training.ok() && start.ok() && !client.data->train.empty() &&
                plan.layout_digest() == trainer_.layout().digest();
  if (!client.fits) return;
  client.training = *std::move(training);
  client.start = *std::move(start);
  client.values = client.start;
}

void BankPass::Train(const model::ProgressFn& progress) {
  std::vector<model::BankMember> members;
  std::vector<Client*> together;
  for (Client& client : clients_) {
    if (!client.fits) continue;
    together.push_back(&client);
    members.push_back(
        {absl::MakeSpan(client.values), client.data->train, client.seed});
  }
  if (members.size() < 2) return;
  // A round's plans have the same training settings.
  auto results =
      trainer_.TrainBank(members, together.front()->training, progress);
  for (size_t i = 0; results.ok() && i < together.size(); ++i) {
    Client& client = *together[i];
    client.trained = std::make_unique<Trained>(
        trainer_, client.seed, std::move(client.start),
        std::move(client.values), std::move((*results)[i]));
  }
}

model::Trainer& BankPass::TrainerOf(size_t index) {
  if (index < clients_.size() && clients_[index].trained != nullptr) {
    return *clients_[index].trained;
  }
  return trainer_;
}

}  // namespace choir::sim
