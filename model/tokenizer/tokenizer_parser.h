// Builds a Tokenizer from the files that describe one.
#ifndef CHOIR_MODEL_TOKENIZER_TOKENIZER_PARSER_H_
#define CHOIR_MODEL_TOKENIZER_TOKENIZER_PARSER_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/tokenizer/pipeline_json.h"
#include "model/tokenizer/tokenizer.h"
#include "nlohmann/json.hpp"

namespace choir::model {

// The order of calls is Normalize, PreTokenize, Decode, Model, AddToken for
// each, Template, ApplyConfig, Finish. Threads: one at a time per object.
class TokenizerParser {
 public:
  // The keys of tokenizer_config.json that name special tokens.
  static constexpr const char* kNamedTokens[] = {
      "bos_token", "eos_token", "unk_token",  "sep_token",
      "pad_token", "cls_token", "mask_token", "additional_special_tokens"};

  TokenizerParser() : tokenizer_(new Tokenizer()) {}

  absl::Status Model(BpeOptions options);
  absl::Status Normalize(const nlohmann::json& part) {
    return ParseNormalizer(part, tokenizer_->normalizer_);
  }
  absl::Status PreTokenize(const nlohmann::json& part) {
    return ParsePreTokenizer(part, tokenizer_->pre_tokenizer_);
  }
  absl::Status Decode(const nlohmann::json& part) {
    return ParseDecoder(part, tokenizer_->decoder_);
  }
  absl::Status AddToken(const nlohmann::json& entry);
  // {"id": {"content": .., ..}, ..}, of which those already there are left.
  bool IsAdded(const std::string& content, bool special);
  absl::Status AddConfigTokens(const nlohmann::json& added_tokens_decoder);
  absl::Status Template(const nlohmann::json& part);
  // tokenizer_config.json; null changes nothing. `open_template`: the other
  // files do not say what surrounds a text, so this one does.
  absl::Status ApplyConfig(const nlohmann::json& config, bool open_template);
  std::unique_ptr<Tokenizer> Finish();

 private:
  absl::Status Register(const std::string& token, int32_t id);
  absl::Status NameToken(const nlohmann::json& config, const char* key,
                         std::optional<int32_t>& id);
  absl::Status AddNamedTokens(const nlohmann::json& config);
  absl::Status SurroundByConfig(const nlohmann::json& config,
                                bool open_template);

  std::unique_ptr<Tokenizer> tokenizer_;
  size_t num_tokens_ = 0;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_TOKENIZER_TOKENIZER_PARSER_H_
