// The parts of tokenizer.json around the BPE model, from JSON.
//
// Errors everywhere: INVALID_ARGUMENT naming the part, its type and the types
// that are known. The caller adds the file's name.
#ifndef CHOIR_MODEL_TOKENIZER_PIPELINE_JSON_H_
#define CHOIR_MODEL_TOKENIZER_PIPELINE_JSON_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/tokenizer/bpe_model.h"
#include "model/tokenizer/decoder.h"
#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/pre_tokenizer.h"
#include "nlohmann/json.hpp"

namespace choir::model {

// Null JSON is a part that does nothing.
absl::Status ParseNormalizer(const nlohmann::json& json, Normalizer& out);
absl::Status ParsePreTokenizer(const nlohmann::json& json, PreTokenizer& out);
absl::Status ParseDecoder(const nlohmann::json& json, TokenDecoder& out);

// The ids of the template before and after a single text.
struct TemplateIds {
  std::vector<int32_t> prefix;
  std::vector<int32_t> suffix;
};
absl::Status ParsePostProcessor(const nlohmann::json& json, TemplateIds& out);

absl::StatusOr<BpeOptions> ParseBpeModel(const nlohmann::json& json);
// Vocabulary alone: {"token": id, ...}, ids distinct and without wide gaps.
absl::Status ParseVocab(const nlohmann::json& json, BpeOptions& out);
// "left right" into the two.
absl::Status ParseMerge(absl::string_view text, BpeOptions& out);

// Ids are below this.
inline constexpr int32_t kMaxTokenId = 1 << 22;

}  // namespace choir::model

#endif  // CHOIR_MODEL_TOKENIZER_PIPELINE_JSON_H_
