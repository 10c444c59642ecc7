// Rewrites a text before it is split: the "normalizer" of tokenizer.json.
#ifndef CHOIR_MODEL_TOKENIZER_NORMALIZER_H_
#define CHOIR_MODEL_TOKENIZER_NORMALIZER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "model/tokenizer/regex.h"
#include "model/tokenizer/unicode_normal.h"

namespace choir::model {

// Every match of `pattern` in `text` becomes `content`, as it stands.
std::string ReplaceMatches(const Regex& pattern, absl::string_view text,
                           absl::string_view content);

// Steps in order. Threads: safe once built.
class Normalizer {
 public:
  // Puts `text` before a text that is not empty.
  void AddPrepend(std::string text);
  // Replaces every `pattern`, which is not empty.
  void AddReplace(std::string pattern, std::string content);
  void AddReplace(Regex pattern, std::string content);
  void AddUnicode(NormalForm form);
  // Lower case, character by character.
  void AddLowercase();
  // Takes white space off the ends.
  void AddStrip(bool left, bool right);

  bool empty() const { return steps_.empty(); }
  std::string Apply(absl::string_view text) const;

 private:
  enum class Kind { kPrepend, kReplace, kRegex, kUnicode, kLowercase, kStrip };
  struct Step {
    Kind kind;
    std::string pattern;
    std::string content;
    NormalForm form = NormalForm::kNfc;
    bool left = false;
    bool right = false;
    std::shared_ptr<const Regex> regex;  // copies of a normalizer share it
  };
  static std::string ApplyStep(const Step& step, std::string text);

  std::vector<Step> steps_;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_TOKENIZER_NORMALIZER_H_
