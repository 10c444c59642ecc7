// What small devices pay in time: a training step of a model of about ten
// million parameters (LoRA r=8, batch 8 x 128, one CPU thread) with weights in
// fewer bits, with lean and with checkpointed activations; and products with a
// quantised matrix against dense ones.
#include <memory>

#include "benchmark/benchmark.h"
#include "model/adapter/lora_layout.h"
#include "model/compute.h"
#include "model/kernels/blas.h"
#include "model/kernels/quantized_matmul.h"
#include "model/loaded_model.h"
#include "model/objective/packing.h"
#include "tests/unit/model/tiny_model.h"

namespace choir::model {
namespace {

ModelConfig BenchConfig() {
  ModelConfig config = tests::TinyConfig();
  config.vocab_size = 4096;
  config.hidden_size = 320;
  config.intermediate_size = 880;
  config.num_layers = 8;
  config.num_heads = 8;
  config.num_kv_heads = 4;
  config.head_dim = 40;
  config.max_positions = 256;
  return config;
}

const std::string& Folder() {
  static const std::string& folder =
      *new std::string(tests::WriteTinyModel(BenchConfig(), 0.02));
  return folder;
}

void Step(benchmark::State& state, WeightFormat format, bool lean,
          bool checkpointing) {
  ConfigureCompute(1);
  LoadOptions load;
  load.device = DeviceKind::kCpu;
  load.precision = format;
  const auto model = LoadedModel::LoadFolder(Folder(), load, false).value();
  config::AdapterOptions adapter;
  adapter.target_modules = LinearKinds(BenchConfig());
  const codec::Layout layout = AdapterLayout(BenchConfig(), adapter).value();
  at::Tensor flat = at::zeros({layout.num_elements()}, at::kFloat);
  at::Tensor gradient = at::zeros_like(flat);
  const std::vector<float> start = InitialAdapter(layout, 1);
  std::copy(start.begin(), start.end(), flat.data_ptr<float>());
  LoraBank bank = BindLora(BenchConfig(), layout, flat, 2.0);
  GatherGradients(BindLora(BenchConfig(), layout, gradient, 1.0), bank);
  base::SimRandom random(1);
  std::vector<Example> examples(8);
  std::vector<const Example*> pointers;
  for (Example& example : examples) {
    for (int i = 0; i < 129; ++i) {
      example.ids.push_back(static_cast<int32_t>(random.Below(4096)));
    }
    pointers.push_back(&example);
  }
  const PackedBatch batch = PackExamples(pointers, 256, at::kCPU);
  ForwardOptions forward;
  forward.lora = &bank;
  forward.lean = lean;
  forward.checkpointing = checkpointing;
  for (auto _ : state) {
    torch::autograd::backward(
        {model->decoder().Loss(batch, forward, 1.0 / batch.predictions)}, {});
  }
  state.counters["tokens/s"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * 8 * 128,
                         benchmark::Counter::kIsRate);
}

void BM_Dense(benchmark::State& state) {
  Step(state, WeightFormat::kFloat32, false, false);
}
void BM_DenseLean(benchmark::State& state) {
  Step(state, WeightFormat::kFloat32, true, false);
}
void BM_DenseCheckpointed(benchmark::State& state) {
  Step(state, WeightFormat::kFloat32, true, true);
}
void BM_Bf16(benchmark::State& state) {
  Step(state, WeightFormat::kBf16, true, false);
}
void BM_Int8(benchmark::State& state) {
  Step(state, WeightFormat::kInt8, true, false);
}
void BM_Nf4(benchmark::State& state) {
  Step(state, WeightFormat::kNf4, true, false);
}
BENCHMARK(BM_Dense)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(BM_DenseLean)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(BM_DenseCheckpointed)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(BM_Bf16)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(BM_Int8)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(BM_Nf4)->Unit(benchmark::kMillisecond)->UseRealTime();

// x W^T for W [2048, 2048] and so many rows of x.
void BM_Product(benchmark::State& state) {
  ConfigureCompute(1);
  const int64_t rows = state.range(1);
  const auto format = static_cast<WeightFormat>(state.range(0));
  constexpr int64_t kWidth = 2048;
  base::SimRandom random(1);
  std::vector<float> w(kWidth * kWidth), x(rows * kWidth), y(rows * kWidth);
  for (float& v : w) v = static_cast<float>(random.Uniform() - 0.5);
  for (float& v : x) v = static_cast<float>(random.Uniform() - 0.5);
  absl::optional<QuantizedMatrix> matrix;
  if (format != WeightFormat::kFloat32) {
    matrix = QuantizedMatrix::Quantize(
                 format, kWidth, kWidth,
                 [&](int64_t begin, int64_t count, float* out) {
                   std::copy_n(w.data() + begin * kWidth, count * kWidth, out);
                 })
                 .value();
  }
  for (auto _ : state) {
    if (matrix) {
      MatMulQuantized(*matrix, {}, rows, x.data(), 0.0f, y.data());
    } else {
      MatMul(Op::kPlain, Op::kTransposed, rows, kWidth, kWidth, 1.0f, x.data(),
             kWidth, w.data(), kWidth, 0.0f, y.data(), kWidth);
    }
    benchmark::DoNotOptimize(y.data());
  }
  state.SetLabel(std::string(WeightFormatName(format)));
}
BENCHMARK(BM_Product)
    ->ArgNames({"format", "rows"})
    ->ArgsProduct({{0, 1, 2, 3}, {1, 64, 1024}})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
}  // namespace choir::model

BENCHMARK_MAIN();
