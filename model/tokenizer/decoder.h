// Tokens to text: the "decoder" of tokenizer.json.
#ifndef CHOIR_MODEL_TOKENIZER_DECODER_H_
#define CHOIR_MODEL_TOKENIZER_DECODER_H_

#include <memory>
#include <string>
#include <vector>

#include "model/tokenizer/regex.h"

namespace choir::model {

// Steps in order, each over a list of tokens. Without steps the tokens are
// joined by a space. Threads: safe once built.
class TokenDecoder {
 public:
  // Replaces every `pattern`, which is not empty, in each token.
  void AddReplace(std::string pattern, std::string content);
  void AddReplace(Regex pattern, std::string content);
  // "<0xE2>" becomes a byte; runs that are not UTF-8 become one U+FFFD a byte,
  // each a token.
  void AddByteFallback();
  // Joins all tokens to one.
  void AddFuse();
  // Takes up to `start` `content`s from the front, `stop` from the end, of
  // each token. `content` is not empty.
  void AddStrip(std::string content, size_t start, size_t stop);
  // Each `replacement` becomes a space; with `skip_first`, none in the first
  // token.
  void AddMetaspace(std::string replacement, bool skip_first);
  // `suffix`, which is not empty, becomes a space, but in the last token
  // nothing.
  void AddSuffix(std::string suffix);
  // GPT-2's alphabet to bytes, joined. A token with other characters stays.
  void AddByteLevel();

  std::string Decode(std::vector<std::string> tokens) const;

  // Whether bytes of several tokens become characters together (byte fallback).
  bool joins_bytes() const;

 private:
  enum class Kind {
    kReplace,
    kRegex,
    kByteFallback,
    kFuse,
    kStrip,
    kMetaspace,
    kSuffix,
    kByteLevel
  };
  struct Step {
    Kind kind;
    std::string pattern;
    std::string content;
    size_t start = 0;
    size_t stop = 0;
    bool skip_first = false;
    std::shared_ptr<const Regex> regex;  // copies of a decoder share it
  };
  static void ApplyStep(const Step& step, std::vector<std::string>& tokens);

  std::vector<Step> steps_;
};

// The byte of a token of the form "<0xE2>", or -1.
int ByteOfToken(const std::string& token);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TOKENIZER_DECODER_H_
