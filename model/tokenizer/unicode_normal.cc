#include "model/tokenizer/unicode_normal.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "model/tokenizer/unicode.h"
#include "model/tokenizer/unicode_tables.h"

namespace choir::model {
namespace {

// Hangul syllables are composed by arithmetic (chapter 3.12 of the standard).
constexpr uint32_t kSyllables = 0xAC00;
constexpr uint32_t kLeads = 0x1100;
constexpr uint32_t kVowels = 0x1161;
constexpr uint32_t kTails = 0x11A7;
constexpr uint32_t kNumLeads = 19;
constexpr uint32_t kNumVowels = 21;
constexpr uint32_t kNumTails = 28;
constexpr uint32_t kNumSyllables = kNumLeads * kNumVowels * kNumTails;

using Mapping = absl::flat_hash_map<uint32_t, std::vector<uint32_t>>;

uint64_t PairKey(uint32_t first, uint32_t second) {
  return static_cast<uint64_t>(first) << 32 | second;
}

struct Data {
  Mapping canonical;  // one step each
  Mapping compatible;
  absl::flat_hash_map<uint64_t, uint32_t> pairs;  // that compose
  absl::flat_hash_map<uint32_t, uint8_t> combining;

  Data() {
    ReadMapping(kCanonicalTable, canonical, true);
    ReadMapping(kCompatibleTable, compatible, false);
    uint32_t first = 0;
    for (TableReader table(kCombiningTable); !table.done();) {
      first += table.Number();
      const uint32_t length = table.Number();
      const auto value = static_cast<uint8_t>(table.Number());
      for (uint32_t i = 0; i < length; ++i) combining[first + i] = value;
    }
  }

  void ReadMapping(const char* text, Mapping& out, bool compose) {
    uint32_t c = 0;
    int32_t mapped = 0;
    for (TableReader table(text); !table.done();) {
      c += table.Number();
      const uint32_t count = table.Number();
      std::vector<uint32_t>& to = out[c];
      for (uint32_t i = 0; i < (count == 0 ? 2 : count); ++i) {
        mapped += table.Signed();
        to.push_back(static_cast<uint32_t>(mapped));
      }
      if (compose && count == 0) pairs[PairKey(to[0], to[1])] = c;
    }
  }

  uint8_t ClassOf(uint32_t c) const {
    if (c < 0x300) return 0;
    const auto found = combining.find(c);
    return found == combining.end() ? 0 : found->second;
  }

  void Decompose(uint32_t c, bool compatibly,
                 std::vector<uint32_t>& out) const {
    if (c >= kSyllables && c < kSyllables + kNumSyllables) {
      const uint32_t index = c - kSyllables;
      out.push_back(kLeads + index / (kNumVowels * kNumTails));
      out.push_back(kVowels + index / kNumTails % kNumVowels);
      if (index % kNumTails != 0) out.push_back(kTails + index % kNumTails);
      return;
    }
    const std::vector<uint32_t>* to = nullptr;
    if (const auto found = canonical.find(c); found != canonical.end()) {
      to = &found->second;
    } else if (compatibly) {
      const auto other = compatible.find(c);
      if (other != compatible.end()) to = &other->second;
    }
    if (to == nullptr) {
      out.push_back(c);
      return;
    }
    for (const uint32_t part : *to) Decompose(part, compatibly, out);
  }

  // 0 if the two do not compose.
  uint32_t Compose(uint32_t first, uint32_t second) const {
    if (first >= kLeads && first < kLeads + kNumLeads && second >= kVowels &&
        second < kVowels + kNumVowels) {
      return kSyllables +
             ((first - kLeads) * kNumVowels + second - kVowels) * kNumTails;
    }
    if (first >= kSyllables && first < kSyllables + kNumSyllables &&
        (first - kSyllables) % kNumTails == 0 && second > kTails &&
        second < kTails + kNumTails) {
      return first + second - kTails;
    }
    const auto found = pairs.find(PairKey(first, second));
    return found == pairs.end() ? 0 : found->second;
  }
};

const Data& GetData() {
  static const auto* const data = new Data();
  return *data;
}

// Marks in order of their classes, those of one class as they were.
void Reorder(const Data& data, std::vector<uint32_t>& text) {
  for (size_t i = 0; i < text.size();) {
    if (data.ClassOf(text[i]) == 0) {
      ++i;
      continue;
    }
    size_t end = i;
    while (end < text.size() && data.ClassOf(text[end]) != 0) ++end;
    std::stable_sort(text.begin() + i, text.begin() + end,
                     [&](uint32_t a, uint32_t b) {
                       return data.ClassOf(a) < data.ClassOf(b);
                     });
    i = end;
  }
}

void ComposeAll(const Data& data, std::vector<uint32_t>& text) {
  size_t kept = 0;
  size_t starter = text.size();  // where the last one is kept; none yet
  int before = 0;                // class of the last that was kept after it
  for (size_t i = 0; i < text.size(); ++i) {
    const uint32_t c = text[i];
    const int combining = data.ClassOf(c);
    if (starter < text.size() &&
        (starter + 1 == kept || (before != 0 && before < combining))) {
      const uint32_t composed = data.Compose(text[starter], c);
      if (composed != 0) {
        text[starter] = composed;
        continue;
      }
    }
    if (combining == 0) starter = kept;
    before = combining;
    text[kept++] = c;
  }
  text.resize(kept);
}

}  // namespace

std::string NormalizeUnicode(absl::string_view text, NormalForm form) {
  const bool composes = form == NormalForm::kNfc || form == NormalForm::kNfkc;
  const bool compatibly =
      form == NormalForm::kNfkc || form == NormalForm::kNfkd;
  // Characters below are themselves in the form and do not compose with what
  // is before them.
  const uint32_t stable = form == NormalForm::kNfc ? 0x300 : 0x80;
  std::string out;
  out.reserve(text.size());
  std::vector<uint32_t> run;
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    // A stable character is copied, unless what follows may compose with it.
    size_t last = i;
    while (i < text.size()) {
      const Utf8Char c = DecodeUtf8(text, i);
      if (c.code_point >= stable && c.code_point != kInvalidCodePoint) break;
      last = i;
      i += c.length;
    }
    if (i == text.size()) {
      out.append(text.data() + begin, i - begin);
      break;
    }
    if (i > begin && DecodeUtf8(text, last).code_point != kInvalidCodePoint) {
      i = last;
    }
    out.append(text.data() + begin, i - begin);
    run.clear();
    bool first = true;
    while (i < text.size()) {
      const Utf8Char c = DecodeUtf8(text, i);
      if (c.code_point == kInvalidCodePoint ||
          (c.code_point < stable && !first)) {
        break;
      }
      first = false;
      GetData().Decompose(c.code_point, compatibly, run);
      i += c.length;
    }
    Reorder(GetData(), run);
    if (composes) ComposeAll(GetData(), run);
    for (const uint32_t c : run) AppendUtf8(c, out);
  }
  return out;
}

}  // namespace choir::model
