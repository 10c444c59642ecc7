#include "model/tokenizer/pre_tokenizer.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/check.h"

namespace choir::model {
namespace {

// Joins parts of a text, some of them matches, to words.
class Joiner {
 public:
  Joiner(SplitBehavior behavior, PreTokenizer::WordSink sink)
      : behavior_(behavior), sink_(sink) {}

  void Add(absl::string_view part, bool is_match) {
    if (has_pending_ && Joins(is_match)) {
      pending_ =
          absl::string_view(pending_.data(), pending_.size() + part.size());
    } else {
      Flush();
      pending_ = part;
    }
    if (behavior_ == SplitBehavior::kRemoved && is_match) {
      pending_ = absl::string_view();
    }
    has_pending_ = true;
    was_match_ = is_match;
  }

  void Flush() {
    if (!pending_.empty()) sink_(pending_);
    pending_ = absl::string_view();
  }

 private:
  bool Joins(bool is_match) const {
    switch (behavior_) {
      case SplitBehavior::kMergedWithPrevious:
        return is_match && !was_match_;
      case SplitBehavior::kMergedWithNext:
        return was_match_ && !is_match;
      case SplitBehavior::kContiguous:
        return was_match_ == is_match;
      default:
        return false;
    }
  }

  SplitBehavior behavior_;
  PreTokenizer::WordSink sink_;
  absl::string_view pending_;
  bool has_pending_ = false;
  bool was_match_ = false;
};

}  // namespace

const Regex& Gpt2Pattern() {
  static const Regex* const regex =
      new Regex(Regex::Compile("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| "
                               "?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+")
                    .value());
  return *regex;
}

void PreTokenizer::AddSplit(Regex pattern, SplitBehavior behavior,
                            bool invert) {
  CHOIR_CHECK(!byte_level_);
  Step step;
  step.kind = Kind::kSplit;
  step.regex = std::make_shared<const Regex>(std::move(pattern));
  step.behavior = behavior;
  step.invert = invert;
  steps_.push_back(std::move(step));
}

void PreTokenizer::AddMetaspace(std::string replacement, PrependScheme scheme,
                                bool split) {
  CHOIR_CHECK(!byte_level_ && !replacement.empty());
  Step step;
  step.kind = Kind::kMetaspace;
  step.replacement = replacement;
  step.scheme = scheme;
  steps_.push_back(std::move(step));
  if (!split) return;
  AddSplit(Regex::Compile(absl::StrCat("\\", replacement)).value(),
           SplitBehavior::kMergedWithNext, false);
}

void PreTokenizer::AddByteLevel(bool add_prefix_space, bool use_regex) {
  CHOIR_CHECK(!byte_level_);
  if (add_prefix_space) {
    Step step;
    step.kind = Kind::kByteLevel;
    steps_.push_back(std::move(step));
  }
  if (use_regex) AddSplit(Gpt2Pattern(), SplitBehavior::kIsolated, false);
  byte_level_ = true;
}

void PreTokenizer::Run(size_t step, absl::string_view text, bool at_start,
                       WordSink sink) const {
  if (step == steps_.size()) {
    sink(text);
    return;
  }
  switch (steps_[step].kind) {
    case Kind::kSplit:
      RunSplit(step, text, at_start, sink);
      break;
    case Kind::kMetaspace:
      RunMetaspace(step, text, at_start, sink);
      break;
    case Kind::kByteLevel:
      if (text[0] == ' ') {
        Run(step + 1, text, at_start, sink);
      } else {
        Run(step + 1, absl::StrCat(" ", text), at_start, sink);
      }
      break;
  }
}

void PreTokenizer::RunSplit(size_t index, absl::string_view text, bool at_start,
                            WordSink sink) const {
  const Step& step = steps_[index];
  const bool last = index + 1 == steps_.size();
  const auto emit = [&](absl::string_view word) {
    if (last) {
      sink(word);
    } else {
      Run(index + 1, word, at_start && word.data() == text.data(), sink);
    }
  };
  size_t done = 0;
  if (step.behavior == SplitBehavior::kIsolated) {
    ForEachMatch(*step.regex, text, [&](TextMatch match) {
      if (match.begin > done) emit(text.substr(done, match.begin - done));
      if (match.end > match.begin) {
        emit(text.substr(match.begin, match.end - match.begin));
      }
      done = match.end;
    });
    if (done < text.size()) emit(text.substr(done));
    return;
  }
  Joiner joiner(step.behavior, emit);
  ForEachMatch(*step.regex, text, [&](TextMatch match) {
    if (match.begin > done) {
      joiner.Add(text.substr(done, match.begin - done), step.invert);
    }
    joiner.Add(text.substr(match.begin, match.end - match.begin), !step.invert);
    done = match.end;
  });
  if (done < text.size()) joiner.Add(text.substr(done), step.invert);
  joiner.Flush();
}

void PreTokenizer::RunMetaspace(size_t index, absl::string_view text,
                                bool at_start, WordSink sink) const {
  const Step& step = steps_[index];
  std::string replaced = absl::StrReplaceAll(text, {{" ", step.replacement}});
  const bool prepends = step.scheme == PrependScheme::kAlways ||
                        (step.scheme == PrependScheme::kFirst && at_start);
  if (prepends && !absl::StartsWith(replaced, step.replacement)) {
    replaced.insert(0, step.replacement);
  }
  Run(index + 1, replaced, at_start, sink);
}

}  // namespace choir::model
