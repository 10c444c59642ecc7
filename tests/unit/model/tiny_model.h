// A model of a few thousand parameters in a folder, with its tokenizer.
#ifndef CHOIR_TESTS_UNIT_MODEL_TINY_MODEL_H_
#define CHOIR_TESTS_UNIT_MODEL_TINY_MODEL_H_

#include <cmath>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/files.h"
#include "base/sim_random.h"
#include "model/checkpoint/families.h"
#include "model/checkpoint/model_config.h"
#include "model/checkpoint/safetensors.h"
#include "model/tokenizer/bpe_trainer.h"
#include "model/training/trainer.h"
#include "tests/support/golden.h"

namespace choir::tests {

inline model::ModelConfig TinyConfig() {
  model::ModelConfig config;
  config.vocab_size = 300;
  config.hidden_size = 24;
  config.intermediate_size = 40;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 6;
  config.max_positions = 64;
  config.norm_eps = 1e-5;
  config.tie_word_embeddings = true;
  return config;
}

// Writes config.json, model.safetensors and tokenizer.json into a new folder.
// Weights are normal with standard deviation `scale`.
inline std::string WriteTinyModel(const model::ModelConfig& config,
                                  double scale = 0.1) {
  const std::string folder = NewTempDir();
  const std::vector<codec::TensorSpec> tensors = model::ModelTensors(config);
  std::vector<std::string> bytes(tensors.size());
  std::vector<model::TensorView> views;
  for (size_t i = 0; i < tensors.size(); ++i) {
    base::SimRandom random(base::DeriveSeed(7, {tensors[i].name}));
    std::vector<float> values(tensors[i].num_elements(), 1.0f);
    if (tensors[i].name.find("norm") == std::string::npos) {
      for (float& v : values) v = static_cast<float>(random.Normal() * scale);
    }
    bytes[i] = model::FloatsToBytes(values, model::DType::kF32);
    model::TensorView view;
    view.name = tensors[i].name;
    view.shape = tensors[i].shape;
    view.bytes = bytes[i];
    views.push_back(view);
  }
  model::BpeTrainerOptions bpe;
  bpe.vocab_size = 280;
  bpe.add_bos = true;
  const auto tokenizer = model::TrainBpe(
      std::vector<std::string>(4,
                               "the apple is a fruit of the tree; a tree "
                               "is a tall plant that bears the apple"),
      bpe);
  CHOIR_CHECK(tokenizer.ok());
  const std::pair<std::string, std::string> files[] = {
      {"config.json", model::ModelConfigJson(config)},
      {"tokenizer.json", *tokenizer},
      {"tokenizer_config.json",
       R"({"bos_token":"<|begin|>","eos_token":"<|end|>"})"},
      {"model.safetensors", model::EncodeSafetensors(std::move(views))}};
  for (const auto& [name, contents] : files) {
    CHOIR_CHECK(
        base::WriteFileAtomic(base::JoinPath(folder, name), contents).ok());
  }
  return folder;
}

inline std::vector<model::Example> RandomExamples(int count, int length,
                                                  int64_t vocabulary,
                                                  uint64_t seed) {
  base::SimRandom random(seed);
  std::vector<model::Example> examples(count);
  for (int i = 0; i < count; ++i) {
    const int n = length - i % 5;
    for (int t = 0; t < n; ++t) {
      examples[i].ids.push_back(
          static_cast<int32_t>((t > 0 && random.Below(2) == 0)
                                   ? (examples[i].ids.back() + 1) % vocabulary
                                   : random.Below(vocabulary)));
    }
    examples[i].loss_begin = 1 + i % 4;
  }
  return examples;
}

}  // namespace choir::tests

#endif  // CHOIR_TESTS_UNIT_MODEL_TINY_MODEL_H_
