// Tokens that are found in a text as they stand, before BPE sees it.
#ifndef CHOIR_MODEL_TOKENIZER_ADDED_TOKENS_H_
#define CHOIR_MODEL_TOKENIZER_ADDED_TOKENS_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace choir::model {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool single_word = false;  // only between characters that are not words
  bool lstrip = false;       // swallows white space before it
  bool rstrip = false;       // and after it
};

// A part of a text: an added token, or (no id) what lies between them.
struct TextPart {
  absl::string_view text;
  std::optional<int32_t> id;
};

// Threads: safe once all are added.
class AddedTokens {
 public:
  // content must not be empty.
  void Add(AddedToken token);
  bool empty() const { return tokens_.empty(); }

  // The leftmost longest tokens of `text` and what lies between, in order,
  // without empty parts. The parts borrow `text`.
  std::vector<TextPart> Split(absl::string_view text) const;

 private:
  const AddedToken* MatchAt(absl::string_view text, size_t position) const;

  std::vector<AddedToken> tokens_;
  // Indexes of the tokens that begin with a byte, longest first.
  std::array<std::vector<int>, 256> by_first_byte_;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_TOKENIZER_ADDED_TOKENS_H_
