#include "proto/config/ascii_toml.h"

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace choir::config {
namespace {

// Length of the UTF-8 sequence at the front of `text` and its code point; 0 if
// there is none (also for overlong forms, surrogates and beyond U+10FFFF).
size_t DecodeUtf8(absl::string_view text, uint32_t* code_point) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < length) return 0;
  uint32_t value = lead & (0xFF >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
    value = (value << 6) | (byte(i) & 0x3F);
  }
  constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  if (value < kLeast[length] || value > 0x10FFFF ||
      (value >= 0xD800 && value <= 0xDFFF)) {
    return 0;
  }
  *code_point = value;
  return length;
}

// Where in a TOML document a character stands.
enum class Place {
  kPlain,
  kComment,
  kBasic,
  kLiteral,
  kBasicLines,
  kLiteralLines
};

// Follows the places of a document, character by character.
class PlaceTracker {
 public:
  Place place() const { return place_; }
  bool escaped() const { return escaped_; }

  // Passes what `rest` begins with and returns its length: 1, or 3 for the
  // quotes around text of many lines.
  size_t Pass(absl::string_view rest) {
    const char c = rest[0];
    if (escaped_) {
      escaped_ = false;
      return 1;
    }
    const bool one_line =
        place_ != Place::kBasicLines && place_ != Place::kLiteralLines;
    if (c == '\n' && one_line) {
      place_ = Place::kPlain;
      return 1;
    }
    switch (place_) {
      case Place::kComment:
        return 1;
      case Place::kPlain:
        return Open(rest);
      case Place::kBasic:
      case Place::kBasicLines:
        if (c == '\\') escaped_ = true;
        return Close(rest, "\"\"\"", place_ == Place::kBasicLines);
      default:
        return Close(rest, "'''", place_ == Place::kLiteralLines);
    }
  }

 private:
  size_t Open(absl::string_view rest) {
    if (absl::StartsWith(rest, "\"\"\"")) {
      place_ = Place::kBasicLines;
      return 3;
    }
    if (absl::StartsWith(rest, "'''")) {
      place_ = Place::kLiteralLines;
      return 3;
    }
    if (rest[0] == '"') place_ = Place::kBasic;
    if (rest[0] == '\'') place_ = Place::kLiteral;
    if (rest[0] == '#') place_ = Place::kComment;
    return 1;
  }

  size_t Close(absl::string_view rest, absl::string_view quotes, bool lines) {
    const absl::string_view end = quotes.substr(0, lines ? 3 : 1);
    if (!absl::StartsWith(rest, end)) return 1;
    place_ = Place::kPlain;
    return end.size();
  }

  Place place_ = Place::kPlain;
  bool escaped_ = false;
};

}  // namespace

absl::StatusOr<std::string> ToAsciiToml(absl::string_view text,
                                        absl::string_view source) {
  std::string out;
  PlaceTracker tracker;
  int line = 1;
  while (!text.empty()) {
    if (static_cast<uint8_t>(text[0]) < 0x80) {
      const size_t passed = tracker.Pass(text);
      line += text[0] == '\n' ? 1 : 0;
      absl::StrAppend(&out, text.substr(0, passed));
      text.remove_prefix(passed);
      continue;
    }
    uint32_t code_point = 0;
    const size_t length = DecodeUtf8(text, &code_point);
    if (length == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(source, " line ", line, ": the text is not UTF-8"));
    }
    const Place place = tracker.place();
    if ((place == Place::kBasic || place == Place::kBasicLines) &&
        !tracker.escaped()) {
      absl::StrAppendFormat(&out, "\\U%08X", code_point);
    } else if (place != Place::kComment) {
      return absl::InvalidArgumentError(absl::StrCat(
          source, " line ", line, ": the character '", text.substr(0, length),
          "' is only allowed in text in \"double quotes\" and in comments"));
    }
    text.remove_prefix(length);
  }
  return out;
}

}  // namespace choir::config
