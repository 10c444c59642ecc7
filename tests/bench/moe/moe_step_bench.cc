// A LoRA training step of a mixture of experts against that of the dense model
// of equal active parameters, on one CPU thread.
//
//   moe_step_bench            Google Benchmark
//   moe_step_bench --pairs N [--most R]
//                             N pairs of steps, dense and experts in turn; the
//                             medians and the median ratio as JSON, a line with
//                             adapters on the experts and one without. Exit
//                             code 1 if a ratio is above R
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <vector>

#include "base/check.h"
#include "base/files.h"
#include "base/sim_random.h"
#include "benchmark/benchmark.h"
#include "model/adapter/lora_layout.h"
#include "model/checkpoint/families.h"
#include "model/compute.h"
#include "model/loaded_model.h"
#include "tests/unit/model/tiny_model.h"

namespace choir::model {
namespace {

constexpr int kBatch = 8;
constexpr int kLength = 257;

// experts 0: dense, with an MLP as wide as experts_per_token experts.
ModelConfig BenchConfig(int64_t experts, int64_t per_token) {
  ModelConfig config = tests::TinyConfig();
  config.vocab_size = 2048;
  config.hidden_size = 256;
  config.num_layers = 4;
  config.num_heads = 8;
  config.num_kv_heads = 4;
  config.head_dim = 32;
  config.max_positions = 512;
  config.intermediate_size = 1024;
  if (experts > 0) {
    config.family = Family::kMixtral;
    config.intermediate_size = 1024 / per_token;
    config.moe.num_experts = experts;
    config.moe.experts_per_token = per_token;
    config.moe.intermediate_size = config.intermediate_size;
  }
  return config;
}

class Stepper {
 public:
  Stepper(int64_t experts, int64_t per_token, bool adapt_experts) {
    ConfigureCompute(1);
    const ModelConfig config = BenchConfig(experts, per_token);
    const auto base =
        BaseModel::Load(tests::WriteTinyModel(config, 0.02), DeviceKind::kCpu);
    CHOIR_CHECK(base.ok());
    config::AdapterOptions adapter;
    adapter.rank = 8;
    adapter.target_modules =
        adapt_experts ? LinearKinds(config)
                      : std::vector<std::string>{"q_proj", "v_proj", "o_proj"};
    trainer_ = Trainer::Create(*base, adapter).value();
    values_ = InitialAdapter(trainer_->layout(), 1);
    options_.batch_size = kBatch;
    options_.local_steps = 1;
    options_.local_epochs = 0;
    base::SimRandom random(1);
    examples_.resize(kBatch);
    for (Example& example : examples_) {
      for (int i = 0; i < kLength; ++i) {
        example.ids.push_back(static_cast<int32_t>(random.Below(2048)));
      }
    }
  }

  void Step() {
    CHOIR_CHECK(
        trainer_
            ->Train(absl::MakeSpan(values_), examples_, options_, 1, nullptr)
            .ok());
  }

 private:
  std::unique_ptr<Trainer> trainer_;
  std::vector<float> values_;
  config::TrainingOptions options_;
  std::vector<Example> examples_;
};

void BM_Step(benchmark::State& state) {
  Stepper stepper(state.range(0), state.range(1), state.range(2) != 0);
  for (auto _ : state) stepper.Step();
  state.counters["tokens/s"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * kBatch * (kLength - 1),
      benchmark::Counter::kIsRate);
}
BENCHMARK(BM_Step)
    ->ArgNames({"experts", "per_token", "adapt_experts"})
    ->Args({0, 2, 1})
    ->Args({8, 2, 1})
    ->Args({0, 2, 0})
    ->Args({8, 2, 0})
    ->Args({64, 2, 0})
    ->Unit(benchmark::kMillisecond);

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2,
                   values.end());
  return values[values.size() / 2];
}

// Processor time: other programs on the machine do not count.
double Seconds(Stepper& stepper) {
  const std::clock_t start = std::clock();
  stepper.Step();
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

// `most` 0: any ratio will do.
int Pairs(int pairs, double most) {
  bool good = true;
  for (const bool adapt_experts : {true, false}) {
    Stepper dense(0, 2, adapt_experts);
    Stepper experts(8, 2, adapt_experts);
    dense.Step();
    experts.Step();
    std::vector<double> a, b, ratio;
    for (int i = 0; i < pairs; ++i) {
      a.push_back(Seconds(dense));
      b.push_back(Seconds(experts));
      ratio.push_back(b.back() / a.back());
    }
    std::printf(
        "{\"adapt_experts\":%s,\"dense_ms\":%.1f,\"experts_ms\":%.1f,"
        "\"ratio\":%.3f}\n",
        adapt_experts ? "true" : "false", 1e3 * Median(a), 1e3 * Median(b),
        Median(ratio));
    if (most > 0.0 && !(Median(ratio) <= most)) {
      std::fprintf(stderr, "ratio %.3f is above %.3f\n", Median(ratio), most);
      good = false;
    }
  }
  return good ? 0 : 1;
}

}  // namespace
}  // namespace choir::model

int main(int argc, char** argv) {
  if ((argc == 3 || (argc == 5 && std::strcmp(argv[3], "--most") == 0)) &&
      std::strcmp(argv[1], "--pairs") == 0) {
    return choir::model::Pairs(std::max(1, std::atoi(argv[2])),
                               argc == 5 ? std::atof(argv[4]) : 0.0);
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
