#include "model/tokenizer/pre_tokenizer.h"

#include <cstdint>

#include "model/tokenizer/unicode.h"

namespace choir::model {
namespace {

enum class Class { kLetter, kNumber, kSpace, kSymbol };

Class ClassOf(uint32_t c) {
  if (IsLetter(c)) return Class::kLetter;
  if (IsNumber(c)) return Class::kNumber;
  if (IsWhitespace(c)) return Class::kSpace;
  return Class::kSymbol;
}

// The end of the run of characters of `wanted` that begins at `begin`.
size_t RunEnd(absl::string_view text, size_t begin, Class wanted) {
  size_t end = begin;
  while (end < text.size()) {
    const Utf8Char c = DecodeUtf8(text, end);
    if (ClassOf(c.code_point) != wanted) break;
    end += c.length;
  }
  return end;
}

// Length of an English contraction at `begin`, or 0.
size_t Contraction(absl::string_view text, size_t begin) {
  if (text[begin] != '\'') return 0;
  const absl::string_view rest = text.substr(begin + 1, 2);
  if (rest == "re" || rest == "ve" || rest == "ll") return 3;
  if (!rest.empty() && (rest[0] == 's' || rest[0] == 't' || rest[0] == 'm' ||
                        rest[0] == 'd')) {
    return 2;
  }
  return 0;
}

// White space not led by a single space and a word: all of it at the end of
// the text, else all but its last character, which belongs to what follows;
// alone it stands for itself.
size_t WhitespaceEnd(absl::string_view text, size_t begin) {
  size_t end = begin;
  size_t last = begin;
  while (end < text.size()) {
    const Utf8Char c = DecodeUtf8(text, end);
    if (!IsWhitespace(c.code_point)) break;
    last = end;
    end += c.length;
  }
  return end < text.size() && last > begin ? last : end;
}

}  // namespace

size_t WholeTextEnd(absl::string_view text, size_t begin) {
  return text.size();
}

size_t Gpt2WordEnd(absl::string_view text, size_t begin) {
  const size_t contraction = Contraction(text, begin);
  if (contraction > 0) return begin + contraction;
  size_t word = begin;
  Class first = ClassOf(DecodeUtf8(text, begin).code_point);
  if (text[begin] == ' ' && begin + 1 < text.size()) {
    const Class next = ClassOf(DecodeUtf8(text, begin + 1).code_point);
    if (next != Class::kSpace) {
      word = begin + 1;
      first = next;
    }
  }
  if (first == Class::kSpace) return WhitespaceEnd(text, begin);
  return RunEnd(text, word, first);
}

}  // namespace choir::model
