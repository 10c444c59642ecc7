#include "sim/experiment/pooled.h"

#include <cmath>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/files.h"
#include "base/sha256.h"
#include "base/sim_random.h"
#include "base/status_macros.h"
#include "model/adapter/lora_layout.h"
#include "model/adapter/peft_folder.h"
#include "model/training/training_fit.h"
#include "nlohmann/json.hpp"
#include "sim/experiment/population.h"
#include "sim/experiment/simulation.h"

namespace choir::sim {
namespace {

struct HeldOut {
  double loss = 0.0;
  double accuracy = std::numeric_limits<double>::quiet_NaN();
};

absl::StatusOr<HeldOut> EvaluateHeldOut(
    model::Trainer& trainer, absl::Span<const float> parameters,
    absl::Span<const model::Example> examples,
    const config::TrainingOptions& training) {
  CHOIR_ASSIGN_OR_RETURN(
      const model::EvalResult result,
      trainer.Evaluate(parameters, examples, training,
                       [](int, int) { return absl::OkStatus(); }));
  const double units = static_cast<double>(result.tokens);
  HeldOut heldout;
  heldout.loss = result.loss_sum / units;
  if (training.objective == config::Objective::kClassification) {
    heldout.accuracy = static_cast<double>(result.correct) / units;
  }
  return heldout;
}

absl::StatusOr<std::vector<float>> FreshAdapter(const config::JobOptions& job,
                                                const codec::Layout& layout) {
  CHOIR_ASSIGN_OR_RETURN(
      const model::ModelConfig config,
      model::LoadModelConfig(base::JoinPath(job.base_model, "config.json")));
  return model::InitialAdapterOf(job.base_model, config, job.adapter, layout,
                                 base::DeriveSeed(job.seed, {"adapter"}));
}

client::LocalData DataOfAll(const Population& population,
                            const model::Tokenizer& tokenizer,
                            const config::TrainingOptions& training) {
  client::LocalData all;
  for (size_t i = 0; i < population.size(); ++i) {
    const auto data = population.Encoded(i, tokenizer, training);
    all.train.insert(all.train.end(), data->train.begin(), data->train.end());
    all.heldout.insert(all.heldout.end(), data->heldout.begin(),
                       data->heldout.end());
  }
  return all;
}

// LoFiT chooses heads in the first half of its steps, then tunes them.
absl::StatusOr<model::TrainResult> Train(
    const config::JobOptions& job, config::TrainingOptions training,
    absl::Span<const model::Example> examples, model::Trainer& trainer,
    std::vector<float>& parameters, const model::ProgressFn& progress) {
  const int steps = training.local_steps;
  if (job.adapter.kind == config::AdapterKind::kLofit && steps > 1) {
    training.local_steps = steps / 2;
    CHOIR_RETURN_IF_ERROR(
        trainer
            .Train(absl::MakeSpan(parameters), examples, training,
                   base::DeriveSeed(job.seed, {"pooled", "heads"}), progress)
            .status());
    training.local_steps = steps - steps / 2;
  }
  return trainer.Train(absl::MakeSpan(parameters), examples, training,
                       base::DeriveSeed(job.seed, {"pooled"}), progress);
}

}  // namespace

absl::StatusOr<PooledResult> TrainPooled(const ExperimentOptions& options,
                                         int steps,
                                         const model::ProgressFn& progress) {
  if (steps < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("steps is ", steps, "; it must be at least 1"));
  }
  const absl::Time begin = absl::Now();
  CHOIR_ASSIGN_OR_RETURN(const std::unique_ptr<Population> population,
                         Population::Create(options.clients));
  CHOIR_RETURN_IF_ERROR(population->Check(options.job.training));
  if (population->heldout_examples() == 0) {
    return absl::InvalidArgumentError(
        "no held-out examples to measure on; raise clients.data.holdout");
  }
  CHOIR_RETURN_IF_ERROR(model::CheckJobFits(options.job, options.precision));
  CHOIR_ASSIGN_OR_RETURN(
      const std::shared_ptr<const model::BaseModel> base,
      model::BaseModel::Load(options.job.base_model, HowToLoad(options)));
  CHOIR_RETURN_IF_ERROR(
      population->CheckConversations(base->tokenizer(), options.job.training));
  CHOIR_ASSIGN_OR_RETURN(const std::unique_ptr<model::Trainer> trainer,
                         model::Trainer::Create(base, options.job.adapter));
  const client::LocalData all =
      DataOfAll(*population, base->tokenizer(), options.job.training);
  config::TrainingOptions training = options.job.training;
  training.local_steps = steps;
  training.local_epochs = 0;
  CHOIR_ASSIGN_OR_RETURN(std::vector<float> parameters,
                         FreshAdapter(options.job, trainer->layout()));

  PooledResult result;
  CHOIR_ASSIGN_OR_RETURN(
      const HeldOut before,
      EvaluateHeldOut(*trainer, parameters, all.heldout, training));
  CHOIR_ASSIGN_OR_RETURN(
      const model::TrainResult trained,
      Train(options.job, training, all.train, *trainer, parameters, progress));
  CHOIR_ASSIGN_OR_RETURN(
      const HeldOut after,
      EvaluateHeldOut(*trainer, parameters, all.heldout, training));
  result.heldout_loss_before = before.loss;
  result.heldout_loss = after.loss;
  result.heldout_accuracy_before = before.accuracy;
  result.heldout_accuracy = after.accuracy;
  result.steps = trained.steps;
  result.train_loss = trained.mean_loss;
  if (trained.dense_flops > 0.0) {
    result.flops_saved = 1.0 - trained.done_flops / trained.dense_flops;
  }
  result.num_clients = population->size();
  result.train_examples = population->train_examples();
  result.heldout_examples = population->heldout_examples();
  result.adapter_digest =
      base::Sha256Hex(model::EncodeAdapterFile(trainer->layout(), parameters));
  result.wall_seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  result.peak_rss_mib = PeakRssMib();
  return result;
}

std::string PooledJson(const ExperimentOptions& options,
                       const PooledResult& result) {
  nlohmann::ordered_json json;
  json["experiment"] = options.job.name;
  json["pooled"] = true;
  json["steps"] = result.steps;
  json["heldout_loss_before"] = result.heldout_loss_before;
  json["heldout_loss"] = result.heldout_loss;
  if (std::isfinite(result.heldout_accuracy)) {
    json["heldout_accuracy_before"] = result.heldout_accuracy_before;
    json["heldout_accuracy"] = result.heldout_accuracy;
  }
  json["train_loss"] = result.train_loss;
  if (options.job.training.sparsity.max_rate > 0.0) {
    json["flops_saved"] = result.flops_saved;
  }
  json["adapter_digest"] = absl::StrCat("sha256:", result.adapter_digest);
  json["clients"] = result.num_clients;
  json["train_examples"] = result.train_examples;
  json["heldout_examples"] = result.heldout_examples;
  json["wall_seconds"] = result.wall_seconds;
  json["peak_rss_mib"] = result.peak_rss_mib;
  return json.dump();
}

}  // namespace choir::sim
