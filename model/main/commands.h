// The verbs of choir-model. Each prints its result on stdout and returns OK, or
// prints nothing and returns what is wrong.
#ifndef CHOIR_MODEL_MAIN_COMMANDS_H_
#define CHOIR_MODEL_MAIN_COMMANDS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "model/device_kind.h"
#include "model/training/pretrain.h"

namespace choir::model {

struct CommonOptions {
  bool json = false;
  std::string model;
  std::string adapter;
  std::string device = "auto";
  int threads = 1;
  std::string precision = "stored";  // of the frozen weights
  std::vector<int64_t> experts;      // to hold; empty: all
};

absl::Status RunInspect(const CommonOptions& common);

struct TokenizeOptions {
  bool decode = false;
  bool no_special = false;
  // Standard input is a conversation: a list of {"role", "content"}, alone or
  // as "messages" of an object.
  bool chat = false;
  std::string chat_format;         // empty: "model"
  bool generation_prompt = false;  // the assistant's turn is next
};
absl::Status RunTokenize(const CommonOptions& common,
                         const TokenizeOptions& options);

struct EvalOptions {
  std::string ids;   // JSON file
  std::string text;  // text file
  std::string data;  // JSON lines
  std::string domain_field;
  std::string chat_format;  // of conversations in `data`; empty: "model"
  std::string logits;
  std::vector<std::string> labels;  // of a classifier, in their order
};
absl::Status RunEval(const CommonOptions& common, const EvalOptions& options);

struct GenerateFlags {
  std::string prompt;
  int max_tokens = 64;
  double temperature = 0.0;
  double top_p = 1.0;
  uint64_t seed = 1;
  std::vector<std::string> stops;
};
absl::Status RunGenerate(const CommonOptions& common,
                         const GenerateFlags& flags);

struct PretrainFlags {
  PretrainOptions options;
  std::string split = "paragraphs";
};
absl::Status RunPretrain(const CommonOptions& common, PretrainFlags flags);

}  // namespace choir::model

#endif  // CHOIR_MODEL_MAIN_COMMANDS_H_
