#include "model/tokenizer/jinja.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/tokenizer/jinja_values.h"

namespace choir::model {
namespace {

using nlohmann::json;
using Kind = JinjaExpr::Kind;
using Value = absl::StatusOr<json>;

constexpr size_t kMaxSteps = 200000;
constexpr size_t kMaxText = 1u << 18;
constexpr size_t kMaxCopies = 16;  // of the variables, in text
constexpr size_t kBytesAStep = 256;

// About the bytes that a copy takes.
size_t Weight(const json& value) {
  if (value.is_string()) return value.get_ref<const std::string&>().size();
  size_t weight = 16;
  if (value.is_structured()) {
    for (const json& item : value) weight += Weight(item);
  }
  return weight;
}

// One run of a program.
class Run {
 public:
  explicit Run(const json& variables) : given_(Weight(variables)) {
    scopes_.emplace_back();
    for (const auto& [name, value] : variables.items()) {
      scopes_[0][name] = value;
    }
  }

  absl::Status Nodes(const std::vector<JinjaNode>& nodes) {
    for (const JinjaNode& node : nodes) CHOIR_RETURN_IF_ERROR(Node(node));
    return absl::OkStatus();
  }

  std::string& text() { return text_; }

 private:
  // A value, or where a variable has it: what is asked of a conversation needs
  // no copy of it.
  struct Held {
    json own;
    const json* at = nullptr;
    const json& operator*() const { return at == nullptr ? own : *at; }
  };

  absl::Status Step(size_t bytes = 0) {
    steps_ += 1 + bytes / kBytesAStep;
    if (steps_ > kMaxSteps + given_ ||
        text_.size() > kMaxText + kMaxCopies * given_) {
      return absl::ResourceExhaustedError("runs too long or writes too much");
    }
    return absl::OkStatus();
  }

  json* Find(const std::string& name) {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      const auto found = scope->find(name);
      if (found != scope->end()) return &found->second;
    }
    return nullptr;
  }

  absl::Status Node(const JinjaNode& node) {
    CHOIR_RETURN_IF_ERROR(Step());
    if (node.kind == JinjaNode::Kind::kText) {
      text_ += node.text;
      return absl::OkStatus();
    }
    if (node.kind == JinjaNode::Kind::kIf) return If(node);
    if (node.kind == JinjaNode::Kind::kFor) return For(node);
    if (node.kind == JinjaNode::Kind::kOutput) {
      CHOIR_ASSIGN_OR_RETURN(const Held value, Look(*node.expr));
      CHOIR_ASSIGN_OR_RETURN(const std::string written, JinjaText(*value));
      text_ += written;
      return absl::OkStatus();
    }
    CHOIR_ASSIGN_OR_RETURN(json value, Eval(*node.expr));
    if (node.targets.size() == 1) {
      scopes_.back()[node.targets[0]] = std::move(value);
      return absl::OkStatus();
    }
    json* space = Find(node.targets[0]);
    if (space == nullptr || !space->is_object()) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", node.targets[0], "' is no namespace"));
    }
    (*space)[node.targets[1]] = std::move(value);
    return absl::OkStatus();
  }

  absl::Status If(const JinjaNode& node) {
    for (const JinjaNode::Branch& branch : node.branches) {
      if (branch.condition != nullptr) {
        CHOIR_ASSIGN_OR_RETURN(const Held value, Look(*branch.condition));
        if (!JinjaTruth(*value)) continue;
      }
      return Nodes(branch.body);
    }
    return absl::OkStatus();
  }

  absl::Status Bind(const JinjaNode& node, const json& item) {
    if (node.targets.size() == 1) {
      scopes_.back()[node.targets[0]] = item;
      return absl::OkStatus();
    }
    if (!item.is_array() || item.size() != node.targets.size()) {
      return absl::InvalidArgumentError("unpacks what has other parts");
    }
    for (size_t i = 0; i < item.size(); ++i) {
      scopes_.back()[node.targets[i]] = item[i];
    }
    return absl::OkStatus();
  }

  absl::Status For(const JinjaNode& node) {
    const JinjaNode::Branch& branch = node.branches[0];
    CHOIR_ASSIGN_OR_RETURN(const Held value, Look(*node.expr));
    CHOIR_ASSIGN_OR_RETURN(const json all, JinjaItems(*value));
    std::vector<json> items;
    for (const json& item : all) {
      CHOIR_RETURN_IF_ERROR(Step(Weight(item)));
      bool kept = true;
      if (branch.condition != nullptr) {
        scopes_.emplace_back();
        CHOIR_RETURN_IF_ERROR(Bind(node, item));
        CHOIR_ASSIGN_OR_RETURN(const Held wanted, Look(*branch.condition));
        kept = JinjaTruth(*wanted);
        scopes_.pop_back();
      }
      if (kept) items.push_back(item);
    }
    const size_t count = items.size();
    for (size_t i = 0; i < count; ++i) {
      scopes_.emplace_back();
      json& loop = scopes_.back()["loop"];
      loop = {{"index", i + 1},        {"index0", i},
              {"revindex", count - i}, {"revindex0", count - i - 1},
              {"first", i == 0},       {"last", i + 1 == count},
              {"length", count}};
      if (i > 0) loop["previtem"] = items[i - 1];
      if (i + 1 < count) loop["nextitem"] = items[i + 1];
      CHOIR_RETURN_IF_ERROR(Bind(node, items[i]));
      CHOIR_RETURN_IF_ERROR(Nodes(branch.body));
      scopes_.pop_back();
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<json>> Arguments(const JinjaExpr& expr) {
    std::vector<json> values;
    for (size_t i = 1; i < expr.args.size(); ++i) {
      CHOIR_ASSIGN_OR_RETURN(json value, Eval(*expr.args[i]));
      values.push_back(std::move(value));
    }
    return values;
  }

  Value Call(const JinjaExpr& expr) {
    const JinjaExpr& callee = *expr.args[0];
    CHOIR_ASSIGN_OR_RETURN(std::vector<json> given, Arguments(expr));
    if (callee.kind == Kind::kMember) {
      CHOIR_ASSIGN_OR_RETURN(const Held base, Look(*callee.args[0]));
      if (!expr.named.empty()) {
        return absl::UnimplementedError(
            absl::StrCat("gives names to what .", callee.name, "() takes"));
      }
      return JinjaMethod(*base, callee.name, given);
    }
    if (callee.kind == Kind::kName && callee.name == "raise_exception") {
      CHOIR_ASSIGN_OR_RETURN(
          const std::string what,
          JinjaText(given.empty() ? json("an error") : given[0]));
      return absl::InvalidArgumentError(what);
    }
    if (callee.kind == Kind::kName && callee.name == "namespace") {
      json space = json::object();
      for (auto& [name, value] : expr.named) {
        CHOIR_ASSIGN_OR_RETURN(space[name], Eval(*value));
      }
      return space;
    }
    return absl::UnimplementedError(
        absl::StrCat("calls ", callee.name.empty() ? "a value" : callee.name,
                     "(), which is not known"));
  }

  Value Slice(const JinjaExpr& expr) {
    CHOIR_ASSIGN_OR_RETURN(const Held base, Look(*expr.args[0]));
    json bounds[3];
    for (int i = 0; i < 3; ++i) {
      if (expr.args[i + 1] == nullptr) continue;
      CHOIR_ASSIGN_OR_RETURN(bounds[i], Eval(*expr.args[i + 1]));
    }
    return JinjaSlice(*base, bounds[0], bounds[1], bounds[2]);
  }

  Value Binary(const JinjaExpr& expr) {
    CHOIR_ASSIGN_OR_RETURN(const Held left, Look(*expr.args[0]));
    if (expr.name == "and" || expr.name == "or") {
      if (JinjaTruth(*left) == (expr.name == "or")) return *left;
      return Eval(*expr.args[1]);
    }
    CHOIR_ASSIGN_OR_RETURN(const Held right, Look(*expr.args[1]));
    CHOIR_RETURN_IF_ERROR(Step(Weight(*left) + Weight(*right)));
    return JinjaBinary(expr.name, *left, *right);
  }

  Value Unary(const JinjaExpr& expr) {
    CHOIR_ASSIGN_OR_RETURN(const json value, Eval(*expr.args[0]));
    if (expr.name == "not") return json(!JinjaTruth(value));
    if (!value.is_number_integer()) {
      return absl::InvalidArgumentError("negates what is no number");
    }
    return json(-value.get<int64_t>());
  }

  Value Apply(const JinjaExpr& expr) {
    CHOIR_ASSIGN_OR_RETURN(const Held base, Look(*expr.args[0]));
    CHOIR_ASSIGN_OR_RETURN(const std::vector<json> given, Arguments(expr));
    if (!expr.named.empty()) {
      return absl::UnimplementedError(
          absl::StrCat("gives names to what |", expr.name, " takes"));
    }
    return expr.kind == Kind::kTest ? JinjaTest(*base, expr.name, given)
                                    : JinjaFilter(*base, expr.name, given);
  }

  Value Eval(const JinjaExpr& expr) {
    CHOIR_ASSIGN_OR_RETURN(Held held, Look(expr));
    if (held.at == nullptr) return std::move(held.own);
    CHOIR_RETURN_IF_ERROR(Step(Weight(*held)));
    return *held;
  }

  absl::StatusOr<Held> Look(const JinjaExpr& expr) {
    CHOIR_RETURN_IF_ERROR(Step());
    Held held;
    if (expr.kind == Kind::kName) {
      held.at = Find(expr.name);
    } else if (expr.kind == Kind::kMember || expr.kind == Kind::kIndex) {
      CHOIR_ASSIGN_OR_RETURN(const Held base, Look(*expr.args[0]));
      json key = expr.name;
      if (expr.kind == Kind::kIndex) {
        CHOIR_ASSIGN_OR_RETURN(key, Eval(*expr.args[1]));
      }
      CHOIR_ASSIGN_OR_RETURN(held.at, JinjaMember(*base, key));
      if (base.at == nullptr && held.at != nullptr) {
        held.own = *held.at;
        held.at = nullptr;
        return held;
      }
    } else {
      CHOIR_ASSIGN_OR_RETURN(held.own, Compute(expr));
      CHOIR_RETURN_IF_ERROR(Step(Weight(held.own)));
      return held;
    }
    if (held.at == nullptr) held.own = JinjaUndefined();
    if (held.at != nullptr && held.at->is_string()) {
      CHOIR_RETURN_IF_ERROR(Step(Weight(*held)));
    }
    return held;
  }

  Value Compute(const JinjaExpr& expr) {
    switch (expr.kind) {
      case Kind::kLiteral:
        return expr.value;
      case Kind::kSlice:
        return Slice(expr);
      case Kind::kCall:
        return Call(expr);
      case Kind::kFilter:
      case Kind::kTest:
        return Apply(expr);
      case Kind::kUnary:
        return Unary(expr);
      case Kind::kBinary:
        return Binary(expr);
      case Kind::kChoice: {
        CHOIR_ASSIGN_OR_RETURN(const json wanted, Eval(*expr.args[0]));
        const JinjaExprPtr& taken = expr.args[JinjaTruth(wanted) ? 1 : 2];
        return taken == nullptr ? JinjaUndefined() : Eval(*taken);
      }
      case Kind::kDict: {
        json dict = json::object();
        for (size_t i = 0; i + 1 < expr.args.size(); i += 2) {
          CHOIR_ASSIGN_OR_RETURN(const json key, Eval(*expr.args[i]));
          if (!key.is_string()) {
            return absl::UnimplementedError("has a key that is no text");
          }
          CHOIR_ASSIGN_OR_RETURN(dict[key.get<std::string>()],
                                 Eval(*expr.args[i + 1]));
        }
        return dict;
      }
      case Kind::kName:
      case Kind::kMember:
      case Kind::kIndex:
        break;  // Look knows them
      case Kind::kList: {
        json list = json::array();
        for (const JinjaExprPtr& item : expr.args) {
          CHOIR_ASSIGN_OR_RETURN(json value, Eval(*item));
          list.push_back(std::move(value));
        }
        return list;
      }
    }
    return absl::InternalError("an expression of no kind");
  }

  const size_t given_;
  std::vector<std::map<std::string, json>> scopes_;
  std::string text_;
  size_t steps_ = 0;
};

}  // namespace

absl::StatusOr<JinjaProgram> JinjaProgram::Parse(absl::string_view text) {
  JinjaProgram program;
  CHOIR_ASSIGN_OR_RETURN(program.nodes_, ParseJinja(text));
  return program;
}

absl::StatusOr<std::string> JinjaProgram::Render(const json& variables) const {
  Run run(variables);
  CHOIR_RETURN_IF_ERROR(run.Nodes(nodes_));
  return std::move(run.text());
}

}  // namespace choir::model
