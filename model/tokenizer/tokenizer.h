// Text to token ids and back, exactly as Hugging Face tokenizers do it, for BPE
// models: byte-level (GPT-2, Llama 3, Qwen, OLMoE) and with byte fallback
// (Llama 2, Mistral).
#ifndef CHOIR_MODEL_TOKENIZER_TOKENIZER_H_
#define CHOIR_MODEL_TOKENIZER_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/bpe_model.h"
#include "model/tokenizer/decoder.h"
#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/pre_tokenizer.h"

namespace choir::model {

// The largest tokenizer.json that is read.
inline constexpr uint64_t kMaxTokenizerBytes = 128u << 20;

// Threads: safe, nothing changes after loading.
class Tokenizer {
 public:
  Tokenizer(const Tokenizer&) = default;

  // Reads tokenizer.json. Errors: those of base/files.h and of Parse.
  static absl::StatusOr<std::unique_ptr<const Tokenizer>> LoadFile(
      const std::string& path);
  // tokenizer.json if the folder has one, else vocab.json and merges.txt (of
  // GPT-2, or of Qwen2 if tokenizer_config.json says so), added_tokens.json.
  // tokenizer_config.json and special_tokens_map.json, if there, name BOS, EOS
  // and other special tokens; the first also adds tokens, says whether a text
  // gets BOS and EOS where the file above leaves that open (add_bos_token,
  // add_eos_token of Llama's and GPT-2's classes), and has the chat template,
  // if chat_template.jinja does not.
  static absl::StatusOr<std::unique_ptr<const Tokenizer>> LoadFolder(
      const std::string& directory);
  // Errors: INVALID_ARGUMENT naming `source`, the part of the file and the
  // problem, for broken JSON and for parts that Choir does not know.
  static absl::StatusOr<std::unique_ptr<const Tokenizer>> Parse(
      absl::string_view json_text, absl::string_view source);
  // GPT-2's two files: byte-level, no BOS or EOS added.
  static absl::StatusOr<std::unique_ptr<const Tokenizer>> ParseVocabAndMerges(
      absl::string_view vocab_json, absl::string_view merges_text,
      absl::string_view source);

  // The ids of `text`, which may be any bytes; with `add_special`, what the
  // model's template puts around a text (most often BOS) as well. Special
  // tokens written out in `text` become their ids.
  // Cost: O(n log n) in the worst case; tests/bench/tokenizer measures English.
  std::vector<int32_t> Encode(absl::string_view text, bool add_special) const;

  // The text of `ids`. Byte-level tokenizers give back any bytes, so the text
  // of a part of a character is not valid UTF-8 (see Utf8Lossy in unicode.h).
  // Errors: INVALID_ARGUMENT for an id outside the vocabulary.
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids,
                                     bool skip_special = true) const;

  // Highest id + 1.
  int32_t vocab_size() const {
    return static_cast<int32_t>(id_to_token_.size());
  }
  // The same without the added tokens at its end, which a model may lack: it
  // works as long as none of them occurs.
  int32_t own_vocab_size() const;
  std::optional<int32_t> bos_id() const { return bos_id_; }
  std::optional<int32_t> eos_id() const { return eos_id_; }
  // What the template puts before and after a text.
  absl::Span<const int32_t> prefix_ids() const { return prefix_ids_; }
  absl::Span<const int32_t> suffix_ids() const { return suffix_ids_; }
  // The folder's chat template in Jinja, empty if it has none; see
  // chat_template.h.
  const std::string& chat_template() const { return chat_template_; }
  // As written in the file: byte-level tokens in GPT-2's alphabet.
  std::optional<int32_t> TokenToId(absl::string_view token) const;
  // Empty for an id that no token has.
  absl::string_view IdToToken(int32_t id) const;
  bool IsSpecial(int32_t id) const;
  // A byte by itself ("<0xE2>") that Decode joins with those around it: as long
  // as only such bytes follow, even the characters before may still turn into
  // U+FFFD.
  bool IsFallbackByte(int32_t id) const;

 private:
  friend class TokenizerParser;
  Tokenizer() = default;

  void EncodePiece(absl::string_view text, bool at_start,
                   std::vector<int32_t>& ids) const;
  AddedTokens raw_added_;         // matched before normalisation
  AddedTokens normalized_added_;  // matched after it
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  BpeModel model_;
  TokenDecoder decoder_;
  std::vector<int32_t> prefix_ids_;  // the template before and after a text
  std::vector<int32_t> suffix_ids_;
  std::vector<std::string> id_to_token_;
  std::vector<bool> special_;
  absl::flat_hash_map<std::string, int32_t> added_ids_;
  std::optional<int32_t> bos_id_;
  std::optional<int32_t> eos_id_;
  std::string chat_template_;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_TOKENIZER_TOKENIZER_H_
