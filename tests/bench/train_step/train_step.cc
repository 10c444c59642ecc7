// One side of the comparison that compare.py makes: LoRA steps of a Llama of 10
// or 60 million parameters, one for each line on stdin.
//
//   train_step SIZE FOLDER THREADS    SIZE is 10m or 60m
//
// Writes the model and the batch (config.json, model.safetensors, ids.json)
// into FOLDER, then prints the loss of the base, then after each line of input
// does one optimiser step and prints its seconds, by the clock and of processor
// time.
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/files.h"
#include "base/sim_random.h"
#include "model/adapter/lora_layout.h"
#include "model/checkpoint/families.h"
#include "model/checkpoint/model_config.h"
#include "model/checkpoint/safetensors.h"
#include "model/compute.h"
#include "model/loaded_model.h"
#include "model/training/trainer.h"

namespace choir::model {
namespace {

constexpr int kBatch = 8;
constexpr int kTokens = 256;

ModelConfig ConfigOf(const std::string& size) {
  ModelConfig config;
  const bool large = size == "60m";
  config.vocab_size = large ? 16384 : 8192;
  config.hidden_size = large ? 512 : 256;
  config.intermediate_size = large ? 1376 : 688;
  config.num_layers = large ? 14 : 8;
  config.num_heads = config.num_kv_heads = 8;
  config.head_dim = config.hidden_size / config.num_heads;
  config.max_positions = 512;
  config.norm_eps = 1e-5;
  config.tie_word_embeddings = false;
  return config;
}

void WriteModel(const ModelConfig& config, const std::string& folder) {
  std::vector<std::string> bytes;
  std::vector<TensorView> views;
  const std::vector<codec::TensorSpec> tensors = ModelTensors(config);
  bytes.reserve(tensors.size());
  for (const codec::TensorSpec& spec : tensors) {
    base::SimRandom random(base::DeriveSeed(1, {spec.name}));
    std::vector<float> values(spec.num_elements(), 1.0f);
    if (spec.name.find("norm") == std::string::npos) {
      for (float& v : values) v = static_cast<float>(random.Normal() * 0.02);
    }
    bytes.push_back(FloatsToBytes(values, DType::kF32));
    TensorView view;
    view.name = spec.name;
    view.shape = spec.shape;
    view.bytes = bytes.back();
    views.push_back(view);
  }
  CHOIR_CHECK(base::MakeDirectories(folder).ok());
  CHOIR_CHECK(base::WriteFileAtomic(base::JoinPath(folder, "config.json"),
                                    ModelConfigJson(config))
                  .ok());
  CHOIR_CHECK(base::WriteFileAtomic(base::JoinPath(folder, "model.safetensors"),
                                    EncodeSafetensors(std::move(views)))
                  .ok());
}

std::vector<Example> MakeBatch(const ModelConfig& config,
                               const std::string& folder) {
  base::SimRandom random(2);
  std::vector<Example> examples(kBatch);
  std::ofstream file(base::JoinPath(folder, "ids.json"));
  file << "[";
  for (int i = 0; i < kBatch; ++i) {
    file << (i == 0 ? "[" : ",[");
    for (int t = 0; t <= kTokens; ++t) {
      const auto id = static_cast<int32_t>(
          random.Below(static_cast<uint64_t>(config.vocab_size)));
      examples[i].ids.push_back(id);
      file << (t == 0 ? "" : ",") << id;
    }
    file << "]";
  }
  file << "]";
  return examples;
}

// Processor time of this process so far.
double CpuSeconds() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

int Main(const std::string& size, const std::string& folder, int threads) {
  const ModelConfig config = ConfigOf(size);
  WriteModel(config, folder);
  const std::vector<Example> examples = MakeBatch(config, folder);
  ConfigureCompute(threads);
  const auto base = LoadedModel::LoadFolder(folder, DeviceKind::kCpu, false);
  CHOIR_CHECK(base.ok());
  config::AdapterOptions adapter;
  adapter.rank = 8;
  adapter.alpha = 16.0;
  adapter.target_modules = LinearKinds(config);
  const auto trainer = Trainer::Create(*base, adapter).value();
  std::vector<float> values = InitialAdapter(trainer->layout(), 1);
  config::TrainingOptions options;
  options.batch_size = kBatch;
  options.max_sequence_length = kTokens + 1;
  options.local_steps = 1000000;
  options.local_epochs = 0;
  options.learning_rate = 1e-3;
  const auto start = trainer->Evaluate(values, examples, options, nullptr);
  CHOIR_CHECK(start.ok());
  std::cout << config.num_parameters() << " "
            << start->loss_sum / static_cast<double>(start->tokens)
            << std::endl;
  std::string line;
  if (!std::getline(std::cin, line)) return 0;
  using Clock = std::chrono::steady_clock;
  Clock::time_point begin = Clock::now();
  double cpu = CpuSeconds();
  const absl::Status status =
      trainer
          ->Train(absl::MakeSpan(values), examples, options, 1,
                  [&](int, int) -> absl::Status {
                    const std::chrono::duration<double> spent =
                        Clock::now() - begin;
                    std::cout << spent.count() << " " << CpuSeconds() - cpu
                              << std::endl;
                    if (!std::getline(std::cin, line)) {
                      return absl::CancelledError("end of input");
                    }
                    begin = Clock::now();
                    cpu = CpuSeconds();
                    return absl::OkStatus();
                  })
          .status();
  return absl::IsCancelled(status) ? 0 : 1;
}

}  // namespace
}  // namespace choir::model

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: train_step 10m|60m FOLDER THREADS\n";
    return 2;
  }
  return choir::model::Main(argv[1], argv[2], std::atoi(argv[3]));
}
