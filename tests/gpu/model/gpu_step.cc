// The side of Choir in what tools/gpu_check compares with Hugging Face PEFT.
//
//   gpu_step bench FOLDER DEVICE
//       LoRA steps (r = 8, all linear layers, AdamW) on the batch in
//       FOLDER/ids.json. Prints {"parameters", "adapter_parameters", "loss"} of
//       the base, then does one step for each line on stdin and prints
//       {"seconds"}.
//   gpu_step adapter FOLDER DEVICE KIND OUT
//       Trains an adapter of KIND (lora, rslora, dora, ia3) for a few steps on
//       the same file, in float32, and writes it as a PEFT folder.
//
// FOLDER is a Hugging Face model; DEVICE is cuda (bfloat16) or cpu.
#include <chrono>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "model/adapter/lora_layout.h"
#include "model/adapter/peft_folder.h"
#include "model/compute.h"
#include "model/loaded_model.h"
#include "model/training/trainer.h"
#include "nlohmann/json.hpp"

namespace choir::model {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

absl::StatusOr<std::vector<Example>> ReadIds(const std::string& folder) {
  CHOIR_ASSIGN_OR_RETURN(const std::string text,
                         base::ReadFile(base::JoinPath(folder, "ids.json")));
  const json rows = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!rows.is_array() || rows.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(folder, "/ids.json is not a list of lists of ids"));
  }
  std::vector<Example> examples(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    for (const json& id : rows[i]) {
      examples[i].ids.push_back(id.get<int32_t>());
    }
  }
  return examples;
}

absl::StatusOr<std::shared_ptr<const LoadedModel>> Load(
    const std::string& folder, const std::string& device, bool wide) {
  ConfigureCompute(1);
  LoadOptions options;
  options.device = device == "cuda" ? DeviceKind::kCuda : DeviceKind::kCpu;
  if (wide) options.precision = WeightFormat::kFloat32;
  return LoadedModel::LoadFolder(folder, options, /*with_tokenizer=*/false);
}

config::TrainingOptions Training(const std::vector<Example>& examples,
                                 int steps) {
  config::TrainingOptions options;
  options.objective = config::Objective::kCausalLm;
  options.batch_size = static_cast<int>(examples.size());
  options.max_sequence_length = static_cast<int>(examples[0].ids.size());
  options.local_steps = steps;
  options.local_epochs = 0;
  options.learning_rate = 1e-4;
  return options;
}

// Waits until the device has done all that it was told.
void Synchronize(at::Device device) {
  at::zeros({1}, at::TensorOptions().device(device)).item<float>();
}

absl::Status Bench(const std::string& folder, const std::string& device) {
  CHOIR_ASSIGN_OR_RETURN(const std::vector<Example> examples, ReadIds(folder));
  CHOIR_ASSIGN_OR_RETURN(const std::shared_ptr<const LoadedModel> model,
                         Load(folder, device, /*wide=*/false));
  const ModelConfig& config = model->decoder().config();
  config::AdapterOptions adapter;
  adapter.target_modules = LinearKinds(config);
  CHOIR_ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> trainer,
                         Trainer::Create(model, adapter));
  std::vector<float> values = InitialAdapter(trainer->layout(), 1);
  const config::TrainingOptions options = Training(examples, 1000000);
  CHOIR_ASSIGN_OR_RETURN(const EvalResult start,
                         trainer->Evaluate(values, examples, options, nullptr));
  std::cout << json{{"parameters", config.num_parameters()},
                    {"adapter_parameters", trainer->layout().num_elements()},
                    {"loss",
                     start.loss_sum / static_cast<double>(start.tokens)}}
            << std::endl;
  std::string line;
  if (!std::getline(std::cin, line)) return absl::OkStatus();
  Clock::time_point begin = Clock::now();
  const auto step = [&](int, int) -> absl::Status {
    Synchronize(model->decoder().device());
    const std::chrono::duration<double> spent = Clock::now() - begin;
    std::cout << json{{"seconds", spent.count()}} << std::endl;
    if (!std::getline(std::cin, line)) return absl::CancelledError("done");
    begin = Clock::now();
    return absl::OkStatus();
  };
  const absl::Status status =
      trainer->Train(absl::MakeSpan(values), examples, options, 1, step)
          .status();
  return absl::IsCancelled(status) ? absl::OkStatus() : status;
}

absl::StatusOr<config::AdapterOptions> AdapterOf(const std::string& kind) {
  config::AdapterOptions options;
  options.target_modules = {"down_proj", "k_proj", "q_proj", "v_proj"};
  options.rank = 4;
  options.alpha = 8;
  if (kind == "lora") return options;
  if (kind == "rslora") {
    options.rank_stabilized = true;
    return options;
  }
  if (kind == "dora") {
    options.kind = config::AdapterKind::kDora;
    return options;
  }
  if (kind == "ia3") {
    options.kind = config::AdapterKind::kIa3;
    options.feedforward_modules = {"down_proj"};
    return options;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", kind, "\" is none of lora, rslora, dora, ia3"));
}

absl::Status MakeAdapter(const std::string& folder, const std::string& device,
                         const std::string& kind, const std::string& out) {
  CHOIR_ASSIGN_OR_RETURN(const std::vector<Example> examples, ReadIds(folder));
  CHOIR_ASSIGN_OR_RETURN(const config::AdapterOptions adapter, AdapterOf(kind));
  CHOIR_ASSIGN_OR_RETURN(const std::shared_ptr<const LoadedModel> model,
                         Load(folder, device, /*wide=*/true));
  CHOIR_ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> trainer,
                         Trainer::Create(model, adapter));
  const ModelConfig& config = model->decoder().config();
  CHOIR_ASSIGN_OR_RETURN(
      std::vector<float> values,
      InitialAdapterOf(folder, config, adapter, trainer->layout(), 1));
  config::TrainingOptions options = Training(examples, 10);
  options.learning_rate = 1e-2;
  CHOIR_RETURN_IF_ERROR(
      trainer->Train(absl::MakeSpan(values), examples, options, 1, nullptr)
          .status());
  return WriteTrainedAdapter(out, config, adapter, values, folder);
}

int Main(const std::vector<std::string>& args) {
  absl::Status status = absl::InvalidArgumentError(
      "usage: gpu_step bench FOLDER DEVICE | "
      "gpu_step adapter FOLDER DEVICE KIND OUT");
  if (args.size() == 3 && args[0] == "bench") {
    status = Bench(args[1], args[2]);
  } else if (args.size() == 5 && args[0] == "adapter") {
    status = MakeAdapter(args[1], args[2], args[3], args[4]);
  }
  if (status.ok()) return 0;
  std::cerr << "gpu_step: " << status << "\n";
  return 1;
}

}  // namespace
}  // namespace choir::model

int main(int argc, char** argv) {
  return choir::model::Main(std::vector<std::string>(argv + 1, argv + argc));
}
