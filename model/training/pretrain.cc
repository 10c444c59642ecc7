#include "model/training/pretrain.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <numeric>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/cli.h"
#include "base/files.h"
#include "base/log.h"
#include "base/sim_random.h"
#include "base/status_macros.h"
#include "model/checkpoint/new_folder.h"
#include "model/checkpoint/safetensors.h"
#include "model/compute.h"
#include "model/generate.h"
#include "model/kernels/optimizer.h"
#include "model/torch/guard.h"
#include "model/torch/span.h"
#include "model/training/pretrain_data.h"
#include "model/transformer/decoder.h"
#include "proto/codec/layout.h"

namespace choir::model {
namespace {

constexpr char kStateName[] = "pretrain_state.safetensors";
constexpr char kModelName[] = "model.safetensors";

// One thread's view of the model: shared weights, gradients of its own.
struct Replica {
  at::Tensor gradient;  // flat
  std::unique_ptr<Decoder> decoder;
  double loss = 0.0;
  absl::Status status;
};

class Pretrainer {
 public:
  Pretrainer(const PretrainOptions& options, PretrainData data)
      : options_(options), data_(std::move(data)), config_(options.config) {
    config_.vocab_size = data_.tokenizer->vocab_size();
    if (data_.tokenizer->bos_id())
      config_.bos_token_id = *data_.tokenizer->bos_id();
    if (data_.tokenizer->eos_id()) {
      config_.eos_token_ids = {*data_.tokenizer->eos_id()};
    }
    config_.torch_dtype = "bfloat16";
    config_.tie_word_embeddings = true;
  }

  absl::StatusOr<PretrainResult> Run();

 private:
  absl::Status Initialize();
  absl::Status MakeReplicas();
  absl::StatusOr<double> Step();
  absl::StatusOr<double> HeldOutLoss();
  absl::Status RunReplicas(const std::function<absl::Status(int)>& body);
  PackedBatch Windows(const std::vector<int32_t>& stream,
                      absl::Span<const int64_t> windows) const;
  void Update(double rate);
  double Fraction() const;
  double LearningRate() const;
  absl::Status SaveState() const;
  absl::Status LoadState();
  absl::Status SaveModel(const PretrainResult& result) const;
  absl::StatusOr<std::string> Sample() const;
  void RoundWeights();

  int64_t context() const { return config_.max_positions; }
  absl::Span<float> Values() const { return SpanOf(values_); }
  double Seconds() const {
    return seconds_before_ + absl::ToDoubleSeconds(absl::Now() - start_);
  }

  const PretrainOptions options_;
  const PretrainData data_;
  ModelConfig config_;
  codec::Layout layout_;
  at::Tensor values_;  // flat, shared by all replicas
  std::vector<float> m_, v_;
  std::vector<Replica> replicas_;
  std::vector<int64_t> order_;
  int64_t order_epoch_ = -1;
  int64_t steps_ = 0;
  int64_t tokens_ = 0;
  double smooth_loss_ = 0.0;
  absl::Time start_ = absl::Now();
  double seconds_before_ = 0.0;
};

absl::Status Pretrainer::Initialize() {
  CHOIR_ASSIGN_OR_RETURN(layout_, codec::Layout::Create(ModelTensors(config_)));
  values_ = at::zeros({layout_.num_elements()}, at::kFloat);
  m_.assign(values_.numel(), 0.0f);
  v_.assign(values_.numel(), 0.0f);
  const double residual = 0.02 / std::sqrt(2.0 * config_.num_layers);
  for (size_t i = 0; i < layout_.tensors().size(); ++i) {
    const codec::TensorSpec& spec = layout_.tensors()[i];
    absl::Span<float> part =
        Values().subspan(layout_.offset(i), spec.num_elements());
    if (spec.shape.size() == 1) {
      std::fill(part.begin(), part.end(), 1.0f);
      continue;
    }
    const bool output = spec.name.find("o_proj") != std::string::npos ||
                        spec.name.find("down_proj") != std::string::npos;
    base::SimRandom random(base::DeriveSeed(options_.seed, {spec.name}));
    for (float& value : part) {
      value = static_cast<float>(random.Normal() * (output ? residual : 0.02));
    }
  }
  return absl::OkStatus();
}

absl::Status Pretrainer::MakeReplicas() {
  std::map<std::string, size_t> index;
  for (size_t i = 0; i < layout_.tensors().size(); ++i) {
    index[layout_.tensors()[i].name] = i;
  }
  replicas_.resize(options_.threads);
  for (Replica& replica : replicas_) {
    replica.gradient = at::zeros_like(values_);
    CHOIR_ASSIGN_OR_RETURN(
        DecoderWeights weights,
        CollectWeights(
            config_,
            [&](const codec::TensorSpec& spec) -> absl::StatusOr<at::Tensor> {
              const int64_t offset = layout_.offset(index[spec.name]);
              const auto view = [&](const at::Tensor& flat) {
                return flat.narrow(0, offset, spec.num_elements())
                    .view(spec.shape)
                    .detach();
              };
              at::Tensor leaf = view(values_);
              leaf.set_requires_grad(true);
              leaf.mutable_grad() = view(replica.gradient);
              return leaf;
            }));
    replica.decoder = std::make_unique<Decoder>(config_, std::move(weights));
  }
  return absl::OkStatus();
}

absl::Status Pretrainer::RunReplicas(
    const std::function<absl::Status(int)>& body) {
  const auto run = [&](int r) {
    PrepareTrainingThread();
    replicas_[r].status =
        TorchGuard("pretraining", [&]() -> absl::Status { return body(r); });
  };
  std::vector<std::thread> threads;
  for (int r = 1; r < options_.threads; ++r) threads.emplace_back(run, r);
  run(0);
  for (std::thread& thread : threads) thread.join();
  for (const Replica& replica : replicas_) {
    CHOIR_RETURN_IF_ERROR(replica.status);
  }
  return absl::OkStatus();
}

PackedBatch Pretrainer::Windows(const std::vector<int32_t>& stream,
                                absl::Span<const int64_t> windows) const {
  const int64_t n = static_cast<int64_t>(windows.size());
  PackedBatch batch;
  batch.ids = at::empty({n * context()}, at::kLong);
  batch.targets = at::empty({n * context()}, at::kInt);
  batch.starts.push_back(0);
  for (int64_t w = 0; w < n; ++w) {
    const int32_t* from = stream.data() + windows[w] * context();
    std::copy(from, from + context(),
              batch.ids.data_ptr<int64_t>() + w * context());
    std::copy(from + 1, from + 1 + context(),
              batch.targets.data_ptr<int32_t>() + w * context());
    batch.starts.push_back((w + 1) * context());
  }
  batch.predictions = n * context();
  return batch;
}

absl::StatusOr<double> Pretrainer::Step() {
  const int64_t windows =
      (static_cast<int64_t>(data_.train.size()) - 1) / context();
  const int64_t batch = std::min<int64_t>(options_.batch, windows);
  std::vector<int64_t> chosen;
  for (int64_t i = 0; i < batch; ++i) {
    const int64_t at = steps_ * batch + i;
    if (at / windows != order_epoch_) {
      order_epoch_ = at / windows;
      order_.resize(windows);
      std::iota(order_.begin(), order_.end(), int64_t{0});
      base::SimRandom random(base::DeriveSeed(
          options_.seed, {"windows", absl::StrCat(order_epoch_)}));
      random.Shuffle(order_);
    }
    chosen.push_back(order_[at % windows]);
  }
  const int64_t share = (batch + options_.threads - 1) / options_.threads;
  const double weight = 1.0 / static_cast<double>(batch * context());
  CHOIR_RETURN_IF_ERROR(RunReplicas([&](int r) {
    Replica& replica = replicas_[r];
    replica.gradient.zero_();
    replica.loss = 0.0;
    const absl::Span<const int64_t> mine = absl::MakeConstSpan(chosen).subspan(
        std::min<int64_t>(r * share, batch), share);
    // A few windows at a time stay in the processor's cache.
    for (size_t i = 0; i < mine.size(); i += 8) {
      const PackedBatch part = Windows(data_.train, mine.subspan(i, 8));
      const at::Tensor loss = replica.decoder->Loss(part, {}, weight);
      replica.loss += loss.item<double>();
      torch::autograd::backward({loss}, {});
    }
    return absl::OkStatus();
  }));
  double loss = replicas_[0].loss;
  for (int r = 1; r < options_.threads; ++r) {
    loss += replicas_[r].loss;
    replicas_[0].gradient.add_(replicas_[r].gradient);
  }
  if (!std::isfinite(loss)) {
    return absl::AbortedError(absl::StrCat("the loss is not finite at step ",
                                           steps_, "; lower --learning-rate"));
  }
  Update(LearningRate());
  ++steps_;
  tokens_ += batch * context();
  return loss;
}

void Pretrainer::Update(double rate) {
  const absl::Span<float> gradient = SpanOf(replicas_[0].gradient);
  ClipGradient(gradient, options_.max_grad_norm);
  for (size_t i = 0; i < layout_.tensors().size(); ++i) {
    const codec::TensorSpec& spec = layout_.tensors()[i];
    AdamWOptions adamw;
    adamw.learning_rate = rate;
    adamw.beta2 = options_.beta2;
    // Norms are not decayed.
    adamw.weight_decay = spec.shape.size() > 1 ? options_.weight_decay : 0.0;
    const size_t offset = layout_.offset(i);
    const size_t n = spec.num_elements();
    AdamWStep(adamw, steps_ + 1, gradient.subspan(offset, n),
              absl::MakeSpan(m_).subspan(offset, n),
              absl::MakeSpan(v_).subspan(offset, n),
              Values().subspan(offset, n));
  }
}

double Pretrainer::Fraction() const {
  double fraction = 0.0;
  if (options_.tokens > 0) {
    fraction = static_cast<double>(tokens_) / options_.tokens;
  }
  if (options_.minutes > 0.0) {
    fraction = std::max(fraction, Seconds() / (60.0 * options_.minutes));
  }
  return std::min(fraction, 1.0);
}

double Pretrainer::LearningRate() const {
  const double done = Fraction();
  if (done < options_.warmup) {
    return options_.learning_rate * std::max(0.01, done / options_.warmup);
  }
  const double along = (done - options_.warmup) / (1.0 - options_.warmup);
  return options_.min_learning_rate +
         0.5 * (options_.learning_rate - options_.min_learning_rate) *
             (1.0 + std::cos(M_PI * along));
}

absl::StatusOr<double> Pretrainer::HeldOutLoss() {
  const int64_t windows = std::min<int64_t>(
      (static_cast<int64_t>(data_.heldout.size()) - 1) / context(), 256);
  CHOIR_RETURN_IF_ERROR(RunReplicas([&](int r) {
    at::NoGradGuard no_grad;
    replicas_[r].loss = 0.0;
    for (int64_t w = r; w < windows; w += options_.threads) {
      replicas_[r].loss +=
          replicas_[r]
              .decoder->Loss(Windows(data_.heldout, {w}), {}, 1.0)
              .item<double>();
    }
    return absl::OkStatus();
  }));
  double sum = 0.0;
  for (const Replica& replica : replicas_) sum += replica.loss;
  return sum / static_cast<double>(windows * context());
}

absl::Status Pretrainer::SaveState() const {
  const auto view = [&](const char* name, absl::Span<const float> values) {
    TensorView tensor;
    tensor.name = name;
    tensor.shape = {static_cast<int64_t>(values.size())};
    tensor.bytes = absl::string_view(
        reinterpret_cast<const char*>(values.data()), values.size() * 4);
    return tensor;
  };
  const std::string bytes = EncodeSafetensors(
      {view("m", m_), view("v", v_), view("values", Values())},
      {{"layout", layout_.digest()},
       {"steps", absl::StrCat(steps_)},
       {"tokens", absl::StrCat(tokens_)},
       {"seconds", absl::StrCat(Seconds())},
       {"loss", absl::StrCat(smooth_loss_)}});
  return base::WriteFileAtomic(base::JoinPath(options_.out, kStateName), bytes);
}

absl::Status Pretrainer::LoadState() {
  const std::string path = base::JoinPath(options_.out, kStateName);
  CHOIR_ASSIGN_OR_RETURN(const SafetensorsFile file,
                         SafetensorsFile::Open(path));
  auto metadata = file.metadata();
  if (metadata["layout"] != layout_.digest() ||
      !absl::SimpleAtoi(metadata["steps"], &steps_) ||
      !absl::SimpleAtoi(metadata["tokens"], &tokens_) ||
      !absl::SimpleAtod(metadata["seconds"], &seconds_before_) ||
      !absl::SimpleAtod(metadata["loss"], &smooth_loss_)) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, " is the state of another model; drop --resume to start anew"));
  }
  const std::pair<const char*, absl::Span<float>> parts[] = {
      {"m", absl::MakeSpan(m_)},
      {"v", absl::MakeSpan(v_)},
      {"values", Values()}};
  for (const auto& [name, into] : parts) {
    CHOIR_ASSIGN_OR_RETURN(const TensorView* view,
                           file.Get(name, {values_.numel()}));
    CHOIR_RETURN_IF_ERROR(ReadFloatsInto(*view, into));
  }
  start_ = absl::Now();
  base::LogInfo("resumed at step ", steps_, ", ", tokens_, " tokens");
  return absl::OkStatus();
}

void Pretrainer::RoundWeights() {
  at::NoGradGuard no_grad;
  values_.copy_(values_.to(at::kBFloat16));
}

absl::StatusOr<std::string> Pretrainer::Sample() const {
  std::vector<int32_t> prompt =
      data_.tokenizer->Encode(options_.prompt, /*add_special=*/false);
  if (data_.tokenizer->bos_id()) {
    prompt.insert(prompt.begin(), *data_.tokenizer->bos_id());
  }
  GenerateOptions generate;
  generate.max_tokens = static_cast<int>(
      std::min<int64_t>(96, context() - static_cast<int64_t>(prompt.size())));
  generate.temperature = 0.7;
  generate.top_p = 0.9;
  generate.seed = options_.seed;
  generate.stop_ids = config_.eos_token_ids;
  CHOIR_ASSIGN_OR_RETURN(
      const std::vector<int32_t> ids,
      Generate(*replicas_[0].decoder, nullptr, prompt, generate));
  return data_.tokenizer->Decode(ids);
}

absl::Status Pretrainer::SaveModel(const PretrainResult& result) const {
  std::vector<TensorView> views;
  std::vector<std::string> bytes(layout_.tensors().size());
  for (size_t i = 0; i < layout_.tensors().size(); ++i) {
    const codec::TensorSpec& spec = layout_.tensors()[i];
    bytes[i] = FloatsToBytes(
        Values().subspan(layout_.offset(i), spec.num_elements()), DType::kBf16);
    TensorView view;
    view.name = spec.name;
    view.dtype = DType::kBf16;
    view.shape = spec.shape;
    view.bytes = bytes[i];
    views.push_back(view);
  }
  const std::pair<const char*, std::string> files[] = {
      {kModelName, EncodeSafetensors(std::move(views))},
      {"config.json", ModelConfigJson(config_)},
      {"tokenizer.json", data_.tokenizer_json},
      {"tokenizer_config.json", TokenizerConfigJson(*data_.tokenizer)},
      {"README.md", ModelCard(options_, config_, data_, result)}};
  for (const auto& [name, contents] : files) {
    CHOIR_RETURN_IF_ERROR(
        base::WriteFileAtomic(base::JoinPath(options_.out, name), contents));
  }
  return absl::OkStatus();
}

absl::StatusOr<PretrainResult> Pretrainer::Run() {
  CHOIR_RETURN_IF_ERROR(base::MakeDirectories(options_.out));
  CHOIR_RETURN_IF_ERROR(Initialize());
  CHOIR_RETURN_IF_ERROR(MakeReplicas());
  start_ = absl::Now();
  // A prompt that the model cannot continue is found before hours of training.
  CHOIR_RETURN_IF_ERROR(Sample().status());
  if (options_.resume) CHOIR_RETURN_IF_ERROR(LoadState());
  base::LogInfo(layout_.num_elements(), " parameters, ", data_.train.size(),
                " training and ", data_.heldout.size(), " held-out tokens");
  absl::Time last_report = absl::Now();
  absl::Time last_save = absl::Now();
  int64_t tokens_reported = tokens_;
  while (Fraction() < 1.0) {
    CHOIR_ASSIGN_OR_RETURN(const double loss, Step());
    smooth_loss_ = steps_ <= 1 ? loss : 0.98 * smooth_loss_ + 0.02 * loss;
    const absl::Time now = absl::Now();
    if (now - last_report > absl::Seconds(10)) {
      base::LogInfo(absl::StrFormat(
          "step %d: loss %.4f, learning rate %.2e, %.0f tokens/s, %.1f %%",
          steps_, smooth_loss_, LearningRate(),
          static_cast<double>(tokens_ - tokens_reported) /
              absl::ToDoubleSeconds(now - last_report),
          100.0 * Fraction()));
      last_report = now;
      tokens_reported = tokens_;
    }
    const bool stop = base::StopSignal::requested();
    if (stop || now - last_save > absl::Minutes(options_.checkpoint_minutes)) {
      CHOIR_ASSIGN_OR_RETURN(const double heldout, HeldOutLoss());
      base::LogInfo(absl::StrFormat("step %d: held-out loss %.4f; saving",
                                    steps_, heldout));
      CHOIR_RETURN_IF_ERROR(SaveState());
      last_save = absl::Now();
    }
    if (stop) {
      return absl::AbortedError(
          "asked to stop; --resume goes on from the state just saved");
    }
  }
  CHOIR_RETURN_IF_ERROR(SaveState());
  RoundWeights();
  PretrainResult result;
  result.parameters = layout_.num_elements();
  result.steps = steps_;
  result.tokens = tokens_;
  result.train_loss = smooth_loss_;
  result.seconds = Seconds();
  CHOIR_ASSIGN_OR_RETURN(result.heldout_loss, HeldOutLoss());
  CHOIR_ASSIGN_OR_RETURN(result.sample, Sample());
  CHOIR_RETURN_IF_ERROR(SaveModel(result));
  return result;
}

}  // namespace

absl::StatusOr<PretrainResult> Pretrain(const PretrainOptions& options) {
  if (!options.resume) {
    if (base::FileExists(base::JoinPath(options.out, kStateName))) {
      return absl::AlreadyExistsError(absl::StrCat(
          options.out, " already holds ", kStateName,
          "; add --resume to go on with it or give another --out"));
    }
    CHOIR_RETURN_IF_ERROR(CheckNewFolder(options.out));
  }
  CHOIR_ASSIGN_OR_RETURN(PretrainData data, LoadPretrainData(options));
  return TorchGuard("pretraining", [&]() -> absl::StatusOr<PretrainResult> {
    return Pretrainer(options, std::move(data)).Run();
  });
}

}  // namespace choir::model
