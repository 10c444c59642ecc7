// Corpus, tokenizer and model card of a pretraining run; no LibTorch.
#ifndef CHOIR_MODEL_TRAINING_PRETRAIN_DATA_H_
#define CHOIR_MODEL_TRAINING_PRETRAIN_DATA_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/tokenizer/tokenizer.h"
#include "model/training/pretrain.h"

namespace choir::model {

struct PretrainData {
  std::unique_ptr<const Tokenizer> tokenizer;
  std::string tokenizer_json;
  // Documents one after another, each between BOS and EOS.
  std::vector<int32_t> train;
  std::vector<int32_t> heldout;
  int64_t documents = 0;
  std::string corpus_digest;  // SHA-256 over all files, hexadecimal
};

// Checks the options, reads the corpus, trains or reads the tokenizer, and
// holds out documents by a hash of their text.
// Errors: INVALID_ARGUMENT for options out of range and for a corpus with less
// than one window of held-out or training tokens; those of base/files.h.
absl::StatusOr<PretrainData> LoadPretrainData(const PretrainOptions& options);

// Names BOS and EOS as Hugging Face expects.
std::string TokenizerConfigJson(const Tokenizer& tokenizer);

// README.md: recipe, seed, losses and a sample.
std::string ModelCard(const PretrainOptions& options, const ModelConfig& config,
                      const PretrainData& data, const PretrainResult& result);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRAINING_PRETRAIN_DATA_H_
