#include "model/tokenizer/code_point_set.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "model/tokenizer/unicode_tables.h"

namespace choir::model {
namespace {

constexpr absl::string_view kCategoryNames[kNumCategories] = {
    "Cn", "Cc", "Cf", "Co", "Cs", "Ll", "Lm", "Lo", "Lt", "Lu",
    "Mc", "Me", "Mn", "Nd", "Nl", "No", "Pc", "Pd", "Pe", "Pf",
    "Pi", "Po", "Ps", "Sc", "Sk", "Sm", "So", "Zl", "Zp", "Zs"};

CodePointSet OfCategories(uint32_t mask) {
  std::vector<CodePointRange> ranges;
  uint32_t first = 0;
  for (TableReader table(kCategoryTable); !table.done();) {
    const uint32_t length = table.Number();
    if ((mask >> table.Number() & 1) != 0) {
      ranges.push_back({first, first + length - 1});
    }
    first += length;
  }
  return CodePointSet(std::move(ranges));
}

const CodePointSet& Whitespace() {
  static const auto* const set = [] {
    std::vector<CodePointRange> ranges;
    for (uint32_t c = 0; c <= 0x3000; ++c) {
      if (IsWhitespace(c)) ranges.push_back({c, c});
    }
    return new CodePointSet(std::move(ranges));
  }();
  return *set;
}

// Every code point that has a lower case, with it.
const std::vector<std::pair<uint32_t, uint32_t>>& CasePairs() {
  static const auto* const pairs = [] {
    auto* made = new std::vector<std::pair<uint32_t, uint32_t>>();
    uint32_t c = 0;
    for (TableReader table(kLowercaseTable); !table.done();) {
      c += table.Number();
      made->emplace_back(
          c, static_cast<uint32_t>(static_cast<int32_t>(c) + table.Signed()));
    }
    // Lower case already, but the same letters: long s, final sigma.
    made->emplace_back(0x17F, 's');
    made->emplace_back(0x3C2, 0x3C3);
    return made;
  }();
  return *pairs;
}

}  // namespace

CodePointSet::CodePointSet(std::vector<CodePointRange> ranges)
    : ranges_(std::move(ranges)) {
  Normalize();
}

std::optional<CodePointSet> CodePointSet::Named(absl::string_view name) {
  uint32_t mask = 0;
  for (int i = 0; i < kNumCategories; ++i) {
    if (kCategoryNames[i] == name ||
        (name.size() == 1 && kCategoryNames[i][0] == name[0])) {
      mask |= 1u << i;
    }
  }
  if (mask != 0) return OfCategories(mask);
  const std::string lower = absl::AsciiStrToLower(name);
  if (lower == "space") return Whitespace();
  if (lower == "digit") return Named("Nd");
  if (lower == "word") {
    // Oniguruma's: what is alphabetic, marks, decimal digits, connectors and,
    // of the other numbers, those of Latin-1.
    CodePointSet set({{0xB2, 0xB3},
                      {0xB9, 0xB9},
                      {0xBC, 0xBE},
                      {0x24B6, 0x24E9},
                      {0x1F130, 0x1F149},
                      {0x1F150, 0x1F169},
                      {0x1F170, 0x1F189}});
    for (const char* more : {"L", "M", "Nd", "Nl", "Pc"}) {
      set.Add(*Named(more));
    }
    return set;
  }
  return std::nullopt;
}

void CodePointSet::Normalize() {
  std::sort(ranges_.begin(), ranges_.end(),
            [](const CodePointRange& a, const CodePointRange& b) {
              return a.first < b.first;
            });
  size_t kept = 0;
  for (size_t i = 0; i < ranges_.size(); ++i) {
    if (kept > 0 && ranges_[i].first <= ranges_[kept - 1].last + 1) {
      ranges_[kept - 1].last =
          std::max(ranges_[kept - 1].last, ranges_[i].last);
    } else {
      ranges_[kept++] = ranges_[i];
    }
  }
  ranges_.resize(kept);
}

void CodePointSet::Add(const CodePointSet& other) {
  ranges_.insert(ranges_.end(), other.ranges_.begin(), other.ranges_.end());
  Normalize();
}

CodePointSet CodePointSet::Complement() const {
  CodePointSet out;
  uint32_t next = 0;
  for (const CodePointRange& range : ranges_) {
    if (range.first > next) out.ranges_.push_back({next, range.first - 1});
    next = range.last + 1;
  }
  if (next <= kInvalidCodePoint) {
    out.ranges_.push_back({next, kInvalidCodePoint});
  }
  return out;
}

CodePointSet CodePointSet::Intersection(const CodePointSet& other) const {
  CodePointSet outside = Complement();
  outside.Add(other.Complement());
  return outside.Complement();
}

void CodePointSet::AddOtherCases() {
  CodePointSet more;
  for (const auto& [upper, lower] : CasePairs()) {
    if (Contains(upper)) more.ranges_.push_back({lower, lower});
  }
  CodePointSet lower_too = *this;
  more.Normalize();
  lower_too.Add(more);
  more = CodePointSet();
  for (const auto& [upper, lower] : CasePairs()) {
    if (lower_too.Contains(lower)) more.ranges_.push_back({upper, upper});
  }
  more.Normalize();
  lower_too.Add(more);
  *this = std::move(lower_too);
}

bool CodePointSet::Contains(uint32_t code_point) const {
  const auto after =
      std::upper_bound(ranges_.begin(), ranges_.end(), code_point,
                       [](uint32_t value, const CodePointRange& range) {
                         return value < range.first;
                       });
  return after != ranges_.begin() && code_point <= std::prev(after)->last;
}

}  // namespace choir::model
