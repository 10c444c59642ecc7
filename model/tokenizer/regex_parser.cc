#include "model/tokenizer/regex_parser.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace choir::model {
namespace {

using Kind = RegexNode::Kind;

constexpr size_t kMostPatternBytes = 8192;
constexpr int kMostDepth = 40;
constexpr int kMostRepeats = 1000;

RegexNode SetNode(CodePointSet set) {
  RegexNode node;
  node.kind = Kind::kSet;
  node.set = std::move(set);
  return node;
}

RegexNode Look(Kind kind, CodePointSet set, bool at_edge) {
  RegexNode node;
  node.kind = kind;
  node.set = std::move(set);
  node.at_edge = at_edge;
  return node;
}

RegexNode Group(Kind kind, std::vector<RegexNode> children) {
  if (children.size() == 1) return std::move(children[0]);
  RegexNode node;
  node.kind = kind;
  node.children = std::move(children);
  return node;
}

RegexNode WordBoundary(bool negated) {
  const CodePointSet word = *CodePointSet::Named("word");
  const CodePointSet other = word.Complement();
  const auto both = [&](const CodePointSet& before, const CodePointSet& after,
                        bool edge_before, bool edge_after) {
    return Group(Kind::kConcat, {Look(Kind::kBehind, before, edge_before),
                                 Look(Kind::kAhead, after, edge_after)});
  };
  if (negated) {
    return Group(Kind::kAlternate, {both(word, word, false, false),
                                    both(other, other, true, true)});
  }
  return Group(Kind::kAlternate, {both(word, other, false, true),
                                  both(other, word, true, false)});
}

class Parser {
 public:
  explicit Parser(absl::string_view pattern) : pattern_(pattern) {}

  absl::StatusOr<RegexNode> Parse() {
    if (pattern_.size() > kMostPatternBytes || !IsValidUtf8(pattern_)) {
      return Bad(absl::StrCat("is not UTF-8 of at most ", kMostPatternBytes,
                              " bytes"));
    }
    CHOIR_ASSIGN_OR_RETURN(RegexNode node, Alternatives(0));
    if (!done()) return Bad("has a ')' without '('");
    return node;
  }

 private:
  bool done() const { return next_ >= pattern_.size(); }
  bool At(absl::string_view text) const {
    return absl::StartsWith(pattern_.substr(next_), text);
  }
  bool Take(absl::string_view text) {
    if (!At(text)) return false;
    next_ += text.size();
    return true;
  }
  // Not at the end.
  uint32_t TakeCharacter() {
    const Utf8Char c = DecodeUtf8(pattern_, next_);
    next_ += c.length;
    return c.code_point;
  }
  absl::Status Bad(absl::string_view what) const {
    return absl::InvalidArgumentError(
        absl::StrCat("regular expression '", pattern_.substr(0, 200), "' ",
                     what, " (near byte ", next_, ")"));
  }

  CodePointSet Cased(CodePointSet set) const {
    if (ignore_case_) set.AddOtherCases();
    return set;
  }

  absl::StatusOr<RegexNode> Alternatives(int depth) {
    if (depth > kMostDepth) return Bad("is nested too deeply");
    std::vector<RegexNode> choices;
    do {
      std::vector<RegexNode> sequence;
      while (!done() && !At("|") && !At(")")) {
        CHOIR_ASSIGN_OR_RETURN(RegexNode atom, Atom(depth));
        CHOIR_ASSIGN_OR_RETURN(atom, Quantified(std::move(atom)));
        sequence.push_back(std::move(atom));
      }
      choices.push_back(Group(Kind::kConcat, std::move(sequence)));
    } while (Take("|"));
    return Group(Kind::kAlternate, std::move(choices));
  }

  absl::StatusOr<RegexNode> Atom(int depth) {
    if (Take("(")) return Parenthesis(depth);
    if (Take("[")) {
      CHOIR_ASSIGN_OR_RETURN(CodePointSet set, Class(depth));
      return SetNode(std::move(set));
    }
    if (Take(".")) return SetNode(CodePointSet::Of('\n').Complement());
    if (Take("^")) return Look(Kind::kBehind, CodePointSet::Of('\n'), true);
    if (Take("$")) return Look(Kind::kAhead, CodePointSet::Of('\n'), true);
    if (At("*") || At("+") || At("?")) return Bad("repeats nothing");
    if (Take("\\A")) return Look(Kind::kBehind, CodePointSet(), true);
    if (Take("\\z")) return Look(Kind::kAhead, CodePointSet(), true);
    if (Take("\\b")) return WordBoundary(false);
    if (Take("\\B")) return WordBoundary(true);
    if (At("\\")) {
      CHOIR_ASSIGN_OR_RETURN(CodePointSet set, Escape());
      return SetNode(Cased(std::move(set)));
    }
    return SetNode(Cased(CodePointSet::Of(TakeCharacter())));
  }

  // After "(".
  absl::StatusOr<RegexNode> Parenthesis(int depth) {
    const bool ignored_before = ignore_case_;
    bool rest_of_group = false;
    std::optional<std::pair<Kind, bool>> look;  // kind, negated
    bool atomic = false;
    if (Take("?=")) {
      look = {Kind::kAhead, false};
    } else if (Take("?!")) {
      look = {Kind::kAhead, true};
    } else if (Take("?<=")) {
      look = {Kind::kBehind, false};
    } else if (Take("?<!")) {
      look = {Kind::kBehind, true};
    } else if (Take("?>")) {
      atomic = true;
    } else if (Take("?:")) {
    } else if (Take("?i:")) {
      ignore_case_ = true;
    } else if (Take("?-i:")) {
      ignore_case_ = false;
    } else if (Take("?i)")) {
      ignore_case_ = true;
      rest_of_group = true;
    } else if (At("?") || At("*")) {
      return Bad(
          "has a group that is not supported; known: (..), (?:..), "
          "(?i:..), (?i), (?>..), (?=..), (?!..), (?<=..), (?<!..)");
    }
    CHOIR_ASSIGN_OR_RETURN(RegexNode inner, Alternatives(depth + 1));
    ignore_case_ = ignored_before;
    // (?i) reaches to the end of the group around it, whose ")" stays.
    if (rest_of_group) return inner;
    if (!Take(")")) return Bad("has a '(' without ')'");
    if (atomic) return Atomic(std::move(inner));
    if (!look) return inner;
    CHOIR_ASSIGN_OR_RETURN(CodePointSet set, OneCharacter(inner));
    if (look->second) set = set.Complement();
    return Look(look->first, std::move(set), look->second);
  }

  absl::StatusOr<CodePointSet> OneCharacter(const RegexNode& node) const {
    if (node.kind == Kind::kSet) return node.set;
    if (node.kind != Kind::kAlternate) {
      return Bad(
          "looks around for more than one character, which is not "
          "supported");
    }
    CodePointSet set;
    for (const RegexNode& child : node.children) {
      CHOIR_ASSIGN_OR_RETURN(const CodePointSet more, OneCharacter(child));
      set.Add(more);
    }
    return set;
  }

  absl::StatusOr<RegexNode> Atomic(RegexNode node) const {
    if (node.kind == Kind::kSet) return node;
    if (node.kind == Kind::kRepeat && node.greedy) {
      return Possessive(std::move(node));
    }
    return Bad(
        "has an atomic group of more than a repeated character, which "
        "is not supported");
  }

  // A greedy repetition of one character that gives nothing back stops only
  // where that character does not follow.
  absl::StatusOr<RegexNode> Possessive(RegexNode repeat) const {
    if (repeat.children[0].kind != Kind::kSet) {
      return Bad(
          "has a possessive quantifier on more than one character, "
          "which is not supported");
    }
    RegexNode stop =
        Look(Kind::kAhead, repeat.children[0].set.Complement(), true);
    if (repeat.max < 0) {
      return Group(Kind::kConcat, {std::move(repeat), std::move(stop)});
    }
    // All of `max`, or fewer and then none of them.
    RegexNode full = repeat;
    full.min = full.max;
    if (repeat.max == repeat.min) return full;
    repeat.max -= 1;
    RegexNode fewer =
        Group(Kind::kConcat, {std::move(repeat), std::move(stop)});
    return Group(Kind::kAlternate, {std::move(full), std::move(fewer)});
  }

  absl::StatusOr<RegexNode> Quantified(RegexNode atom) {
    while (!done()) {
      int min = 0;
      int max = -1;
      bool interval = false;
      if (Take("*")) {
      } else if (Take("+")) {
        min = 1;
      } else if (Take("?")) {
        max = 1;
      } else if (At("{") && TakeInterval(min, max)) {
        interval = true;
      } else {
        break;
      }
      if (max > kMostRepeats || min > kMostRepeats || (max >= 0 && max < min)) {
        return Bad(absl::StrCat("repeats more than ", kMostRepeats,
                                " times, or at most less than at least"));
      }
      RegexNode repeat;
      repeat.kind = Kind::kRepeat;
      repeat.children.push_back(std::move(atom));
      repeat.min = min;
      repeat.max = max;
      if (Take("?")) repeat.greedy = false;
      // As in Ruby, "+" after {..} repeats again.
      if (!interval && repeat.greedy && Take("+")) {
        CHOIR_ASSIGN_OR_RETURN(repeat, Possessive(std::move(repeat)));
      }
      atom = std::move(repeat);
    }
    return atom;
  }

  // {n}, {n,}, {,m}, {n,m}; anything else is a brace as it stands.
  bool TakeInterval(int& min, int& max) {
    size_t i = next_ + 1;
    const auto number = [&](int& out) {
      const size_t start = i;
      int value = 0;
      for (; i < pattern_.size() && pattern_[i] >= '0' && pattern_[i] <= '9';
           ++i) {
        value = std::min(value * 10 + (pattern_[i] - '0'), kMostRepeats + 1);
      }
      if (i > start) out = value;
      return i > start;
    };
    const bool has_min = number(min);
    bool has_max = false;
    if (i < pattern_.size() && pattern_[i] == ',') {
      ++i;
      has_max = number(max);
    } else {
      max = min;
    }
    if (i >= pattern_.size() || pattern_[i] != '}' || !(has_min || has_max)) {
      min = 0;
      max = -1;
      return false;
    }
    next_ = i + 1;
    return true;
  }

  // At a backslash: what stands for one character, in or out of a class.
  absl::StatusOr<CodePointSet> Escape() {
    ++next_;
    if (done()) return Bad("ends with a backslash");
    const uint32_t c = TakeCharacter();
    const auto named = [](absl::string_view name, bool negated) {
      const CodePointSet set = *CodePointSet::Named(name);
      return negated ? set.Complement() : set;
    };
    switch (c) {
      case 's':
      case 'S':
        return named("space", c == 'S');
      case 'd':
      case 'D':
        return named("digit", c == 'D');
      case 'w':
      case 'W':
        return named("word", c == 'W');
      case 'p':
      case 'P':
        return Property(c == 'P');
      case 'n':
        return CodePointSet::Of('\n');
      case 'r':
        return CodePointSet::Of('\r');
      case 't':
        return CodePointSet::Of('\t');
      case 'f':
        return CodePointSet::Of('\f');
      case 'v':
        return CodePointSet::Of('\v');
      case 'a':
        return CodePointSet::Of('\a');
      case 'e':
        return CodePointSet::Of(0x1B);
      case 'u':
        return Hexadecimal(4, 4, "");
      case 'x':
        if (Take("{")) return Hexadecimal(1, 6, "}");
        return Hexadecimal(1, 2, "");
      default:
        break;
    }
    if (c < 0x80 && IsWord(c)) {
      return Bad(absl::StrCat("has the escape '\\",
                              std::string(1, static_cast<char>(c)),
                              "', which is not supported"));
    }
    return CodePointSet::Of(c);
  }

  absl::StatusOr<CodePointSet> Property(bool negated) {
    if (!Take("{")) return Bad("has \\p without {..}");
    if (Take("^")) negated = !negated;
    const size_t end = pattern_.find('}', next_);
    if (end == absl::string_view::npos) return Bad("has \\p{ without }");
    const absl::string_view name = pattern_.substr(next_, end - next_);
    const std::optional<CodePointSet> set = CodePointSet::Named(name);
    if (!set) {
      return Bad(absl::StrCat("has \\p{", name,
                              "}, which is not supported; "
                              "known: general categories"));
    }
    next_ = end + 1;
    return negated ? set->Complement() : *set;
  }

  absl::StatusOr<CodePointSet> Hexadecimal(int least, int most,
                                           absl::string_view after) {
    uint32_t value = 0;
    int digits = 0;
    for (; digits < most && !done(); ++digits, ++next_) {
      const char c = pattern_[next_];
      const uint32_t lower = static_cast<uint8_t>(c) | 0x20;
      if (c >= '0' && c <= '9') {
        value = value * 16 + static_cast<uint32_t>(c - '0');
      } else if (lower >= 'a' && lower <= 'f') {
        value = value * 16 + lower - 'a' + 10;
      } else {
        break;
      }
    }
    if (digits < least || !Take(after) || value >= kInvalidCodePoint) {
      return Bad("has a hexadecimal escape that names no character");
    }
    return CodePointSet::Of(value);
  }

  // After "[".
  absl::StatusOr<CodePointSet> Class(int depth) {
    if (depth > kMostDepth) return Bad("is nested too deeply");
    const bool negated = Take("^");
    CodePointSet set;
    std::optional<CodePointSet> both;  // what "&&" leaves so far
    bool first = true;
    while (true) {
      if (done()) return Bad("has a '[' without ']'");
      if (!first && Take("]")) break;
      first = false;
      if (Take("&&")) {
        both = both ? both->Intersection(set) : std::move(set);
        set = CodePointSet();
        continue;
      }
      CHOIR_ASSIGN_OR_RETURN(const CodePointSet item, ClassItem(depth));
      set.Add(item);
    }
    if (both) set = both->Intersection(set);
    set = Cased(std::move(set));
    return negated ? set.Complement() : set;
  }

  absl::StatusOr<CodePointSet> ClassItem(int depth) {
    if (Take("[:")) {
      const bool negated = Take("^");
      const size_t end = pattern_.find(":]", next_);
      const auto set =
          end == absl::string_view::npos
              ? std::nullopt
              : CodePointSet::Named(pattern_.substr(next_, end - next_));
      if (!set) return Bad("has a class [:..:] that is not supported");
      next_ = end + 2;
      return negated ? set->Complement() : *set;
    }
    if (Take("[")) return Class(depth + 1);
    CHOIR_ASSIGN_OR_RETURN(CodePointSet low, ClassCharacter());
    if (!At("-") || pattern_.substr(next_, 2) == "-]") return low;
    const auto single = [](const CodePointSet& set) {
      return set.ranges().size() == 1 &&
             set.ranges()[0].first == set.ranges()[0].last;
    };
    if (!single(low)) return low;
    ++next_;
    if (done()) return Bad("has a '[' without ']'");
    CHOIR_ASSIGN_OR_RETURN(const CodePointSet high, ClassCharacter());
    const uint32_t from = low.ranges()[0].first;
    if (!single(high) || high.ranges()[0].first < from) {
      return Bad("has a range in a class that ends before it begins");
    }
    return CodePointSet({{from, high.ranges()[0].first}});
  }

  absl::StatusOr<CodePointSet> ClassCharacter() {
    if (Take("\\b")) return CodePointSet::Of('\b');
    if (At("\\")) return Escape();
    return CodePointSet::Of(TakeCharacter());
  }

  absl::string_view pattern_;
  size_t next_ = 0;
  bool ignore_case_ = false;
};

}  // namespace

absl::StatusOr<RegexNode> ParseRegex(absl::string_view pattern) {
  return Parser(pattern).Parse();
}

}  // namespace choir::model
