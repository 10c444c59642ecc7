#include "model/tokenizer/regex.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/tokenizer/regex_parser.h"
#include "model/tokenizer/unicode.h"

namespace choir::model {
namespace {

constexpr size_t kMostInstructions = 2000;
constexpr size_t kMostStates = 2000;
constexpr size_t kMostClasses = 250;
constexpr size_t kMostWork = 20'000'000;

struct Instruction {
  enum class Op { kCharacter, kSplit, kAhead, kBehind, kMatch };
  Op op;
  int set = -1;  // index into the sets
  bool at_edge = false;
  int next = -1;
  int second = -1;  // of kSplit: tried after `next`
};

}  // namespace

// Compiles one expression: nodes to instructions, characters to classes, lists
// of instructions to states.
class RegexBuilder {
 public:
  absl::Status Build(const RegexNode& root, Regex& regex) {
    const int match = Emit({Instruction::Op::kMatch});
    CHOIR_ASSIGN_OR_RETURN(const int start, Compile(root, match));
    CHOIR_RETURN_IF_ERROR(MakeClasses(regex));
    return MakeStates(start, regex);
  }

 private:
  using Op = Instruction::Op;
  // What a state is: where its threads stand, the most wanted first, and, if
  // it matters, the class of the character before.
  using StateKey = std::pair<int, std::vector<int>>;

  static absl::Status TooLarge() {
    return absl::InvalidArgumentError(
        "the regular expression is too complex: its table would be too large");
  }

  int Emit(Instruction instruction) {
    program_.push_back(instruction);
    return static_cast<int>(program_.size()) - 1;
  }

  int SetIndex(const CodePointSet& set) {
    const auto found = std::find(sets_.begin(), sets_.end(), set);
    if (found != sets_.end()) return static_cast<int>(found - sets_.begin());
    sets_.push_back(set);
    return static_cast<int>(sets_.size()) - 1;
  }

  // The instructions of `node`, continued by `next`.
  absl::StatusOr<int> Compile(const RegexNode& node, int next) {
    if (program_.size() > kMostInstructions) return TooLarge();
    switch (node.kind) {
      case RegexNode::Kind::kSet:
        return Emit({Op::kCharacter, SetIndex(node.set), false, next});
      case RegexNode::Kind::kAhead:
        return Emit({Op::kAhead, SetIndex(node.set), node.at_edge, next});
      case RegexNode::Kind::kBehind:
        has_behind_ = true;
        return Emit({Op::kBehind, SetIndex(node.set), node.at_edge, next});
      case RegexNode::Kind::kConcat:
        for (auto child = node.children.rbegin(); child != node.children.rend();
             ++child) {
          CHOIR_ASSIGN_OR_RETURN(next, Compile(*child, next));
        }
        return next;
      case RegexNode::Kind::kAlternate: {
        int choice = -1;
        for (auto child = node.children.rbegin(); child != node.children.rend();
             ++child) {
          CHOIR_ASSIGN_OR_RETURN(const int entry, Compile(*child, next));
          choice =
              choice < 0 ? entry : Emit({Op::kSplit, -1, false, entry, choice});
        }
        return choice;
      }
      case RegexNode::Kind::kRepeat:
        return CompileRepeat(node, next);
    }
    return TooLarge();
  }

  int Split(bool greedy, int body, int next) {
    return greedy ? Emit({Op::kSplit, -1, false, body, next})
                  : Emit({Op::kSplit, -1, false, next, body});
  }

  absl::StatusOr<int> CompileRepeat(const RegexNode& node, int next) {
    const RegexNode& child = node.children[0];
    int entry = next;
    if (node.max < 0) {
      entry = Split(node.greedy, next, next);
      CHOIR_ASSIGN_OR_RETURN(const int body, Compile(child, entry));
      (node.greedy ? program_[entry].next : program_[entry].second) = body;
    } else {
      for (int i = node.min; i < node.max; ++i) {
        CHOIR_ASSIGN_OR_RETURN(const int body, Compile(child, entry));
        entry = Split(node.greedy, body, next);
      }
    }
    for (int i = 0; i < node.min; ++i) {
      CHOIR_ASSIGN_OR_RETURN(entry, Compile(child, entry));
    }
    return entry;
  }

  // Two code points are of one class if they are in the same sets.
  absl::Status MakeClasses(Regex& regex) {
    constexpr uint32_t kCount = kInvalidCodePoint + 1;
    std::vector<std::pair<uint32_t, int>> edges;  // where a set begins or ends
    for (size_t s = 0; s < sets_.size(); ++s) {
      for (const CodePointRange& range : sets_[s].ranges()) {
        edges.emplace_back(range.first, static_cast<int>(s));
        edges.emplace_back(range.last + 1, static_cast<int>(s));
      }
    }
    std::sort(edges.begin(), edges.end());
    std::vector<bool> inside(sets_.size(), false);
    std::map<std::vector<bool>, uint8_t> known;
    std::vector<uint8_t> classes(kCount + 255 - (kCount - 1) % 256, 0);
    size_t edge = 0;
    for (uint32_t begin = 0; begin < kCount;) {
      for (; edge < edges.size() && edges[edge].first == begin; ++edge) {
        inside[edges[edge].second] = !inside[edges[edge].second];
      }
      const uint32_t end =
          edge < edges.size() ? std::min(edges[edge].first, kCount) : kCount;
      if (known.size() > kMostClasses) return TooLarge();
      const auto [place, is_new] =
          known.emplace(inside, static_cast<uint8_t>(known.size()));
      if (is_new) members_.push_back(inside);
      std::fill(classes.begin() + begin, classes.begin() + end, place->second);
      begin = end;
    }
    regex.num_classes_ = static_cast<uint32_t>(members_.size());
    std::copy(classes.begin(), classes.begin() + 128, regex.ascii_.begin());
    std::map<std::string, uint16_t> pages;
    for (size_t i = 0; i < classes.size(); i += 256) {
      const std::string page(classes.begin() + i, classes.begin() + i + 256);
      const auto [place, is_new] =
          pages.emplace(page, static_cast<uint16_t>(pages.size()));
      if (is_new) {
        regex.page_classes_.insert(regex.page_classes_.end(), page.begin(),
                                   page.end());
      }
      regex.pages_.push_back(place->second);
    }
    return absl::OkStatus();
  }

  // Does `set` hold of the class, or of the edge of the text?
  bool Holds(const Instruction& instruction, int of_class) const {
    if (of_class == static_cast<int>(members_.size())) {
      return instruction.at_edge;
    }
    return members_[of_class][instruction.set];
  }

  // Follows the thread at `pc` before a character of `next_class`. False if a
  // match was reached: threads less wanted are then lost.
  bool Follow(int pc, int before, int next_class, std::vector<int>& threads) {
    if (seen_[pc] == round_) return true;
    seen_[pc] = round_;
    ++work_;
    const Instruction& instruction = program_[pc];
    switch (instruction.op) {
      case Op::kMatch:
        return false;
      case Op::kSplit:
        return Follow(instruction.next, before, next_class, threads) &&
               Follow(instruction.second, before, next_class, threads);
      case Op::kAhead:
        return !Holds(instruction, next_class) ||
               Follow(instruction.next, before, next_class, threads);
      case Op::kBehind:
        return !Holds(instruction, before) ||
               Follow(instruction.next, before, next_class, threads);
      case Op::kCharacter:
        if (Holds(instruction, next_class) &&
            std::find(threads.begin(), threads.end(), instruction.next) ==
                threads.end()) {
          threads.push_back(instruction.next);
        }
        return true;
    }
    return true;
  }

  // The number of the state, made if it is new.
  uint32_t StateOf(int before, std::vector<int> threads) {
    if (threads.empty()) return 0;
    if (!has_behind_) before = 0;
    const auto [place, is_new] =
        numbers_.emplace(StateKey(before, std::move(threads)),
                         static_cast<uint32_t>(states_.size()));
    if (is_new) states_.push_back(place->first);
    return place->second;
  }

  absl::Status MakeStates(int start, Regex& regex) {
    const int edge = static_cast<int>(members_.size());
    const uint32_t row = static_cast<uint32_t>(edge) + 1;
    seen_.assign(program_.size(), 0);
    states_.emplace_back();  // the end
    regex.has_behind_ = has_behind_;
    for (int before = 0; has_behind_ && before <= edge; ++before) {
      regex.starts_.push_back(StateOf(before, {start}) * row);
    }
    regex.start_ = StateOf(edge, {start}) * row;
    regex.table_.assign(row, 0);
    for (size_t s = 1; s < states_.size(); ++s) {
      if (s > kMostStates || work_ > kMostWork) return TooLarge();
      const StateKey state = states_[s];
      for (int next = 0; next <= edge; ++next) {
        ++round_;
        std::vector<int> threads;
        bool open = true;
        for (size_t t = 0; open && t < state.second.size(); ++t) {
          open = Follow(state.second[t], state.first, next, threads);
        }
        if (next == edge) threads.clear();
        regex.table_.push_back(StateOf(next, std::move(threads)) * row * 2 +
                               (open ? 0 : 1));
      }
    }
    return absl::OkStatus();
  }

  std::vector<Instruction> program_;
  std::vector<CodePointSet> sets_;
  std::vector<std::vector<bool>> members_;  // by class, then set
  bool has_behind_ = false;
  std::map<StateKey, uint32_t> numbers_;
  std::vector<StateKey> states_;
  std::vector<uint32_t> seen_;
  uint32_t round_ = 0;
  size_t work_ = 0;
};

absl::StatusOr<Regex> Regex::Compile(absl::string_view pattern) {
  CHOIR_ASSIGN_OR_RETURN(const RegexNode root, ParseRegex(pattern));
  Regex regex;
  const absl::Status built = RegexBuilder().Build(root, regex);
  if (!built.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(built.message(), ": '", pattern.substr(0, 200), "'"));
  }
  return regex;
}

uint32_t Regex::WideClassAt(absl::string_view text, size_t i,
                            uint32_t& length) const {
  const Utf8Char c = DecodeUtf8(text, i);
  length = c.length;
  return page_classes_[pages_[c.code_point >> 8] * 256u + (c.code_point & 255)];
}

uint32_t Regex::StartAfter(absl::string_view text, size_t begin) const {
  if (begin == 0) return starts_[num_classes_];
  size_t back = begin - 1;
  while (back > 0 && begin - back < 4 &&
         (static_cast<uint8_t>(text[back]) & 0xC0) == 0x80) {
    --back;
  }
  if (DecodeUtf8(text, back).length != begin - back) back = begin - 1;
  uint32_t length;
  return starts_[ClassAt(text, back, length)];
}

TextMatch Regex::Find(absl::string_view text, size_t from) const {
  for (size_t i = from; i <= text.size(); i += NextCharacterLength(text, i)) {
    const size_t end = MatchAt(text, i);
    if (end != kNone) return {i, end};
  }
  return {kNone, kNone};
}

size_t NextCharacterLength(absl::string_view text, size_t position) {
  return position < text.size() ? DecodeUtf8(text, position).length : 1;
}

}  // namespace choir::model
