// The syntax of the regular expressions in tokenizer.json.
#ifndef CHOIR_MODEL_TOKENIZER_REGEX_PARSER_H_
#define CHOIR_MODEL_TOKENIZER_REGEX_PARSER_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/tokenizer/code_point_set.h"

namespace choir::model {

struct RegexNode {
  enum class Kind {
    kSet,        // one character of `set`
    kConcat,     // the children in order; none: the empty text
    kAlternate,  // the first child that leads to a match
    kRepeat,     // the child, `min` to `max` times
    kAhead,      // the next character is in `set`, or there is none and at_edge
    kBehind      // the same of the character before
  };
  Kind kind = Kind::kConcat;
  CodePointSet set;
  bool at_edge = false;
  std::vector<RegexNode> children;
  int min = 0;
  int max = -1;  // -1: no limit
  bool greedy = true;
};

// Oniguruma's syntax as far as tokenizers use it: literals and escapes, classes
// with ranges, nesting, && and \p{..}, groups, (?i:..), alternation, greedy and
// lazy quantifiers, anchors, and, for single characters, look-around and
// possessive quantifiers (which become look-ahead).
//
// Errors: INVALID_ARGUMENT naming what is not supported and where.
absl::StatusOr<RegexNode> ParseRegex(absl::string_view pattern);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TOKENIZER_REGEX_PARSER_H_
