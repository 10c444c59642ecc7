// Regular expressions of tokenizer.json, compiled to a table once.
//
// The table is a deterministic automaton whose states are ordered lists of
// what could still match, so that the first alternative wins as in a
// backtracking matcher, without backtracking. Look-around for one character is
// decided when that character is read.
//
// Source: Cox, "Regular Expression Matching: the Virtual Machine Approach"
//         (2009), on ordered threads.
#ifndef CHOIR_MODEL_TOKENIZER_REGEX_H_
#define CHOIR_MODEL_TOKENIZER_REGEX_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace choir::model {

// Bytes of the character at `position`; 1 at the end of the text.
size_t NextCharacterLength(absl::string_view text, size_t position);

struct TextMatch {
  size_t begin;
  size_t end;
};

// Threads: safe, nothing changes after Compile.
class Regex {
 public:
  static constexpr size_t kNone = static_cast<size_t>(-1);

  // Errors: those of ParseRegex; INVALID_ARGUMENT for an expression whose
  // table would be too large.
  static absl::StatusOr<Regex> Compile(absl::string_view pattern);

  // Where the match that begins at `begin` ends, or kNone. What stands before
  // `begin` in `text` counts for look-behind.
  // Cost: one table look-up a character, of the match and of what had to be
  //       read to know its end.
  size_t MatchAt(absl::string_view text, size_t begin) const {
    size_t end = kNone;
    uint32_t state = has_behind_ ? StartAfter(text, begin) : start_;
    for (size_t i = begin;;) {
      uint32_t length = 1;
      const uint32_t next = table_[state + ClassAt(text, i, length)];
      if ((next & 1) != 0) end = i;
      state = next >> 1;
      if (state == 0) return end;
      i += length;
    }
  }

  // The first match that begins at or after `from`; begin is kNone if there is
  // none. Cost: MatchAt for every character up to it.
  TextMatch Find(absl::string_view text, size_t from) const;

 private:
  friend class RegexBuilder;
  Regex() = default;

  // The class of the character at `i` and its length; at the end, num_classes_.
  uint32_t ClassAt(absl::string_view text, size_t i, uint32_t& length) const {
    if (i >= text.size()) return num_classes_;
    const auto byte = static_cast<uint8_t>(text[i]);
    return byte < 0x80 ? ascii_[byte] : WideClassAt(text, i, length);
  }
  uint32_t WideClassAt(absl::string_view text, size_t i,
                       uint32_t& length) const;
  uint32_t StartAfter(absl::string_view text, size_t begin) const;

  uint32_t num_classes_ = 0;
  std::array<uint8_t, 128> ascii_{};
  std::vector<uint16_t> pages_;  // of 256 code points
  std::vector<uint8_t> page_classes_;
  // A row for each state of num_classes_ + 1 entries: twice the offset of the
  // next row, plus 1 if a match ends before the character. Row 0 is the end.
  std::vector<uint32_t> table_;
  uint32_t start_ = 0;
  bool has_behind_ = false;
  std::vector<uint32_t> starts_;  // by the class before, if has_behind_
};

// Calls `found(TextMatch)` for the matches in `text`, from the left, none
// overlapping; no empty one directly after another match.
template <typename Found>
void ForEachMatch(const Regex& regex, absl::string_view text, Found found) {
  size_t from = 0;
  size_t last_end = Regex::kNone;
  while (from <= text.size()) {
    const TextMatch match = regex.Find(text, from);
    if (match.begin == Regex::kNone) return;
    if (match.begin == match.end && match.end == last_end) {
      from += NextCharacterLength(text, from);
      continue;
    }
    found(match);
    from = last_end = match.end;
  }
}

}  // namespace choir::model

#endif  // CHOIR_MODEL_TOKENIZER_REGEX_H_
