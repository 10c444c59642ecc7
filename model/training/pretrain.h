// Training a small model from nothing, on the CPU: how choir-tiny is made.
#ifndef CHOIR_MODEL_TRAINING_PRETRAIN_H_
#define CHOIR_MODEL_TRAINING_PRETRAIN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "model/checkpoint/model_config.h"

namespace choir::model {

enum class DocumentSplit { kParagraphs, kLines, kFiles };

struct PretrainOptions {
  std::vector<std::string> corpus;  // text files
  DocumentSplit split = DocumentSplit::kParagraphs;
  std::string tokenizer;  // tokenizer.json; empty: trained on the corpus
  std::string out;        // folder
  // Sizes of the model; vocab_size is the tokenizer's.
  ModelConfig config;
  int vocab_size = 2048;
  uint64_t seed = 1;
  int batch = 32;  // windows of max_positions tokens in one step
  double learning_rate = 3e-3;
  double min_learning_rate = 3e-4;
  double weight_decay = 0.1;
  double beta2 = 0.95;
  double max_grad_norm = 1.0;
  double warmup = 0.02;   // share of the run
  double holdout = 0.01;  // share of the documents
  // At least one is positive; the run ends at the first.
  double minutes = 0.0;
  int64_t tokens = 0;
  double checkpoint_minutes = 5.0;
  int threads = 1;
  bool resume = false;
  std::string prompt;  // of the sample in the model card
  std::string name = "choir-tiny";
};

struct PretrainResult {
  int64_t parameters = 0;
  int64_t steps = 0;
  int64_t tokens = 0;
  double train_loss = 0.0;    // mean of the last steps, nats per token
  double heldout_loss = 0.0;  // of the weights as stored
  double seconds = 0.0;
  std::string sample;
};

// Writes config.json, model.safetensors (bfloat16), tokenizer.json,
// tokenizer_config.json and README.md into options.out, and, on the way, the
// state that --resume goes on from. Progress goes to stderr. With a limit in
// tokens alone the result depends on corpus and options only.
//
// Errors: INVALID_ARGUMENT for options that do not fit together, a corpus too
// small or a prompt too long; without --resume those of CheckNewFolder() for
// options.out; those of base/files.h; ABORTED if the loss
// stops being finite or the process was asked to stop (a checkpoint is written
// first).
absl::StatusOr<PretrainResult> Pretrain(const PretrainOptions& options);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRAINING_PRETRAIN_H_
