// The little of Unicode that tokenizers need.
#ifndef CHOIR_MODEL_TOKENIZER_UNICODE_H_
#define CHOIR_MODEL_TOKENIZER_UNICODE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace choir::model {

// U+10FFFF + 1: what an invalid byte decodes to; of no class below.
inline constexpr uint32_t kInvalidCodePoint = 0x110000;

struct Utf8Char {
  uint32_t code_point = kInvalidCodePoint;
  uint32_t length = 1;  // bytes; 1 for an invalid byte
};

// The character at `text[position]`; position must be below text.size().
// Overlong forms, surrogates and truncated sequences are invalid.
Utf8Char DecodeUtf8(absl::string_view text, size_t position);

// Appends a valid code point.
void AppendUtf8(uint32_t code_point, std::string& out);

// Bytes that are not UTF-8 become U+FFFD, the rest stays.
std::string Utf8Lossy(absl::string_view bytes);
bool IsValidUtf8(absl::string_view bytes);

bool IsLetter(uint32_t code_point);      // \p{L}
bool IsNumber(uint32_t code_point);      // \p{N}
bool IsWhitespace(uint32_t code_point);  // \s, property White_Space

// Inclusive ranges in ascending order (unicode_tables.cc).
struct CodePointRange {
  uint32_t first;
  uint32_t last;
};
absl::Span<const CodePointRange> LetterRanges();
absl::Span<const CodePointRange> NumberRanges();

// GPT-2's alphabet: each byte has a printable character, so that any bytes are
// text. Source: openai/gpt-2, encoder.py, bytes_to_unicode().
uint32_t ByteToCodePoint(uint8_t byte);
// The byte of such a character, or -1.
int CodePointToByte(uint32_t code_point);
std::string BytesToAlphabet(absl::string_view bytes);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TOKENIZER_UNICODE_H_
