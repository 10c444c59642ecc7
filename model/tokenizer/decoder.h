// Tokens to text: the "decoder" of tokenizer.json.
#ifndef CHOIR_MODEL_TOKENIZER_DECODER_H_
#define CHOIR_MODEL_TOKENIZER_DECODER_H_

#include <string>
#include <vector>

namespace choir::model {

// Steps in order, each over a list of tokens. Without steps the tokens are
// joined by a space. Threads: safe once built.
class TokenDecoder {
 public:
  // Replaces every `pattern`, which is not empty, in each token.
  void AddReplace(std::string pattern, std::string content);
  // "<0xE2>" becomes a byte; runs that are not UTF-8 become one U+FFFD a byte.
  void AddByteFallback();
  // Joins all tokens to one.
  void AddFuse();
  // Takes up to `start` `content`s from the front, `stop` from the end, of
  // each token. `content` is not empty.
  void AddStrip(std::string content, size_t start, size_t stop);
  // GPT-2's alphabet to bytes, joined. A token with other characters stays.
  void AddByteLevel();

  std::string Decode(std::vector<std::string> tokens) const;

 private:
  enum class Kind { kReplace, kByteFallback, kFuse, kStrip, kByteLevel };
  struct Step {
    Kind kind;
    std::string pattern;
    std::string content;
    size_t start = 0;
    size_t stop = 0;
  };
  std::vector<Step> steps_;
};

// The byte of a token of the form "<0xE2>", or -1.
int ByteOfToken(const std::string& token);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TOKENIZER_DECODER_H_
