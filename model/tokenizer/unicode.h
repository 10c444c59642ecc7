// Characters: UTF-8, classes, case, and GPT-2's alphabet of bytes.
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

// What is not UTF-8 becomes U+FFFD, the rest stays: one for each longest run of
// bytes that could begin a character, as the Unicode standard recommends
// (chapter 3, "U+FFFD Substitution of Maximal Subparts").
std::string Utf8Lossy(absl::string_view bytes);
bool IsValidUtf8(absl::string_view bytes);

// General categories, in alphabetical order after the unassigned.
enum class Category : uint8_t {
  kCn,
  kCc,
  kCf,
  kCo,
  kCs,
  kLl,
  kLm,
  kLo,
  kLt,
  kLu,
  kMc,
  kMe,
  kMn,
  kNd,
  kNl,
  kNo,
  kPc,
  kPd,
  kPe,
  kPf,
  kPi,
  kPo,
  kPs,
  kSc,
  kSk,
  kSm,
  kSo,
  kZl,
  kZp,
  kZs
};
inline constexpr int kNumCategories = 30;
// kCn for an invalid code point.
Category CategoryOf(uint32_t code_point);

bool IsLetter(uint32_t code_point);      // \p{L}
bool IsNumber(uint32_t code_point);      // \p{N}
bool IsWhitespace(uint32_t code_point);  // \s, property White_Space
// Letters, marks, decimal digits, "_" and its like, and what joins letters: \w
// of Unicode Technical Standard 18 (Oniguruma's, that of our regular
// expressions, differs a little).
bool IsWord(uint32_t code_point);

// Appends the lower case of a valid code point, character by character.
void AppendLowercase(uint32_t code_point, std::string& out);

// GPT-2's alphabet: each byte has a printable character, so that any bytes are
// text. Source: openai/gpt-2, encoder.py, bytes_to_unicode().
uint32_t ByteToCodePoint(uint8_t byte);
// The byte of such a character, or -1.
int CodePointToByte(uint32_t code_point);
std::string BytesToAlphabet(absl::string_view bytes);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TOKENIZER_UNICODE_H_
