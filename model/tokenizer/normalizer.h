// Rewrites a text before it is split: the "normalizer" of tokenizer.json.
#ifndef CHOIR_MODEL_TOKENIZER_NORMALIZER_H_
#define CHOIR_MODEL_TOKENIZER_NORMALIZER_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace choir::model {

// Steps in order. Threads: safe once built.
class Normalizer {
 public:
  // Puts `text` before a text that is not empty.
  void AddPrepend(std::string text);
  // Replaces every `pattern`, which is not empty.
  void AddReplace(std::string pattern, std::string content);

  bool empty() const { return steps_.empty(); }
  std::string Apply(absl::string_view text) const;

 private:
  struct Step {
    std::string pattern;  // empty: prepend
    std::string content;
  };
  std::vector<Step> steps_;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_TOKENIZER_NORMALIZER_H_
