#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "model/tokenizer/jinja.h"
#include "model/tokenizer/jinja_tags.h"
#include "model/tokenizer/unicode.h"

namespace choir::model {
namespace {

using Kind = JinjaExpr::Kind;
using Parsed = absl::StatusOr<JinjaExprPtr>;

constexpr int kMaxDepth = 60;
constexpr int kMaxParts = 400;  // of an expression

JinjaExprPtr Make(Kind kind, std::string name = "") {
  auto out = std::make_unique<JinjaExpr>();
  out->kind = kind;
  out->name = std::move(name);
  return out;
}

JinjaExprPtr Make(Kind kind, std::string name, JinjaExprPtr first) {
  JinjaExprPtr out = Make(kind, std::move(name));
  out->args.push_back(std::move(first));
  return out;
}

bool IsWordStart(char c) { return absl::ascii_isalpha(c) || c == '_'; }
bool IsWordPart(char c) { return absl::ascii_isalnum(c) || c == '_'; }

void AppendEscape(absl::string_view code, size_t& i, std::string& out) {
  const char c = code[++i];
  const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 0;
  uint32_t point = 0;
  if (digits > 0 && i + digits < code.size() &&
      absl::SimpleHexAtoi(code.substr(i + 1, digits), &point)) {
    AppendUtf8(point, out);
    i += digits;
  } else if (c == 'n') {
    out += '\n';
  } else if (c == 't') {
    out += '\t';
  } else if (c == 'r') {
    out += '\r';
  } else if (c == '\\' || c == '\'' || c == '"') {
    out += c;
  } else if (c != '\n') {
    absl::StrAppend(&out, "\\", absl::string_view(&c, 1));
  }
}

// An expression, by precedence as in Jinja's parser.
class ExpressionParser {
 public:
  explicit ExpressionParser(absl::string_view code) : code_(code) {}

  Parsed Choice() {
    if (++depth_ > kMaxDepth) {
      return absl::UnimplementedError("nests expressions too deeply");
    }
    CHOIR_ASSIGN_OR_RETURN(JinjaExprPtr left, Or());
    while (TakeWord("if")) {
      JinjaExprPtr out = Make(Kind::kChoice);
      CHOIR_ASSIGN_OR_RETURN(JinjaExprPtr condition, Or());
      out->args.push_back(std::move(condition));
      out->args.push_back(std::move(left));
      out->args.emplace_back();
      if (TakeWord("else")) {
        CHOIR_ASSIGN_OR_RETURN(out->args[2], Choice());
      }
      left = std::move(out);
    }
    --depth_;
    return left;
  }

  // Without "if" behind it: what a for runs over.
  Parsed Or() {
    CHOIR_ASSIGN_OR_RETURN(JinjaExprPtr left, And());
    while (TakeWord("or")) {
      CHOIR_ASSIGN_OR_RETURN(JinjaExprPtr right, And());
      left = Join("or", std::move(left), std::move(right));
    }
    return left;
  }

  bool TakeWord(absl::string_view word) {
    SkipSpace();
    if (!absl::StartsWith(code_, word)) return false;
    if (code_.size() > word.size() && IsWordPart(code_[word.size()])) {
      return false;
    }
    code_.remove_prefix(word.size());
    return true;
  }

  bool Take(absl::string_view sign) {
    SkipSpace();
    return absl::ConsumePrefix(&code_, sign);
  }

  std::string Word() {
    SkipSpace();
    size_t end = 0;
    if (!code_.empty() && IsWordStart(code_[0])) {
      while (end < code_.size() && IsWordPart(code_[end])) ++end;
    }
    const std::string word(code_.substr(0, end));
    code_.remove_prefix(end);
    return word;
  }

  bool AtEnd() {
    SkipSpace();
    return code_.empty();
  }
  absl::string_view rest() const { return code_; }

 private:
  void SkipSpace() { code_ = absl::StripLeadingAsciiWhitespace(code_); }

  static JinjaExprPtr Join(absl::string_view op, JinjaExprPtr left,
                           JinjaExprPtr right) {
    JinjaExprPtr out = Make(Kind::kBinary, std::string(op), std::move(left));
    out->args.push_back(std::move(right));
    return out;
  }

  Parsed And() {
    CHOIR_ASSIGN_OR_RETURN(JinjaExprPtr left, Not());
    while (TakeWord("and")) {
      CHOIR_ASSIGN_OR_RETURN(JinjaExprPtr right, Not());
      left = Join("and", std::move(left), std::move(right));
    }
    return left;
  }

  Parsed Not() {
    if (!TakeWord("not")) return Compare();
    if (++depth_ > kMaxDepth) {
      return absl::UnimplementedError("nests expressions too deeply");
    }
    CHOIR_ASSIGN_OR_RETURN(JinjaExprPtr inner, Not());
    --depth_;
    return Make(Kind::kUnary, "not", std::move(inner));
  }

  std::string Comparison() {
    for (const char* op : {"==", "!=", "<=", ">=", "<", ">"}) {
      if (Take(op)) return op;
    }
    if (TakeWord("in")) return "in";
    const absl::string_view before = code_;
    if (TakeWord("not") && TakeWord("in")) return "not in";
    code_ = before;
    return "";
  }

  Parsed Compare() {
    CHOIR_ASSIGN_OR_RETURN(JinjaExprPtr left, Sum());
    const std::string op = Comparison();
    if (op.empty()) return left;
    CHOIR_ASSIGN_OR_RETURN(JinjaExprPtr right, Sum());
    if (!Comparison().empty()) {
      return absl::UnimplementedError("compares three values at once");
    }
    return Join(op, std::move(left), std::move(right));
  }

  Parsed Sum() {
    CHOIR_ASSIGN_OR_RETURN(JinjaExprPtr left, Concat());
    for (;;) {
      const absl::string_view op = Take("+") ? "+" : Take("-") ? "-" : "";
      if (op.empty()) return left;
      CHOIR_ASSIGN_OR_RETURN(JinjaExprPtr right, Concat());
      left = Join(op, std::move(left), std::move(right));
    }
  }

  Parsed Concat() {
    CHOIR_ASSIGN_OR_RETURN(JinjaExprPtr left, Product());
    while (Take("~")) {
      CHOIR_ASSIGN_OR_RETURN(JinjaExprPtr right, Product());
      left = Join("~", std::move(left), std::move(right));
    }
    return left;
  }

  Parsed Product() {
    CHOIR_ASSIGN_OR_RETURN(JinjaExprPtr left, Unary());
    for (;;) {
      const absl::string_view op = Take("//")  ? "//"
                                   : Take("*") ? "*"
                                   : Take("/") ? "/"
                                   : Take("%") ? "%"
                                               : "";
      if (op.empty()) return left;
      CHOIR_ASSIGN_OR_RETURN(JinjaExprPtr right, Unary());
      left = Join(op, std::move(left), std::move(right));
    }
  }

  Parsed Unary() {
    if (Take("-")) {
      CHOIR_ASSIGN_OR_RETURN(JinjaExprPtr inner, Postfix());
      return Make(Kind::kUnary, "-", std::move(inner));
    }
    return Postfix();
  }

  absl::Status Arguments(absl::string_view close, JinjaExpr& out) {
    while (!Take(close)) {
      const absl::string_view before = code_;
      const std::string name = Word();
      SkipSpace();
      const bool is_named = !name.empty() && absl::StartsWith(code_, "=") &&
                            !absl::StartsWith(code_, "==");
      if (is_named) {
        Take("=");
      } else {
        code_ = before;
      }
      CHOIR_ASSIGN_OR_RETURN(JinjaExprPtr value, Choice());
      if (is_named) {
        out.named.emplace_back(name, std::move(value));
      } else {
        out.args.push_back(std::move(value));
      }
      if (!Take(",")) {
        if (Take(close)) break;
        return NotJinja(code_);
      }
    }
    return absl::OkStatus();
  }

  Parsed Subscript(JinjaExprPtr base) {
    JinjaExprPtr parts[3];
    bool is_slice = false;
    for (int i = 0; i < 3; ++i) {
      SkipSpace();
      if (!absl::StartsWith(code_, ":") && !absl::StartsWith(code_, "]")) {
        CHOIR_ASSIGN_OR_RETURN(parts[i], Choice());
      }
      if (!Take(":")) break;
      is_slice = true;
    }
    if (!Take("]") || (!is_slice && parts[0] == nullptr))
      return NotJinja(code_);
    JinjaExprPtr out =
        Make(is_slice ? Kind::kSlice : Kind::kIndex, "", std::move(base));
    for (int i = 0; i < (is_slice ? 3 : 1); ++i) {
      out->args.push_back(std::move(parts[i]));
    }
    return out;
  }

  Parsed Test(JinjaExprPtr base) {
    const bool negated = TakeWord("not");
    const std::string name = Word();
    if (name.empty()) return NotJinja(code_);
    JinjaExprPtr out = Make(Kind::kTest, name, std::move(base));
    if (Take("(")) {
      CHOIR_RETURN_IF_ERROR(Arguments(")", *out));
    } else {
      SkipSpace();
      const char next = code_.empty() ? ' ' : code_[0];
      if (next == '\'' || next == '"' || absl::ascii_isdigit(next)) {
        CHOIR_ASSIGN_OR_RETURN(JinjaExprPtr value, Primary());
        out->args.push_back(std::move(value));
      }
    }
    if (negated) return Make(Kind::kUnary, "not", std::move(out));
    return out;
  }

  Parsed Postfix() {
    CHOIR_ASSIGN_OR_RETURN(JinjaExprPtr base, Primary());
    for (;;) {
      if (++parts_ > kMaxParts) {
        return absl::UnimplementedError("has too long an expression");
      }
      if (Take(".")) {
        const std::string name = Word();
        if (name.empty()) return NotJinja(code_);
        base = Make(Kind::kMember, name, std::move(base));
      } else if (Take("[")) {
        CHOIR_ASSIGN_OR_RETURN(base, Subscript(std::move(base)));
      } else if (Take("(")) {
        base = Make(Kind::kCall, "", std::move(base));
        CHOIR_RETURN_IF_ERROR(Arguments(")", *base));
      } else if (Take("|")) {
        const std::string name = Word();
        if (name.empty()) return NotJinja(code_);
        base = Make(Kind::kFilter, name, std::move(base));
        if (Take("(")) CHOIR_RETURN_IF_ERROR(Arguments(")", *base));
      } else if (TakeWord("is")) {
        CHOIR_ASSIGN_OR_RETURN(base, Test(std::move(base)));
      } else {
        return base;
      }
    }
  }

  Parsed Text() {
    JinjaExprPtr out = Make(Kind::kLiteral);
    std::string text;
    for (SkipSpace(); !code_.empty() && (code_[0] == '\'' || code_[0] == '"');
         SkipSpace()) {
      const char quote = code_[0];
      size_t i = 1;
      for (; i < code_.size() && code_[i] != quote; ++i) {
        if (code_[i] != '\\' || i + 1 >= code_.size()) {
          text += code_[i];
        } else if (absl::StrContains("abfvNU01234567", code_[i + 1])) {
          return absl::UnimplementedError(
              absl::StrCat("has the escape \\", code_.substr(i + 1, 1)));
        } else {
          AppendEscape(code_, i, text);
        }
      }
      if (i >= code_.size()) return NotJinja(code_);
      code_.remove_prefix(i + 1);
    }
    out->value = std::move(text);
    return out;
  }

  // After its brace.
  Parsed Dictionary() {
    JinjaExprPtr out = Make(Kind::kDict);
    while (!Take("}")) {
      for (const char* sign : {":", ","}) {
        CHOIR_ASSIGN_OR_RETURN(JinjaExprPtr part, Choice());
        out->args.push_back(std::move(part));
        if (Take(sign)) continue;
        if (sign[0] == ',' && Take("}")) return out;
        return NotJinja(code_);
      }
    }
    return out;
  }

  Parsed Primary() {
    SkipSpace();
    if (code_.empty()) return NotJinja("the end of an expression");
    if (code_[0] == '\'' || code_[0] == '"') return Text();
    if (absl::ascii_isdigit(code_[0])) {
      size_t end = 0;
      while (end < code_.size() && absl::ascii_isdigit(code_[end])) ++end;
      int64_t number = 0;
      if (!absl::SimpleAtoi(code_.substr(0, end), &number) ||
          absl::StartsWith(code_.substr(end), ".")) {
        return absl::UnimplementedError("has a number that is not a small one");
      }
      code_.remove_prefix(end);
      JinjaExprPtr out = Make(Kind::kLiteral);
      out->value = number;
      return out;
    }
    if (Take("(")) {
      CHOIR_ASSIGN_OR_RETURN(JinjaExprPtr inner, Choice());
      if (!Take(")")) return NotJinja(code_);
      return inner;
    }
    if (Take("[")) {
      JinjaExprPtr out = Make(Kind::kList);
      CHOIR_RETURN_IF_ERROR(Arguments("]", *out));
      return out;
    }
    if (Take("{")) return Dictionary();
    const std::string name = Word();
    if (name.empty()) return NotJinja(code_);
    JinjaExprPtr out = Make(Kind::kLiteral);
    if (name == "true" || name == "True") {
      out->value = true;
    } else if (name == "false" || name == "False") {
      out->value = false;
    } else if (name != "none" && name != "None") {
      out = Make(Kind::kName, name);
    }
    return out;
  }

  absl::string_view code_;
  int depth_ = 0;
  int parts_ = 0;
};

class BlockParser {
 public:
  explicit BlockParser(std::vector<JinjaTag> tags) : tags_(std::move(tags)) {}

  absl::StatusOr<std::vector<JinjaNode>> All() {
    CHOIR_ASSIGN_OR_RETURN(std::vector<JinjaNode> nodes, Body());
    if (at_ < tags_.size()) return NotJinja(tags_[at_].text);
    return nodes;
  }

 private:
  // Up to a statement that ends or divides a block.
  absl::StatusOr<std::vector<JinjaNode>> Body() {
    if (++depth_ > kMaxDepth) {
      return absl::UnimplementedError("nests blocks too deeply");
    }
    std::vector<JinjaNode> nodes;
    while (at_ < tags_.size()) {
      JinjaTag& tag = tags_[at_];
      if (tag.kind == 't') {
        JinjaNode& node = nodes.emplace_back();
        node.text = std::move(tag.text);
        ++at_;
        continue;
      }
      ExpressionParser code(tag.text);
      if (tag.kind == '{') {
        JinjaNode& node = nodes.emplace_back();
        node.kind = JinjaNode::Kind::kOutput;
        CHOIR_ASSIGN_OR_RETURN(node.expr, code.Choice());
        if (!code.AtEnd()) return NotJinja(code.rest());
        ++at_;
        continue;
      }
      const std::string word = code.Word();
      if (absl::StartsWith(word, "end") || word == "else" || word == "elif") {
        break;
      }
      ++at_;
      CHOIR_RETURN_IF_ERROR(Statement(word, code, nodes));
    }
    --depth_;
    return nodes;
  }

  // The word of the statement that Body stopped at, which is taken.
  std::string Divider(ExpressionParser* code) {
    if (at_ >= tags_.size()) return "";
    *code = ExpressionParser(tags_[at_++].text);
    return code->Word();
  }

  absl::Status Expect(absl::string_view word) {
    ExpressionParser code("");
    if (Divider(&code) == word && code.AtEnd()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("lacks {% ", word, " %}"));
  }

  absl::Status Statement(const std::string& word, ExpressionParser& code,
                         std::vector<JinjaNode>& nodes) {
    if (word == "if") return If(code, nodes.emplace_back());
    if (word == "for") return For(code, nodes.emplace_back());
    if (word == "set") return Set(code, nodes.emplace_back());
    if (word == "generation") {
      CHOIR_ASSIGN_OR_RETURN(std::vector<JinjaNode> body, Body());
      for (JinjaNode& node : body) nodes.push_back(std::move(node));
      return Expect("endgeneration");
    }
    if (word == "macro") {  // whoever calls it is refused then
      CHOIR_RETURN_IF_ERROR(Body().status());
      return Expect("endmacro");
    }
    return absl::UnimplementedError(absl::StrCat("uses {% ", word, " %}"));
  }

  absl::Status If(ExpressionParser code, JinjaNode& node) {
    node.kind = JinjaNode::Kind::kIf;
    std::string word = "if";
    while (word != "endif") {
      JinjaNode::Branch branch;
      if (word == "if" || word == "elif") {
        CHOIR_ASSIGN_OR_RETURN(branch.condition, code.Choice());
      } else if (word != "else") {
        return absl::InvalidArgumentError("lacks {% endif %}");
      }
      if (!code.AtEnd()) return NotJinja(code.rest());
      CHOIR_ASSIGN_OR_RETURN(branch.body, Body());
      node.branches.push_back(std::move(branch));
      word = Divider(&code);
    }
    return code.AtEnd() ? absl::OkStatus() : NotJinja(code.rest());
  }

  absl::Status For(ExpressionParser& code, JinjaNode& node) {
    node.kind = JinjaNode::Kind::kFor;
    JinjaNode::Branch branch;
    do {
      node.targets.push_back(code.Word());
    } while (code.Take(","));
    if (!code.TakeWord("in")) return NotJinja(code.rest());
    CHOIR_ASSIGN_OR_RETURN(node.expr, code.Or());
    if (code.TakeWord("if")) {
      CHOIR_ASSIGN_OR_RETURN(branch.condition, code.Choice());
    }
    if (!code.AtEnd()) return NotJinja(code.rest());
    CHOIR_ASSIGN_OR_RETURN(branch.body, Body());
    node.branches.push_back(std::move(branch));
    return Expect("endfor");
  }

  absl::Status Set(ExpressionParser& code, JinjaNode& node) {
    node.kind = JinjaNode::Kind::kSet;
    node.targets.push_back(code.Word());
    if (code.Take(".")) node.targets.push_back(code.Word());
    if (!code.Take("=")) {
      return absl::UnimplementedError("uses {% set %} in a way not known");
    }
    CHOIR_ASSIGN_OR_RETURN(node.expr, code.Choice());
    return code.AtEnd() ? absl::OkStatus() : NotJinja(code.rest());
  }

  std::vector<JinjaTag> tags_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

absl::StatusOr<std::vector<JinjaNode>> ParseJinja(absl::string_view text) {
  std::string normal = absl::StrReplaceAll(text, {{"\r\n", "\n"}});
  if (absl::EndsWith(normal, "\n")) normal.pop_back();
  CHOIR_ASSIGN_OR_RETURN(std::vector<JinjaTag> tags, SplitJinja(normal));
  return BlockParser(std::move(tags)).All();
}

}  // namespace choir::model
