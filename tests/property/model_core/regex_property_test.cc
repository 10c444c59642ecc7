// The compiled matcher against one that backtracks.
#include <rapidcheck.h>

#include <functional>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "model/tokenizer/regex.h"
#include "model/tokenizer/regex_parser.h"
#include "model/tokenizer/unicode.h"

namespace choir::model {
namespace {

using Continue = std::function<size_t(size_t)>;
constexpr size_t kNone = Regex::kNone;

// Tries every way in order, as the definition has it: where `node` and then
// `rest` match from `i`, or kNone.
size_t Backtrack(const RegexNode& node, absl::string_view text, size_t i,
                 const Continue& rest);

size_t BacktrackList(const std::vector<RegexNode>& nodes, size_t first,
                     absl::string_view text, size_t i, const Continue& rest) {
  if (first == nodes.size()) return rest(i);
  return Backtrack(nodes[first], text, i, [&](size_t j) {
    return BacktrackList(nodes, first + 1, text, j, rest);
  });
}

size_t BacktrackRepeat(const RegexNode& node, int done, absl::string_view text,
                       size_t i, const Continue& rest) {
  const auto again = [&]() {
    if (node.max >= 0 && done >= node.max) return kNone;
    return Backtrack(node.children[0], text, i, [&](size_t j) {
      // An empty round would go on forever.
      return j == i ? kNone : BacktrackRepeat(node, done + 1, text, j, rest);
    });
  };
  if (done < node.min) return again();
  const size_t first = node.greedy ? again() : rest(i);
  if (first != kNone) return first;
  return node.greedy ? rest(i) : again();
}

size_t Backtrack(const RegexNode& node, absl::string_view text, size_t i,
                 const Continue& rest) {
  switch (node.kind) {
    case RegexNode::Kind::kSet: {
      if (i >= text.size()) return kNone;
      const Utf8Char c = DecodeUtf8(text, i);
      return node.set.Contains(c.code_point) ? rest(i + c.length) : kNone;
    }
    case RegexNode::Kind::kConcat:
      return BacktrackList(node.children, 0, text, i, rest);
    case RegexNode::Kind::kAlternate:
      for (const RegexNode& child : node.children) {
        const size_t end = Backtrack(child, text, i, rest);
        if (end != kNone) return end;
      }
      return kNone;
    case RegexNode::Kind::kRepeat:
      return BacktrackRepeat(node, 0, text, i, rest);
    case RegexNode::Kind::kAhead: {
      const bool holds =
          i == text.size() ? node.at_edge
                           : node.set.Contains(DecodeUtf8(text, i).code_point);
      return holds ? rest(i) : kNone;
    }
    case RegexNode::Kind::kBehind: {
      size_t back = i;  // the characters here are ASCII or of two bytes
      if (back > 0) --back;
      if (back > 0 && DecodeUtf8(text, back - 1).length == 2) --back;
      const bool holds =
          i == 0 ? node.at_edge
                 : node.set.Contains(DecodeUtf8(text, back).code_point);
      return holds ? rest(i) : kNone;
    }
  }
  return kNone;
}

size_t SlowMatch(const RegexNode& node, absl::string_view text, size_t begin) {
  return Backtrack(node, text, begin, [](size_t end) { return end; });
}

// A pattern that matches no empty text inside a repetition.
std::string RandomPattern(int depth) {
  const auto atom = [&]() -> std::string {
    if (depth > 0 && *rc::gen::inRange(0, 4) == 0) {
      return "(?:" + RandomPattern(depth - 1) + ")";
    }
    return *rc::gen::element<std::string>("a", "b", "[ab]", "[^a]", "\\s", ".",
                                          "é", "\\p{Lu}", "(?i:a)", "\\S");
  };
  std::string pattern;
  const int alternatives = *rc::gen::inRange(1, 4);
  for (int i = 0; i < alternatives; ++i) {
    if (i > 0) pattern += "|";
    const int atoms = *rc::gen::inRange(1, 4);
    // What stands alone is not repeated away, so that no group is empty.
    pattern += atom();
    for (int j = 0; j < atoms; ++j) {
      pattern += atom();
      pattern += *rc::gen::element<std::string>("", "", "*", "+", "?", "*?",
                                                "+?", "??", "{2}", "{1,3}",
                                                "(?!\\S)", "(?=b)", "(?<=a)");
    }
  }
  return pattern;
}

std::string RandomText() {
  const auto parts = *rc::gen::container<std::vector<std::string>>(
      rc::gen::element<std::string>("a", "b", "A", " ", "\n", "é", "a", "b"));
  std::string text;
  for (const std::string& part : parts) text += part;
  return text.substr(0, text.size() > 24 ? 0 : text.size());
}

TEST(RegexPropertyTest, FindsWhatBacktrackingFinds) {
  EXPECT_TRUE(rc::check([] {
    const std::string pattern = RandomPattern(2);
    const std::string text = RandomText();
    RC_LOG(pattern + " in '" + text + "'");
    const auto node = ParseRegex(pattern);
    RC_ASSERT(node.ok());
    const auto regex = Regex::Compile(pattern);
    RC_PRE(regex.ok());
    for (size_t i = 0; i <= text.size(); i += NextCharacterLength(text, i)) {
      RC_ASSERT(regex->MatchAt(text, i) == SlowMatch(*node, text, i));
    }
  }));
}

const char* const kKnown[] = {
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|"
    "\\s+(?!\\S)|\\s+",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}"
    "\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?"
    "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*"
    "(?i:'s|'t|'re|"
    "'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|"
    "\\s+(?!\\S)|\\s+"};

TEST(RegexPropertyTest, TheTokenizersPatternsCoverEveryText) {
  for (const char* pattern : kKnown) {
    const Regex regex = Regex::Compile(pattern).value();
    const RegexNode node = ParseRegex(pattern).value();
    EXPECT_TRUE(rc::check([&] {
      const auto parts = *rc::gen::container<std::vector<std::string>>(
          rc::gen::element<std::string>("the", " ", " ", "\n", "\r\n", "'s",
                                        "'LL", "'", "12", "½", "A", "Bc", "É",
                                        "ñ", "日本", "ǅ", "\u0301", ".", "/",
                                        "🦙", "\t", "\u00a0", "\xff", "_"));
      std::string text;
      for (const std::string& part : parts) text += part;
      size_t done = 0;
      ForEachMatch(regex, text, [&](TextMatch match) {
        RC_ASSERT(match.begin == done);
        RC_ASSERT(match.end > done);
        RC_ASSERT(match.end == SlowMatch(node, text, match.begin));
        done = match.end;
      });
      RC_ASSERT(done == text.size());
    }));
  }
}

}  // namespace
}  // namespace choir::model
