// Cuts a text into the words that BPE merges within: the "pre_tokenizer" of
// tokenizer.json.
#ifndef CHOIR_MODEL_TOKENIZER_PRE_TOKENIZER_H_
#define CHOIR_MODEL_TOKENIZER_PRE_TOKENIZER_H_

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "model/tokenizer/regex.h"

namespace choir::model {

// What becomes of the matches of a Split.
enum class SplitBehavior {
  kRemoved,
  kIsolated,            // each is a word
  kMergedWithPrevious,  // joins what is before it, unless that is a match
  kMergedWithNext,
  kContiguous  // a run of them is a word
};

// Which texts Metaspace puts its character before.
enum class PrependScheme { kAlways, kFirst, kNever };

// GPT-2's pattern:
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// An invalid byte counts as a symbol.
const Regex& Gpt2Pattern();

// Steps in order, each cutting the words of the one before. Without steps the
// text is one word. Threads: safe once built.
class PreTokenizer {
 public:
  using WordSink = absl::FunctionRef<void(absl::string_view word)>;

  // With `invert`, what lies between matches counts as matches.
  void AddSplit(Regex pattern, SplitBehavior behavior, bool invert);
  // Spaces become `replacement`, and it is put before a text that does not
  // begin with it; with `split`, words begin at it.
  void AddMetaspace(std::string replacement, PrependScheme scheme, bool split);
  // Words are bytes in GPT-2's alphabet rather than characters; must be the
  // last step. With `add_prefix_space`, a text that does not begin with a space
  // gets one; with `use_regex`, GPT-2's pattern splits it.
  void AddByteLevel(bool add_prefix_space, bool use_regex);
  bool byte_level() const { return byte_level_; }

  // Calls `sink` for each word in order; none is empty. A word may live only
  // as long as the call. `at_start`: `text` begins the whole input.
  void ForEachWord(absl::string_view text, bool at_start, WordSink sink) const {
    Run(0, text, at_start, sink);
  }

 private:
  enum class Kind { kSplit, kMetaspace, kByteLevel };
  struct Step {
    Kind kind;
    std::shared_ptr<const Regex> regex;  // shared by copies; null: no split
    SplitBehavior behavior = SplitBehavior::kIsolated;
    bool invert = false;
    std::string replacement;
    PrependScheme scheme = PrependScheme::kNever;
  };
  void Run(size_t step, absl::string_view text, bool at_start,
           WordSink sink) const;
  void RunSplit(size_t step, absl::string_view text, bool at_start,
                WordSink sink) const;
  void RunMetaspace(size_t step, absl::string_view text, bool at_start,
                    WordSink sink) const;

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_TOKENIZER_PRE_TOKENIZER_H_
