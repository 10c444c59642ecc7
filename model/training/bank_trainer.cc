#include "model/training/bank_trainer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/sim_random.h"
#include "base/status_macros.h"
#include "model/objective/example_stream.h"
#include "model/objective/losses.h"
#include "model/objective/packing.h"
#include "model/torch/span.h"
#include "model/training/local_optimizer.h"
#include "model/transformer/adapter_ops.h"
#include "model/transformer/lora_runs.h"

namespace choir::model {
namespace {

// One member's state.
struct Client {
  Client(const BankMember& given, const config::TrainingOptions& training)
      : member(given),
        stream(given.examples.size(), given.seed),
        dropout_seed(base::DeriveSeed(given.seed, {"dropout"})),
        length(training, given.examples.size()) {
    optimizer.Reset(given.parameters.size());
  }

  const BankMember& member;
  ExampleStream stream;
  const uint64_t dropout_seed;
  const TrainingLength length;
  LocalOptimizer optimizer;
  at::Tensor values;               // what the optimiser moves, on the CPU
  at::Tensor flat, flat_gradient;  // where the model is; `values` if there
  LoraBank bank;                   // views into flat
  TrainResult result;
  double loss_sum = 0.0;
  // Of the present step:
  std::vector<const Example*> chosen;
  int64_t units = 0;
};

class BankTraining {
 public:
  BankTraining(const LoadedModel& base, const config::AdapterOptions& adapter,
               const codec::Layout& layout,
               const config::TrainingOptions& training)
      : decoder_(base.decoder()),
        adapter_(adapter),
        layout_(layout),
        training_(training),
        max_length_(
            std::min(training.max_sequence_length, base.max_positions())) {}

  void Add(const BankMember& member);
  absl::Status Run(const ProgressFn& progress);
  std::vector<TrainResult> Finish();

 private:
  // What the pass of one slice of a step is made of.
  struct Pass {
    std::vector<const Example*> examples;  // that predict something
    std::vector<int32_t> adapter_of_example;
    std::vector<Client*> clients;      // those with something to predict
    std::vector<int64_t> predictions;  // of each
    AdapterRows rows;
  };
  void Choose(Client& client);
  Pass Gather(absl::Span<Client* const> active, int step, size_t begin) const;
  absl::Status OnePass(Pass pass);
  absl::Status Step(absl::Span<Client* const> active, int step);
  absl::Status Optimize(Client& client) const;

  const Decoder& decoder_;
  const config::AdapterOptions& adapter_;
  const codec::Layout& layout_;
  const config::TrainingOptions& training_;
  const int max_length_;
  std::vector<std::unique_ptr<Client>> clients_;
};

void BankTraining::Add(const BankMember& member) {
  clients_.push_back(std::make_unique<Client>(member, training_));
  Client& client = *clients_.back();
  client.values = at::empty({layout_.num_elements()}, at::kFloat);
  std::copy(member.parameters.begin(), member.parameters.end(),
            client.values.data_ptr<float>());
  client.flat = client.values.to(decoder_.device());
  client.flat_gradient = at::zeros_like(client.flat);
  client.bank = BindAdapter(decoder_.config(), adapter_, layout_, client.flat);
  GatherGradients(
      BindLora(decoder_.config(), layout_, client.flat_gradient, 1.0),
      client.bank);
}

absl::Status BankTraining::Optimize(Client& client) const {
  at::NoGradGuard no_grad;
  const at::Tensor gradient = client.flat_gradient.cpu();
  CHOIR_RETURN_IF_ERROR(client.optimizer.Step(training_, SpanOf(gradient),
                                              SpanOf(client.values)));
  if (!client.flat.is_cpu()) client.flat.copy_(client.values);
  return absl::OkStatus();
}

void BankTraining::Choose(Client& client) {
  const size_t per_step = client.length.examples_per_step;
  const size_t n = client.length.runs_on
                       ? per_step
                       : std::min(per_step, client.stream.left_in_epoch());
  client.chosen.clear();
  client.units = 0;
  for (size_t i = 0; i < n; ++i) {
    client.chosen.push_back(&client.member.examples[client.stream.Next()]);
    client.units += PredictedTokens(*client.chosen.back(), max_length_);
  }
  client.result.examples_seen += n;
  ++client.result.steps;
}

BankTraining::Pass BankTraining::Gather(absl::Span<Client* const> active,
                                        int step, size_t begin) const {
  Pass pass;
  for (Client* client : active) {
    const size_t end =
        std::min(client->chosen.size(),
                 begin + static_cast<size_t>(training_.batch_size));
    int64_t predictions = 0;
    for (size_t i = begin; i < end; ++i) {
      const Example* example = client->chosen[i];
      const int64_t predicted = PredictedTokens(*example, max_length_);
      if (predicted == 0) continue;
      predictions += predicted;
      pass.examples.push_back(example);
      pass.adapter_of_example.push_back(
          static_cast<int32_t>(pass.clients.size()));
    }
    if (predictions == 0) continue;
    pass.clients.push_back(client);
    pass.predictions.push_back(predictions);
    pass.rows.adapters.push_back(&client->bank);
    // As a trainer of this client alone has it.
    pass.rows.dropout_seeds.push_back(client->dropout_seed +
                                      static_cast<uint64_t>(step) * 0x51ed2701 +
                                      begin * 1000003);
  }
  return pass;
}

absl::Status BankTraining::OnePass(Pass pass) {
  const PackedBatch batch =
      PackExamples(pass.examples, max_length_, decoder_.device());
  CHOIR_CHECK(batch.starts.size() == pass.examples.size() + 1);
  for (size_t i = 0; i < pass.examples.size(); ++i) {
    pass.rows.adapter_of_row.resize(batch.starts[i + 1],
                                    pass.adapter_of_example[i]);
  }
  ForwardOptions forward;
  forward.bank = &pass.rows;
  forward.dropout = adapter_.dropout;
  forward.attention = AttentionOf(training_);
  const at::Tensor hidden = decoder_.Hidden(batch, forward);
  std::vector<at::Tensor> losses;
  int64_t begin = 0;
  for (size_t i = 0; i < pass.clients.size(); ++i) {
    const int64_t n = pass.predictions[i];
    losses.push_back(LinearCrossEntropy(
        forward.kernels, hidden.narrow(0, begin, n), decoder_.weights().head,
        batch.targets.narrow(0, begin, n),
        1.0 / static_cast<double>(pass.clients[i]->units)));
    begin += n;
    const double loss = losses.back().item<double>();
    if (!std::isfinite(loss)) {
      return absl::AbortedError(
          "the training loss is no longer a finite number; lower the learning "
          "rate or set max_grad_norm");
    }
    pass.clients[i]->loss_sum +=
        loss * static_cast<double>(pass.clients[i]->units);
  }
  torch::autograd::backward(losses, {});
  return absl::OkStatus();
}

absl::Status BankTraining::Step(absl::Span<Client* const> active, int step) {
  size_t most = 0;
  for (Client* client : active) {
    Choose(*client);
    client->flat_gradient.zero_();
    most = std::max(most, client->chosen.size());
  }
  const size_t batch = static_cast<size_t>(training_.batch_size);
  for (size_t begin = 0; begin < most; begin += batch) {
    Pass pass = Gather(active, step, begin);
    if (pass.clients.empty()) continue;
    CHOIR_RETURN_IF_ERROR(OnePass(std::move(pass)));
  }
  for (Client* client : active) {
    if (client->units == 0) continue;
    client->result.tokens += static_cast<uint64_t>(client->units);
    CHOIR_RETURN_IF_ERROR(Optimize(*client));
  }
  return absl::OkStatus();
}

absl::Status BankTraining::Run(const ProgressFn& progress) {
  int steps = 0;
  for (const auto& client : clients_)
    steps = std::max(steps, client->length.steps);
  for (int step = 0; step < steps; ++step) {
    std::vector<Client*> active;
    for (const auto& client : clients_) {
      if (step < client->length.steps) active.push_back(client.get());
    }
    CHOIR_RETURN_IF_ERROR(Step(active, step));
    if (progress) CHOIR_RETURN_IF_ERROR(progress(step + 1, steps));
  }
  for (const auto& client : clients_) {
    CHOIR_RETURN_IF_ERROR(CheckFinite(SpanOf(client->values)));
  }
  return absl::OkStatus();
}

std::vector<TrainResult> BankTraining::Finish() {
  std::vector<TrainResult> results;
  for (const auto& client : clients_) {
    TrainResult& result = client->result;
    if (result.tokens > 0) {
      result.mean_loss = client->loss_sum / static_cast<double>(result.tokens);
    }
    const absl::Span<const float> values = SpanOf(client->values);
    std::copy(values.begin(), values.end(), client->member.parameters.begin());
    results.push_back(std::move(result));
  }
  return results;
}

}  // namespace

absl::Status CheckSharedPass(const LoadedModel& base,
                             const config::AdapterOptions& adapter,
                             const config::TrainingOptions& training) {
  const auto refused = [](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("clients cannot share a pass: ", why));
  };
  if (adapter.kind != config::AdapterKind::kLora &&
      adapter.kind != config::AdapterKind::kFrozenA) {
    return refused(absl::StrCat("the adapter is ",
                                config::AdapterKindName(adapter.kind),
                                ", not lora or frozen_a"));
  }
  // A sum in another order may round to the next of so few values: results
  // would differ from those of training alone by more than rounding.
  if (adapter.precision != config::AdapterPrecision::kFp32) {
    return refused("the adapter is in bf16");
  }
  if (adapter.num_labels > 0) return refused("there is a classification head");
  if (training.objective != config::Objective::kSupervised &&
      training.objective != config::Objective::kCausalLm) {
    return refused("the objective is not sft or causal_lm");
  }
  if (training.sparsity.max_rate > 0.0) return refused("training is sparse");
  if (base.decoder().config().moe.num_experts > 0) {
    return refused("the model has experts");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TrainResult>> TrainInOnePass(
    const LoadedModel& base, const config::AdapterOptions& adapter,
    const codec::Layout& layout, absl::Span<const BankMember> members,
    const config::TrainingOptions& training, const ProgressFn& progress) {
  BankTraining bank(base, adapter, layout, training);
  for (const BankMember& member : members) bank.Add(member);
  CHOIR_RETURN_IF_ERROR(bank.Run(progress));
  return bank.Finish();
}

}  // namespace choir::model
