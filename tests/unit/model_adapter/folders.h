// Small checkpoints and adapters of several families, without LibTorch.
#ifndef CHOIR_TESTS_UNIT_MODEL_ADAPTER_FOLDERS_H_
#define CHOIR_TESTS_UNIT_MODEL_ADAPTER_FOLDERS_H_

#include <map>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/files.h"
#include "base/sim_random.h"
#include "model/adapter/lora_layout.h"
#include "model/adapter/peft_folder.h"
#include "model/checkpoint/families.h"
#include "model/checkpoint/quantize_checkpoint.h"
#include "model/checkpoint/safetensors.h"
#include "model/checkpoint/tensor_files.h"
#include "tests/support/golden.h"

namespace choir::tests {

using config::AdapterKind;

inline model::ModelConfig SmallConfig(model::Family family) {
  using model::Family;
  const char* text = nullptr;
  switch (family) {
    case Family::kGpt2:
      text = R"({"architectures":["GPT2LMHeadModel"],"model_type":"gpt2",
        "vocab_size":40,"n_embd":16,"n_layer":2,"n_head":2,"n_positions":32,
        "n_inner":24,"activation_function":"gelu_new",
        "layer_norm_epsilon":1e-5})";
      break;
    case Family::kMixtral:
      text = R"({"architectures":["MixtralForCausalLM"],
        "model_type":"mixtral","vocab_size":40,"hidden_size":16,
        "intermediate_size":24,"num_hidden_layers":2,"num_attention_heads":4,
        "num_key_value_heads":2,"max_position_embeddings":32,
        "num_local_experts":3,"num_experts_per_tok":2,"hidden_act":"silu",
        "rms_norm_eps":1e-5})";
      break;
    case Family::kQwen2:
      text = R"({"architectures":["Qwen2ForCausalLM"],"model_type":"qwen2",
        "vocab_size":40,"hidden_size":16,"intermediate_size":24,
        "num_hidden_layers":2,"num_attention_heads":4,
        "num_key_value_heads":2,"max_position_embeddings":32,
        "hidden_act":"silu","rms_norm_eps":1e-5})";
      break;
    default:
      text = R"({"architectures":["LlamaForCausalLM"],"model_type":"llama",
        "vocab_size":40,"hidden_size":16,"intermediate_size":24,
        "num_hidden_layers":2,"num_attention_heads":4,
        "num_key_value_heads":2,"max_position_embeddings":32,
        "hidden_act":"silu","rms_norm_eps":1e-5})";
  }
  const auto config = model::ParseModelConfig(text, "small");
  CHOIR_CHECK(config.ok());
  return *config;
}

inline std::vector<float> Normals(int64_t count, uint64_t seed, double stddev) {
  base::SimRandom random(seed);
  std::vector<float> values(count);
  for (float& v : values) v = static_cast<float>(random.Normal() * stddev);
  return values;
}

// config.json and weights of `dtype`; with `shards` > 1 as many files and an
// index, the tensors dealt out in turn.
inline std::string WriteCheckpoint(const model::ModelConfig& config,
                                   model::DType dtype = model::DType::kF32,
                                   int shards = 1) {
  const std::string folder = NewTempDir();
  const std::vector<codec::TensorSpec> specs = model::ModelTensors(config);
  std::vector<std::string> bytes(specs.size());
  std::vector<std::vector<model::TensorView>> files(shards);
  std::string map;
  for (size_t i = 0; i < specs.size(); ++i) {
    bytes[i] =
        model::FloatsToBytes(Normals(specs[i].num_elements(),
                                     base::DeriveSeed(3, {specs[i].name}), 0.3),
                             dtype);
    files[i % shards].push_back(
        {specs[i].name, dtype, specs[i].shape, bytes[i]});
    map += (i == 0 ? "\"" : ",\"") + specs[i].name + "\":\"part-" +
           std::to_string(i % shards) + ".safetensors\"";
  }
  const auto write = [&](const std::string& name, const std::string& text) {
    CHOIR_CHECK(base::WriteFileAtomic(base::JoinPath(folder, name), text).ok());
  };
  for (int s = 0; s < shards; ++s) {
    write(shards == 1 ? std::string("model.safetensors")
                      : "part-" + std::to_string(s) + ".safetensors",
          model::EncodeSafetensors(files[s]));
  }
  if (shards > 1) {
    write("model.safetensors.index.json",
          R"({"metadata":{"total_size":1},"weight_map":{)" + map + "}}");
  }
  write("config.json", model::ModelConfigJson(config));
  write("notes.txt", "kept");
  return folder;
}

// The checkpoint in `folder`, quantised.
inline std::string Quantised(const std::string& folder,
                             model::WeightFormat format) {
  const std::string out = base::JoinPath(NewTempDir(), "quantised");
  CHOIR_CHECK(model::QuantizeCheckpoint(folder, format, out).ok());
  return out;
}

// Options of each kind that fit SmallConfig(family), with a few targets.
inline config::AdapterOptions SmallOptions(model::Family family,
                                           AdapterKind kind) {
  config::AdapterOptions options;
  options.kind = kind;
  options.rank = 3;
  options.alpha = 5;
  options.frozen_seed = 11;
  if (kind == AdapterKind::kLofit) {
    options.lofit_heads = 3;
    return options;
  }
  if (family == model::Family::kGpt2) {
    options.target_modules = {"c_attn", "c_fc"};
    if (kind == AdapterKind::kIa3) options.feedforward_modules = {"c_fc"};
  } else if (family == model::Family::kMixtral) {
    options.target_modules = {"q_proj", "w1", "w2"};
    if (kind == AdapterKind::kIa3) options.feedforward_modules = {"w2"};
  } else {
    options.target_modules = {"down_proj", "k_proj", "q_proj"};
    if (kind == AdapterKind::kIa3) options.feedforward_modules = {"down_proj"};
  }
  return options;
}

// Random values in every tensor.
inline model::PeftAdapter RandomAdapter(const model::ModelConfig& config,
                                        const config::AdapterOptions& options,
                                        uint64_t seed) {
  model::PeftAdapter adapter;
  adapter.options = options;
  adapter.layout = model::StoredLayout(config, options).value();
  adapter.values = Normals(adapter.layout.num_elements(), seed, 0.5);
  adapter.base_model = "small";
  return adapter;
}

// Every tensor of a checkpoint folder.
inline std::map<std::string, std::vector<float>> ReadAll(
    const std::string& folder) {
  const auto config =
      model::LoadModelConfig(base::JoinPath(folder, "config.json"));
  CHOIR_CHECK(config.ok());
  const auto files = model::TensorFiles::Open(folder, *config);
  CHOIR_CHECK(files.ok());
  std::map<std::string, std::vector<float>> all;
  for (const auto& file : files->files()) {
    for (const model::TensorView& tensor : file->tensors()) {
      all[tensor.name] = model::ReadFloats(tensor).value();
    }
  }
  return all;
}

inline absl::Span<const float> ValuesOf(const model::PeftAdapter& adapter,
                                        const std::string& name) {
  for (size_t i = 0; i < adapter.layout.tensors().size(); ++i) {
    if (adapter.layout.tensors()[i].name != name) continue;
    return absl::MakeConstSpan(adapter.values)
        .subspan(adapter.layout.offset(i),
                 adapter.layout.tensors()[i].num_elements());
  }
  return {};
}

}  // namespace choir::tests

#endif  // CHOIR_TESTS_UNIT_MODEL_ADAPTER_FOLDERS_H_
