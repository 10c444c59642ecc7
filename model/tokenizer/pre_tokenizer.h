// Cuts a text into the words that BPE merges within: the "pre_tokenizer" of
// tokenizer.json.
#ifndef CHOIR_MODEL_TOKENIZER_PRE_TOKENIZER_H_
#define CHOIR_MODEL_TOKENIZER_PRE_TOKENIZER_H_

#include <cstddef>

#include "absl/strings/string_view.h"

namespace choir::model {

// Where the word that begins at `begin` ends: a position in
// (begin, text.size()]. Stateless, so that it is a plain function; a further
// word pattern is a further function of this kind.
using WordEnd = size_t (*)(absl::string_view text, size_t begin);

// The whole text is one word.
size_t WholeTextEnd(absl::string_view text, size_t begin);

// GPT-2's pattern:
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// An invalid byte counts as a symbol.
size_t Gpt2WordEnd(absl::string_view text, size_t begin);

struct PreTokenizer {
  WordEnd word_end = &WholeTextEnd;
  // Words are bytes in GPT-2's alphabet rather than characters.
  bool byte_level = false;
  // A text that does not begin with a space gets one.
  bool add_prefix_space = false;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_TOKENIZER_PRE_TOKENIZER_H_
