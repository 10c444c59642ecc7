// The part of Jinja that chat templates are written in: what they make of a
// conversation, or the error that they raise.
//
// As transformers runs them: trim_blocks and lstrip_blocks, raise_exception
// and namespace, no access to anything else. Of the language: text, comments,
// {{ }}, if, for, set, and expressions with the operators, methods, filters and
// tests that templates in use have. What is not known is refused when it is
// reached (functions, filters, tests) or parsed (statements). Programs come
// from strangers: nesting, steps and the length of texts are bounded.
//
// Threads: safe, nothing changes after Parse.
#ifndef CHOIR_MODEL_TOKENIZER_JINJA_H_
#define CHOIR_MODEL_TOKENIZER_JINJA_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace choir::model {

struct JinjaExpr;
using JinjaExprPtr = std::unique_ptr<JinjaExpr>;

struct JinjaExpr {
  enum class Kind {
    kLiteral,  // value
    kName,     // name
    kMember,   // args[0].name
    kIndex,    // args[0][args[1]]
    kSlice,    // args[0][args[1]:args[2]:args[3]], null where left out
    kCall,     // args[0](args[1].., named)
    kFilter,   // args[0]|name(args[1].., named)
    kTest,     // args[0] is name(args[1]..)
    kUnary,    // name args[0]
    kBinary,   // args[0] name args[1]
    kChoice,   // args[1] if args[0] else args[2], which may be null
    kList,     // [args..]
    kDict,     // {args[0]: args[1], ..}
  };
  Kind kind = Kind::kLiteral;
  std::string name;
  nlohmann::json value;
  std::vector<JinjaExprPtr> args;
  std::vector<std::pair<std::string, JinjaExprPtr>> named;
};

struct JinjaNode {
  enum class Kind { kText, kOutput, kIf, kFor, kSet };
  struct Branch {
    JinjaExprPtr condition;  // null: else
    std::vector<JinjaNode> body;
  };
  Kind kind = Kind::kText;
  std::string text;                  // kText
  JinjaExprPtr expr;                 // output, iterable, or value
  std::vector<std::string> targets;  // kFor; kSet: name or name, member
  std::vector<Branch> branches;      // kIf; kFor: the body with its filter
};

// Errors: UNIMPLEMENTED naming what is not known, INVALID_ARGUMENT for text
// that is no Jinja.
absl::StatusOr<std::vector<JinjaNode>> ParseJinja(absl::string_view text);

class JinjaProgram {
 public:
  static absl::StatusOr<JinjaProgram> Parse(absl::string_view text);

  // Errors: INVALID_ARGUMENT with what the program raises, or where Jinja would
  // raise an error of its own; UNIMPLEMENTED naming what is not known;
  // RESOURCE_EXHAUSTED past the bounds, which grow with the variables.
  absl::StatusOr<std::string> Render(const nlohmann::json& variables) const;

 private:
  std::vector<JinjaNode> nodes_;
};

// As Python's str.strip, lstrip and rstrip without arguments.
absl::string_view PythonStrip(absl::string_view text, bool left, bool right);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TOKENIZER_JINJA_H_
