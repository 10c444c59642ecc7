// Tokens per second of one training step on one CPU thread, for a model of
// about two million parameters: batch 16 of 128 tokens.
#include <map>
#include <memory>
#include <string>

#include "base/files.h"
#include "benchmark/benchmark.h"
#include "model/adapter/lora_layout.h"
#include "model/compute.h"
#include "model/kernels/optimizer.h"
#include "model/loaded_model.h"
#include "model/objective/packing.h"
#include "tests/unit/model/tiny_model.h"

namespace choir::model {
namespace {

constexpr int kBatch = 16;
constexpr int kLength = 129;

ModelConfig BenchConfig() {
  ModelConfig config = tests::TinyConfig();
  config.vocab_size = 2048;
  config.hidden_size = 192;
  config.intermediate_size = 512;
  config.num_layers = 4;
  config.num_heads = 6;
  config.num_kv_heads = 3;
  config.head_dim = 32;
  config.max_positions = 256;
  return config;
}

std::vector<Example> BenchExamples() {
  base::SimRandom random(1);
  std::vector<Example> examples(kBatch);
  for (Example& example : examples) {
    for (int i = 0; i < kLength; ++i) {
      example.ids.push_back(static_cast<int32_t>(random.Below(2048)));
    }
  }
  return examples;
}

void Report(benchmark::State& state) {
  state.counters["tokens/s"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * kBatch * (kLength - 1),
      benchmark::Counter::kIsRate);
}

void BM_LoraStep(benchmark::State& state) {
  ConfigureCompute(1);
  const auto base = BaseModel::Load(tests::WriteTinyModel(BenchConfig(), 0.02),
                                    DeviceKind::kCpu);
  config::AdapterOptions adapter;
  adapter.rank = static_cast<int>(state.range(0));
  adapter.target_modules = LinearKinds(BenchConfig());
  const auto trainer = Trainer::Create(*base, adapter).value();
  std::vector<float> values = InitialAdapter(trainer->layout(), 1);
  config::TrainingOptions options;
  options.batch_size = kBatch;
  options.local_steps = 1;
  options.local_epochs = 0;
  const std::vector<Example> examples = BenchExamples();
  for (auto _ : state) {
    CHOIR_CHECK(
        trainer->Train(absl::MakeSpan(values), examples, options, 1, nullptr)
            .ok());
  }
  Report(state);
}
BENCHMARK(BM_LoraStep)->Arg(8)->Unit(benchmark::kMillisecond)->UseRealTime();

void BM_FullStep(benchmark::State& state) {
  ConfigureCompute(1);
  const Kernels kernels =
      state.range(0) == 0 ? Kernels::kFused : Kernels::kReference;
  const ModelConfig config = BenchConfig();
  const auto layout = codec::Layout::Create(ModelTensors(config)).value();
  const int64_t n = layout.num_elements();
  at::Tensor values = at::randn({n}, at::kFloat) * 0.02;
  at::Tensor gradient = at::zeros({n}, at::kFloat);
  std::map<std::string, int64_t> offsets;
  for (size_t i = 0; i < layout.tensors().size(); ++i) {
    offsets[layout.tensors()[i].name] = layout.offset(i);
  }
  const Decoder decoder(
      config,
      CollectWeights(
          config,
          [&](const codec::TensorSpec& spec) -> absl::StatusOr<at::Tensor> {
            const int64_t offset = offsets.at(spec.name);
            const auto view = [&](const at::Tensor& flat) {
              return flat.narrow(0, offset, spec.num_elements())
                  .view(spec.shape)
                  .detach();
            };
            at::Tensor leaf = view(values).set_requires_grad(true);
            leaf.mutable_grad() = view(gradient);
            return leaf;
          })
          .value());
  const std::vector<Example> examples = BenchExamples();
  std::vector<const Example*> pointers;
  for (const Example& example : examples) pointers.push_back(&example);
  const PackedBatch batch = PackExamples(pointers, 256, at::kCPU);
  std::vector<float> m(n), v(n);
  ForwardOptions options;
  options.kernels = kernels;
  int64_t step = 0;
  for (auto _ : state) {
    gradient.zero_();
    torch::autograd::backward(
        {decoder.Loss(batch, options, 1.0 / batch.predictions)}, {});
    AdamWStep({}, ++step, absl::MakeConstSpan(gradient.data_ptr<float>(), n),
              absl::MakeSpan(m), absl::MakeSpan(v),
              absl::MakeSpan(values.data_ptr<float>(), n));
  }
  Report(state);
}
BENCHMARK(BM_FullStep)
    ->ArgName("reference")
    ->Arg(0)
    ->Arg(1)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
}  // namespace choir::model

BENCHMARK_MAIN();
