// What federation costs: client-steps per second of choir-sim's engine, journal
// and sums, against the same training loop without any of them. Both run in
// turn, on one thread, in one process; the ratio is taken pair by pair.
//
//   federation_bench [--benchmark_...]     exit 1 if the median ratio is < 0.9
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/files.h"
#include "base/sim_random.h"
#include "model/adapter/lora_layout.h"
#include "model/compute.h"
#include "model/training/trainer.h"
#include "sim/experiment/experiment_options.h"
#include "sim/experiment/population.h"
#include "sim/experiment/simulation.h"
#include "tests/support/cluster.h"
#include "tests/support/golden.h"

namespace choir::bench {
namespace {

constexpr int kClients = 20;
constexpr int kRounds = 5;
constexpr int kSteps = 4;
constexpr double kLeastRatio = 0.9;

std::vector<double>& Ratios() {
  static std::vector<double> ratios;
  return ratios;
}

sim::ExperimentOptions Options() {
  const std::string dir = tests::NewTempDir();
  std::string data;
  for (int i = 0; i < kClients; ++i) {
    data += tests::MakeExamples(absl::StrCat("topic-", i), 24);
  }
  CHOIR_CHECK(base::WriteFileAtomic(dir + "/data.jsonl", data).ok());
  const std::string experiment = absl::StrCat(
      "[job]\nname = \"bench\"\n[job.model]\nbase = \"", tests::SourceDir(),
      "/models/choir-tiny\"\n[job.training]\nbatch_size = 8\nlocal_steps = ",
      kSteps, "\nmax_sequence_length = 64\n[job.rounds]\ncount = ", kRounds,
      "\ncohort_size = ", kClients,
      "\n[job.evaluation]\nevery = 0\n[clients]\npartition = \"natural\"\n"
      "field = \"topic\"\n[clients.data]\nholdout = 0.0\npath = \"",
      dir, "/data.jsonl\"\n[simulation]\nworkers = 1\n");
  CHOIR_CHECK(base::WriteFileAtomic(dir + "/e.toml", experiment).ok());
  const auto options = sim::LoadExperiment(dir + "/e.toml", {});
  if (!options.ok()) {
    std::fprintf(stderr, "%s\n", options.status().ToString().c_str());
  }
  CHOIR_CHECK(options.ok());
  return *options;
}

double StepsPerSecond(double seconds) {
  return kClients * kRounds * kSteps / seconds;
}

double Plain(const sim::ExperimentOptions& options,
             const std::shared_ptr<const model::BaseModel>& base,
             const sim::Population& population) {
  auto trainer = model::Trainer::Create(base, options.job.adapter);
  CHOIR_CHECK(trainer.ok());
  const std::vector<float> initial =
      model::InitialAdapter((*trainer)->layout(), 1);
  const absl::Time start = absl::Now();
  for (int round = 0; round < kRounds; ++round) {
    for (int client = 0; client < kClients; ++client) {
      const auto data =
          population.Encoded(client, base->tokenizer(), options.job.training);
      std::vector<float> parameters = initial;
      CHOIR_CHECK((*trainer)
                      ->Train(absl::MakeSpan(parameters), data->train,
                              options.job.training,
                              static_cast<uint64_t>(round * kClients + client),
                              nullptr)
                      .ok());
    }
  }
  return StepsPerSecond(absl::ToDoubleSeconds(absl::Now() - start));
}

double Federated(const sim::ExperimentOptions& options,
                 const std::shared_ptr<const model::BaseModel>& base) {
  sim::RunOptions run;
  run.out_dir = tests::NewTempDir() + "/out";
  run.base = base;
  const auto result = sim::RunExperiment(options, run);
  if (!result.ok()) {
    std::fprintf(stderr, "%s\n", result.status().ToString().c_str());
  }
  CHOIR_CHECK(result.ok());
  CHOIR_CHECK(result->clients_trained == kClients * kRounds);
  return StepsPerSecond(result->training_seconds);
}

void BM_ClientSteps(benchmark::State& state) {
  static const sim::ExperimentOptions& options =
      *new sim::ExperimentOptions(Options());
  const auto base =
      model::BaseModel::Load(options.job.base_model, model::DeviceKind::kCpu);
  CHOIR_CHECK(base.ok());
  const auto population = sim::Population::Create(options.clients);
  CHOIR_CHECK(population.ok());
  double plain = 0, federated = 0;
  for (auto _ : state) {
    plain = Plain(options, *base, **population);
    federated = Federated(options, *base);
    Ratios().push_back(federated / plain);
  }
  state.counters["plain_steps_per_s"] = plain;
  state.counters["federated_steps_per_s"] = federated;
  state.counters["ratio"] = Ratios().back();
}
BENCHMARK(BM_ClientSteps)
    ->Iterations(1)
    ->Repetitions(5)
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace choir::bench

int main(int argc, char** argv) {
  choir::model::ConfigureCompute(1);
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  std::vector<double>& ratios = choir::bench::Ratios();
  if (ratios.empty()) return 0;
  std::sort(ratios.begin(), ratios.end());
  const double median = ratios[ratios.size() / 2];
  std::printf("federated / plain client-steps per second: median %.3f\n",
              median);
  return median >= choir::bench::kLeastRatio ? 0 : 1;
}
