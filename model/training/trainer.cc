#include "model/training/trainer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/sim_random.h"
#include "base/status_macros.h"
#include "model/adapter/lofit.h"
#include "model/adapter/lora_layout.h"
#include "model/loaded_adapter.h"
#include "model/loaded_model.h"
#include "model/objective/example_stream.h"
#include "model/objective/losses.h"
#include "model/objective/sparsity.h"
#include "model/passes.h"
#include "model/quantize/float_formats.h"
#include "model/torch/guard.h"
#include "model/torch/span.h"
#include "model/training/bank_trainer.h"
#include "model/training/device_optimizer.h"
#include "model/training/local_optimizer.h"
#include "model/training/router_training.h"
#include "model/training/training_fit.h"
#include "model/transformer/adapter_ops.h"

namespace choir::model {
namespace {

void Complete(double loss_sum, const RouterTraining& routers,
              const SparsityPlan* sparsity, TrainResult& result) {
  if (result.tokens > 0) {
    result.mean_loss = loss_sum / static_cast<double>(result.tokens);
  }
  result.expert_tokens = routers.expert_tokens();
  if (sparsity != nullptr) {
    result.dense_flops = sparsity->report().dense_flops;
    result.done_flops = sparsity->report().done_flops;
  }
}

class LoraTrainer final : public Trainer {
 public:
  LoraTrainer(std::shared_ptr<const LoadedModel> base,
              const config::AdapterOptions& adapter, codec::Layout layout)
      : base_(std::move(base)),
        adapter_(adapter),
        layout_(std::move(layout)),
        lofit_training_(adapter_, layout_) {
    const Decoder& decoder = base_->decoder();
    const int64_t n = layout_.num_elements();
    const auto options =
        at::TensorOptions().dtype(at::kFloat).device(decoder.device());
    flat_ = at::zeros({n}, options);
    flat_gradient_ = at::zeros({n}, options);
    bank_ = BindAdapter(decoder.config(), adapter_, layout_, flat_);
    PrepareDora(BlockLayersOf(decoder), bank_);
    const LoraBank gradients =
        BindLora(decoder.config(), layout_, flat_gradient_, 1.0);
    // Gradients gather in one flat vector.
    GatherGradients(gradients, bank_);
    BindScore();
  }

  const codec::Layout& layout() const override { return layout_; }

  absl::StatusOr<TrainResult> Train(absl::Span<float> parameters,
                                    absl::Span<const Example> examples,
                                    const config::TrainingOptions& options,
                                    uint64_t seed,
                                    const ProgressFn& progress) override {
    return TorchGuard("training", [&]() -> absl::StatusOr<TrainResult> {
      return TrainImpl(parameters, examples, options, seed, progress);
    });
  }

  absl::StatusOr<std::vector<TrainResult>> TrainBank(
      absl::Span<const BankMember> members,
      const config::TrainingOptions& options,
      const ProgressFn& progress) override {
    return TorchGuard("training",
                      [&]() -> absl::StatusOr<std::vector<TrainResult>> {
                        return TrainBankImpl(members, options, progress);
                      });
  }

  absl::StatusOr<EvalResult> Evaluate(absl::Span<const float> parameters,
                                      absl::Span<const Example> examples,
                                      const config::TrainingOptions& options,
                                      const ProgressFn& progress) override {
    return TorchGuard("evaluation", [&]() -> absl::StatusOr<EvalResult> {
      return EvaluateImpl(parameters, examples, options, progress);
    });
  }

 private:
  absl::Status Check(size_t num_parameters, absl::Span<const Example> examples,
                     const config::TrainingOptions& options) const;
  absl::Status CheckToTrain(size_t num_parameters,
                            absl::Span<const Example> examples,
                            const config::TrainingOptions& options) const;
  int MaxLength(const config::TrainingOptions& options) const {
    return std::min(options.max_sequence_length, base_->max_positions());
  }
  // The classification head, if the adapter has one.
  void BindScore();
  LossContext Context(const config::TrainingOptions& options) const {
    return {base_->decoder(), options, MaxLength(options), score_};
  }
  ForwardOptions Forward(const config::TrainingOptions& options) const {
    ForwardOptions forward;
    forward.lora = &bank_;
    forward.attention = AttentionOf(options);
    forward.checkpointing = options.activation_checkpointing;
    forward.lean = true;
    return forward;
  }
  // How many of `examples`, from the first on, go through the model at once.
  size_t AtOnce(const LossContext& context,
                absl::Span<const Example* const> examples) const;
  // Sum of the losses of one step of `units`; its gradient is left in
  // gradient_.
  absl::StatusOr<double> Step(absl::Span<const Example* const> examples,
                              const config::TrainingOptions& options,
                              int64_t units, ForwardOptions forward,
                              RouterTraining& routers);
  // Lets `plan` see which channels `examples` excite.
  void Measure(absl::Span<const Example* const> examples,
               const config::TrainingOptions& options, SparsityPlan& plan);
  // Gives the model `parameters`, in the adapter's precision.
  void Upload(absl::Span<const float> parameters);
  bool rounds() const {
    return adapter_.precision == config::AdapterPrecision::kBf16;
  }
  // What an adapter of 16 bits makes of `values`; nothing changes if it has 32.
  void Round(absl::Span<float> values) const {
    if (!rounds()) return;
    for (float& value : values) value = RoundToBf16(value);
  }
  // Whether the optimiser works where the model is. LoFiT's penalty and what it
  // keeps untrained are the CPU's.
  bool on_device() const {
    return !flat_.is_cpu() && adapter_.kind != config::AdapterKind::kLofit;
  }
  absl::Status Optimize(const config::TrainingOptions& options);
  // What a call of training begins with, and ends with: the values.
  void Begin(absl::Span<const float> parameters);
  absl::Status Finish(absl::Span<float> parameters);
  // What of the kind of adapter follows from the values that a call begins
  // with: which heads LoFiT tunes.
  void PrepareKind(absl::Span<const float> parameters);
  absl::StatusOr<TrainResult> TrainImpl(absl::Span<float> parameters,
                                        absl::Span<const Example> examples,
                                        const config::TrainingOptions& options,
                                        uint64_t seed,
                                        const ProgressFn& progress);
  absl::StatusOr<std::vector<TrainResult>> TrainBankImpl(
      absl::Span<const BankMember> members,
      const config::TrainingOptions& options, const ProgressFn& progress);
  // Adds the loss of `examples`, and which labels are right.
  void AddLoss(const config::TrainingOptions& options,
               const ForwardOptions& forward,
               absl::Span<const Example* const> examples, EvalResult& result);
  absl::StatusOr<EvalResult> EvaluateImpl(
      absl::Span<const float> parameters, absl::Span<const Example> examples,
      const config::TrainingOptions& options, const ProgressFn& progress);

  const std::shared_ptr<const LoadedModel> base_;  // shared by all trainers
  const config::AdapterOptions adapter_;
  const codec::Layout layout_;
  at::Tensor flat_, flat_gradient_;  // where the model is
  // What the optimiser moves, where it works: flat_ itself, or what flat_ is a
  // copy of, rounded or on another device.
  at::Tensor values_;
  LoraBank bank_;     // views into flat_
  at::Tensor score_;  // view into flat_, or undefined
  LofitState lofit_;
  const LofitTraining lofit_training_;
  bool said_alone_ = false;  // that clients do not share a pass, and why
  LocalOptimizer optimizer_;
  DeviceOptimizer device_optimizer_;
};

absl::Status LoraTrainer::Check(size_t num_parameters,
                                absl::Span<const Example> examples,
                                const config::TrainingOptions& options) const {
  if (static_cast<int64_t>(num_parameters) != layout_.num_elements()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the adapter has ", layout_.num_elements(),
                     " parameters, but ", num_parameters, " were given"));
  }
  if (examples.empty()) {
    return absl::InvalidArgumentError("there are no examples to work on");
  }
  if (base_->decoder().config().num_labels > 0 &&
      options.objective != config::Objective::kClassification) {
    return absl::InvalidArgumentError(
        "the base model is a classifier: it has no head for the next token; "
        "set training.objective to \"classification\" or take another base");
  }
  return CheckForLoss(examples, Context(options));
}

absl::Status LoraTrainer::CheckToTrain(
    size_t num_parameters, absl::Span<const Example> examples,
    const config::TrainingOptions& options) const {
  CHOIR_RETURN_IF_ERROR(Check(num_parameters, examples, options));
  const Decoder& decoder = base_->decoder();
  return CheckTrainingFits(decoder.config(), IsPacked(decoder), adapter_,
                           options);
}

void LoraTrainer::BindScore() {
  for (size_t i = 0; i < layout_.tensors().size(); ++i) {
    const codec::TensorSpec& spec = layout_.tensors()[i];
    if (spec.name != ScoreName()) continue;
    const auto view = [&](const at::Tensor& flat) {
      return flat.narrow(0, layout_.offset(i), spec.num_elements())
          .view(spec.shape)
          .detach();
    };
    score_ = view(flat_).set_requires_grad(true);
    score_.mutable_grad() = view(flat_gradient_);
  }
}

void LoraTrainer::Upload(absl::Span<const float> parameters) {
  if (flat_.is_cpu()) {
    std::memcpy(flat_.data_ptr<float>(), parameters.data(),
                parameters.size() * sizeof(float));
    Round(SpanOf(flat_));
    return;
  }
  const at::Tensor host =
      at::from_blob(const_cast<float*>(parameters.data()),
                    {static_cast<int64_t>(parameters.size())}, at::kFloat);
  flat_.copy_(rounds() ? host.to(at::kBFloat16) : host);
}

void LoraTrainer::PrepareKind(absl::Span<const float> parameters) {
  if (adapter_.kind != config::AdapterKind::kLofit) return;
  const ModelConfig& config = base_->decoder().config();
  lofit_ = LofitStateOf(config, adapter_, layout_, parameters);
  SetLofitState(config, lofit_, bank_);
}

size_t LoraTrainer::AtOnce(const LossContext& context,
                           absl::Span<const Example* const> examples) const {
  const size_t pass = std::min(examples.size(),
                               static_cast<size_t>(context.options.batch_size));
  if (!flat_.is_cpu()) return pass;
  const int64_t most = MostTokensAtOnce(base_->decoder().config(), adapter_,
                                        context.options.router);
  size_t n = 1;
  int64_t tokens = TotalTokens(context, examples.first(1));
  for (; n < pass; ++n) {
    tokens += TotalTokens(context, examples.subspan(n, 1));
    if (tokens > most) break;
  }
  return n;
}

absl::StatusOr<double> LoraTrainer::Step(
    absl::Span<const Example* const> examples,
    const config::TrainingOptions& options, int64_t units,
    ForwardOptions forward, RouterTraining& routers) {
  LossContext context = Context(options);
  context.whole_examples = routers.whole_examples();
  const uint64_t dropout_seed = forward.dropout_seed;
  flat_gradient_.zero_();
  double loss = 0.0;
  size_t end = 0;
  for (size_t i = 0; i < examples.size(); i = end) {
    end = i + AtOnce(context, examples.subspan(i));
    const auto part_examples = examples.subspan(i, end - i);
    const int64_t part_units = TotalUnits(context, part_examples);
    if (part_units == 0) continue;
    forward.dropout_seed = dropout_seed + i * 1000003;
    routers.Prepare(forward);
    const at::Tensor part =
        ObjectiveLoss(context, forward, part_examples, 1.0 / units);
    const double share = static_cast<double>(part_units) / units;
    torch::autograd::backward({routers.AddLosses(part, share)}, {});
    // Only now: a GPU would have stood still between the passes.
    const double value = part.item<double>();
    if (!std::isfinite(value)) {
      return absl::AbortedError(
          "the training loss is no longer a finite number; lower the learning "
          "rate or set max_grad_norm");
    }
    loss += value;
  }
  return loss * static_cast<double>(units);
}

absl::Status LoraTrainer::Optimize(const config::TrainingOptions& options) {
  at::NoGradGuard no_grad;
  if (on_device()) {
    CHOIR_RETURN_IF_ERROR(
        device_optimizer_.Step(options, flat_gradient_, values_));
  } else {
    const at::Tensor gradient = flat_gradient_.cpu();
    lofit_training_.AddPenalty(lofit_, SpanOf(values_), SpanOf(gradient));
    CHOIR_RETURN_IF_ERROR(
        optimizer_.Step(options, SpanOf(gradient), SpanOf(values_)));
  }
  if (!values_.is_same(flat_)) {
    flat_.copy_(rounds() ? values_.to(at::kBFloat16) : values_);
  }
  return absl::OkStatus();
}

void LoraTrainer::Begin(absl::Span<const float> parameters) {
  PrepareKind(parameters);
  Upload(parameters);
  values_ = on_device() ? flat_ : flat_.cpu();
  if (rounds()) values_ = values_.clone();
  if (on_device()) {
    device_optimizer_.Reset(values_);
  } else {
    optimizer_.Reset(parameters.size());
  }
}

absl::Status LoraTrainer::Finish(absl::Span<float> parameters) {
  const at::Tensor host = values_.cpu();
  const absl::Span<float> values = SpanOf(host);
  Round(values);
  CHOIR_RETURN_IF_ERROR(CheckFinite(values));
  lofit_training_.KeepUntrained(lofit_, parameters, values);
  std::copy(values.begin(), values.end(), parameters.begin());
  return absl::OkStatus();
}

void LoraTrainer::Measure(absl::Span<const Example* const> examples,
                          const config::TrainingOptions& options,
                          SparsityPlan& plan) {
  at::NoGradGuard no_grad;
  ForwardOptions forward = Forward(options);
  forward.activity = plan.activity();
  HiddenStates(Context(options), forward, examples);
  plan.Measured();
}

absl::StatusOr<TrainResult> LoraTrainer::TrainImpl(
    absl::Span<float> parameters, absl::Span<const Example> examples,
    const config::TrainingOptions& options, uint64_t seed,
    const ProgressFn& progress) {
  CHOIR_RETURN_IF_ERROR(CheckToTrain(parameters.size(), examples, options));
  Begin(parameters);
  const TrainingLength length(options, examples.size());
  const int steps = length.steps;
  const uint64_t dropout_seed = base::DeriveSeed(seed, {"dropout"});
  ExampleStream stream(examples.size(), seed);
  ForwardOptions forward = Forward(options);
  forward.dropout = adapter_.dropout;
  std::unique_ptr<SparsityPlan> sparsity;
  if (options.sparsity.max_rate > 0.0) {
    sparsity =
        std::make_unique<SparsityPlan>(base_->decoder(), options, steps, seed);
  }
  RouterTraining routers(base_->decoder().config(), options.router);
  TrainResult result;
  double loss_sum = 0.0;
  std::vector<const Example*> chosen;
  for (int step = 0; step < steps; ++step) {
    // Epochs end with a smaller batch; steps run on into the next epoch.
    const size_t n = length.runs_on ? length.examples_per_step
                                    : std::min(length.examples_per_step,
                                               stream.left_in_epoch());
    chosen.clear();
    for (size_t i = 0; i < n; ++i) chosen.push_back(&examples[stream.Next()]);
    const int64_t units = TotalUnits(Context(options), chosen);
    result.examples_seen += n;
    ++result.steps;
    if (units > 0) {
      forward.dropout_seed =
          dropout_seed + static_cast<uint64_t>(step) * 0x51ed2701;
      if (sparsity) {
        if (sparsity->MustMeasure(step)) Measure(chosen, options, *sparsity);
        forward.channels = sparsity->Channels(step);
        sparsity->Count(step, TotalTokens(Context(options), chosen));
      }
      CHOIR_ASSIGN_OR_RETURN(const double loss,
                             Step(chosen, options, units, forward, routers));
      loss_sum += loss;
      result.tokens += static_cast<uint64_t>(units);
      CHOIR_RETURN_IF_ERROR(Optimize(options));
      routers.StepDone();
    }
    if (progress) CHOIR_RETURN_IF_ERROR(progress(step + 1, steps));
  }
  CHOIR_RETURN_IF_ERROR(Finish(parameters));
  Complete(loss_sum, routers, sparsity.get(), result);
  return result;
}

absl::StatusOr<std::vector<TrainResult>> LoraTrainer::TrainBankImpl(
    absl::Span<const BankMember> members,
    const config::TrainingOptions& options, const ProgressFn& progress) {
  for (const BankMember& member : members) {
    CHOIR_RETURN_IF_ERROR(
        CheckToTrain(member.parameters.size(), member.examples, options));
  }
  if (members.size() > 1) {
    const absl::Status shared = CheckSharedPass(*base_, adapter_, options);
    if (shared.ok()) {
      return TrainInOnePass(*base_, adapter_, layout_, members, options,
                            progress);
    }
    if (!said_alone_) {
      base::LogInfo(shared.message(), "; they are trained one after another");
    }
    said_alone_ = true;
  }
  // Results are handed over together, so that an error leaves none.
  std::vector<TrainResult> results;
  std::vector<std::vector<float>> values;
  for (const BankMember& member : members) {
    values.emplace_back(member.parameters.begin(), member.parameters.end());
    CHOIR_ASSIGN_OR_RETURN(
        TrainResult result,
        TrainImpl(absl::MakeSpan(values.back()), member.examples, options,
                  member.seed, progress));
    results.push_back(std::move(result));
  }
  for (size_t i = 0; i < members.size(); ++i) {
    std::copy(values[i].begin(), values[i].end(),
              members[i].parameters.begin());
  }
  return results;
}

void LoraTrainer::AddLoss(const config::TrainingOptions& options,
                          const ForwardOptions& forward,
                          absl::Span<const Example* const> examples,
                          EvalResult& result) {
  if (options.objective != config::Objective::kClassification) {
    result.loss_sum +=
        ObjectiveLoss(Context(options), forward, examples, 1.0).item<double>();
    return;
  }
  const ClassOutcome outcome = Classify(Context(options), forward, examples);
  result.loss_sum += outcome.loss_sum;
  for (size_t i = 0; i < examples.size(); ++i) {
    result.correct += outcome.predicted[i] == examples[i]->label ? 1 : 0;
  }
}

absl::StatusOr<EvalResult> LoraTrainer::EvaluateImpl(
    absl::Span<const float> parameters, absl::Span<const Example> examples,
    const config::TrainingOptions& options, const ProgressFn& progress) {
  CHOIR_RETURN_IF_ERROR(Check(parameters.size(), examples, options));
  at::NoGradGuard no_grad;
  PrepareKind(parameters);
  Upload(parameters);
  const ForwardOptions forward = Forward(options);
  const size_t batch_size = static_cast<size_t>(options.batch_size);
  const int steps =
      static_cast<int>((examples.size() + batch_size - 1) / batch_size);
  EvalResult result;
  result.num_examples = examples.size();
  std::vector<const Example*> chosen;
  for (int step = 0; step < steps; ++step) {
    chosen.clear();
    for (const Example& example :
         examples.subspan(static_cast<size_t>(step) * batch_size, batch_size)) {
      chosen.push_back(&example);
    }
    const int64_t units = TotalUnits(Context(options), chosen);
    if (units > 0) {
      AddLoss(options, forward, chosen, result);
      result.tokens += static_cast<uint64_t>(units);
    }
    if (progress) CHOIR_RETURN_IF_ERROR(progress(step + 1, steps));
  }
  if (!std::isfinite(result.loss_sum)) {
    return absl::AbortedError("the evaluation loss is not a finite number");
  }
  return result;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(
    std::shared_ptr<const BaseModel> base,
    const config::AdapterOptions& adapter) {
  if (!adapter.uniform()) {
    return absl::InvalidArgumentError(
        "the adapter has ranks or alphas of single layers (rank_pattern, "
        "alpha_pattern); adapters are trained with one rank and one alpha");
  }
  auto loaded = std::dynamic_pointer_cast<const LoadedModel>(std::move(base));
  if (loaded == nullptr) {
    return absl::InvalidArgumentError("a trainer needs a loaded base model");
  }
  CHOIR_ASSIGN_OR_RETURN(codec::Layout layout,
                         AdapterLayout(loaded->decoder().config(), adapter));
  return TorchGuard("making a trainer",
                    [&]() -> absl::StatusOr<std::unique_ptr<Trainer>> {
                      return std::make_unique<LoraTrainer>(
                          std::move(loaded), adapter, std::move(layout));
                    });
}

}  // namespace choir::model
