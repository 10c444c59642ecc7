#include "model/tokenizer/jinja_values.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "model/tokenizer/jinja.h"
#include "model/tokenizer/unicode.h"

namespace choir::model {
namespace {

using nlohmann::json;
using Value = absl::StatusOr<json>;

constexpr size_t kMaxText = 1u << 24;

absl::Status Raises(absl::string_view what) {
  return absl::InvalidArgumentError(what);
}

bool IsUndefined(const json& value) { return value.is_discarded(); }

bool Equal(const json& left, const json& right) {
  if (IsUndefined(left) || IsUndefined(right)) {
    return IsUndefined(left) && IsUndefined(right);
  }
  if (left.is_boolean() && right.is_number()) {
    return right == json(left.get<bool>() ? 1 : 0);
  }
  if (left.is_number() && right.is_boolean()) return Equal(right, left);
  return left == right;
}

const std::string& Str(const json& value) {
  return value.get_ref<const std::string&>();
}

// The bytes of the character at i.
size_t CharacterSize(absl::string_view text, size_t i) {
  size_t end = i + 1;
  while (end < text.size() && (text[end] & 0xC0) == 0x80) ++end;
  return end - i;
}

bool IsPythonSpace(absl::string_view character) {
  if (character.size() == 1) {
    const unsigned char c = character[0];
    return absl::ascii_isspace(c) || (c >= 0x1c && c <= 0x1f);
  }
  uint32_t point = static_cast<unsigned char>(character[0]);
  point &= character.size() == 2 ? 0x1F : character.size() == 3 ? 0x0F : 0x07;
  for (size_t i = 1; i < character.size(); ++i) {
    point = point << 6 | (character[i] & 0x3F);
  }
  return IsWhitespace(point);
}

// strip, lstrip, rstrip with the characters to take away.
absl::string_view StripOf(absl::string_view text, absl::string_view taken,
                          bool left, bool right) {
  while (left && !text.empty() &&
         absl::StrContains(taken, text.substr(0, CharacterSize(text, 0)))) {
    text.remove_prefix(CharacterSize(text, 0));
  }
  while (right && !text.empty()) {
    size_t begin = text.size() - 1;
    while (begin > 0 && (text[begin] & 0xC0) == 0x80) --begin;
    if (!absl::StrContains(taken, text.substr(begin))) break;
    text = text.substr(0, begin);
  }
  return text;
}

Value Contains(const json& all, const json& one) {
  if (all.is_string() && one.is_string()) {
    return json(absl::StrContains(Str(all), Str(one)));
  }
  if (all.is_object() && one.is_string()) return json(all.contains(Str(one)));
  if (IsUndefined(all)) return json(false);
  if (!all.is_array()) return Raises("asks what is in no list");
  return json(std::any_of(all.begin(), all.end(),
                          [&](const json& item) { return Equal(item, one); }));
}

Value Calculate(absl::string_view op, const json& left, const json& right) {
  if (!left.is_number_integer() || !right.is_number_integer()) {
    return Raises(absl::StrCat("cannot do ", left.type_name(), " ", op, " ",
                               right.type_name()));
  }
  const int64_t a = left.get<int64_t>();
  const int64_t b = right.get<int64_t>();
  constexpr int64_t kLimit = int64_t{1} << 31;
  if (a > kLimit || a < -kLimit || b > kLimit || b < -kLimit) {
    return Raises("calculates with large numbers");
  }
  if (op == "+") return json(a + b);
  if (op == "-") return json(a - b);
  if (op == "*") return json(a * b);
  if (op == "/") return absl::UnimplementedError("divides with /");
  if (b == 0) return Raises("divides by zero");
  const int64_t rest = ((a % b) + b) % b;  // of the divisor's sign
  return json(op == "%" ? rest : (a - rest) / b);
}

Value Split(const std::string& text, const std::vector<json>& given) {
  if (given.size() != 1 || !given[0].is_string() || Str(given[0]).empty()) {
    return absl::UnimplementedError("splits a text by no separator");
  }
  json parts = json::array();
  for (absl::string_view part : absl::StrSplit(text, Str(given[0]))) {
    parts.push_back(std::string(part));
  }
  return parts;
}

// selectattr("role", "equalto", "user") and rejectattr.
Value Select(const json& base, bool selects, const std::vector<json>& given) {
  CHOIR_ASSIGN_OR_RETURN(const json items, JinjaItems(base));
  if (given.empty() || !given[0].is_string() ||
      (given.size() > 1 && !given[1].is_string())) {
    return absl::UnimplementedError("selects by what is no name");
  }
  json out = json::array();
  for (const json& item : items) {
    CHOIR_ASSIGN_OR_RETURN(const json* found, JinjaMember(item, given[0]));
    const json member = found == nullptr ? JinjaUndefined() : *found;
    bool fits = JinjaTruth(member);
    if (given.size() > 1) {
      CHOIR_ASSIGN_OR_RETURN(
          const json passes,
          JinjaTest(member, Str(given[1]),
                    std::vector<json>(given.begin() + 2, given.end())));
      fits = JinjaTruth(passes);
    }
    if (fits == selects) out.push_back(item);
  }
  return out;
}

std::string Capitalized(absl::string_view text) {
  std::string out = absl::AsciiStrToLower(text);
  if (!out.empty()) out[0] = absl::ascii_toupper(out[0]);
  return out;
}

}  // namespace

absl::string_view PythonStrip(absl::string_view text, bool left, bool right) {
  while (left && !text.empty() &&
         IsPythonSpace(text.substr(0, CharacterSize(text, 0)))) {
    text.remove_prefix(CharacterSize(text, 0));
  }
  while (right && !text.empty()) {
    size_t begin = text.size() - 1;
    while (begin > 0 && (text[begin] & 0xC0) == 0x80) --begin;
    if (!IsPythonSpace(text.substr(begin))) break;
    text = text.substr(0, begin);
  }
  return text;
}

json JinjaUndefined() { return json(json::value_t::discarded); }

bool JinjaTruth(const json& value) {
  if (IsUndefined(value) || value.is_null()) return false;
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number()) return value != 0;
  if (value.is_string()) return !Str(value).empty();
  return !value.empty();
}

absl::StatusOr<std::string> JinjaText(const json& value) {
  if (value.is_string()) return Str(value);
  if (IsUndefined(value)) return std::string();
  if (value.is_null()) return std::string("None");
  if (value.is_boolean())
    return std::string(value.get<bool>() ? "True" : "False");
  if (value.is_number_integer()) return value.dump();
  return absl::UnimplementedError("writes a list or a dictionary");
}

Value JinjaItems(const json& value) {
  if (value.is_array()) return value;
  if (IsUndefined(value)) return json::array();
  return absl::UnimplementedError(
      absl::StrCat("runs over what is a ", value.type_name()));
}

absl::StatusOr<const json*> JinjaMember(const json& base, const json& key) {
  if (IsUndefined(base)) {
    return Raises(absl::StrCat("asks for ",
                               key.is_string() ? Str(key) : key.dump(),
                               " of what is undefined"));
  }
  if (base.is_object() && key.is_string()) {
    const auto found = base.find(Str(key));
    return found == base.end() ? nullptr : &*found;
  }
  if (base.is_array() && key.is_number_integer()) {
    int64_t index = key.get<int64_t>();
    if (index < 0) index += static_cast<int64_t>(base.size());
    if (index < 0 || index >= static_cast<int64_t>(base.size())) return nullptr;
    return &base[static_cast<size_t>(index)];
  }
  if (base.is_string() && key.is_number_integer()) {
    return absl::UnimplementedError("asks for one character of a text");
  }
  return nullptr;
}

Value JinjaSlice(const json& base, const json& low, const json& high,
                 const json& step) {
  if (!base.is_array()) {
    return absl::UnimplementedError("takes a slice of what is no list");
  }
  for (const json* bound : {&low, &high, &step}) {
    if (!bound->is_null() && !bound->is_number_integer()) {
      return Raises("takes a slice up to what is no number");
    }
  }
  const int64_t size = static_cast<int64_t>(base.size());
  const int64_t by = step.is_null() ? 1 : step.get<int64_t>();
  if (by == 0) return Raises("takes a slice with the step 0");
  const auto clamp = [&](const json& bound, int64_t missing) {
    if (bound.is_null()) return missing;
    int64_t at = bound.get<int64_t>();
    if (at < 0) at += size;
    return by > 0 ? std::clamp<int64_t>(at, 0, size)
                  : std::clamp<int64_t>(at, -1, size - 1);
  };
  const int64_t begin = clamp(low, by > 0 ? 0 : size - 1);
  const int64_t end = clamp(high, by > 0 ? size : -1);
  json out = json::array();
  for (int64_t i = begin; by > 0 ? i < end : i > end; i += by) {
    out.push_back(base[static_cast<size_t>(i)]);
  }
  return out;
}

Value JinjaBinary(absl::string_view op, const json& left, const json& right) {
  if (op == "==") return json(Equal(left, right));
  if (op == "!=") return json(!Equal(left, right));
  if (op == "in" || op == "not in") {
    CHOIR_ASSIGN_OR_RETURN(const json within, Contains(right, left));
    return json(within.get<bool>() == (op == "in"));
  }
  if (op == "~" || (op == "+" && left.is_string() && right.is_string())) {
    CHOIR_ASSIGN_OR_RETURN(std::string text, JinjaText(left));
    CHOIR_ASSIGN_OR_RETURN(const std::string more, JinjaText(right));
    if (text.size() + more.size() > kMaxText) {
      return absl::ResourceExhaustedError("makes too long a text");
    }
    return json(text + more);
  }
  if (op == "+" && left.is_array() && right.is_array() &&
      left.size() + right.size() < kMaxText / 64) {
    json list = left;
    for (const json& item : right) list.push_back(item);
    return list;
  }
  if (op == "<" || op == ">" || op == "<=" || op == ">=") {
    if (!(left.is_number() && right.is_number()) &&
        !(left.is_string() && right.is_string())) {
      return Raises("compares what has no order");
    }
    return json(op == "<"    ? left < right
                : op == ">"  ? left > right
                : op == "<=" ? left <= right
                             : left >= right);
  }
  return Calculate(op, left, right);
}

Value JinjaMethod(const json& base, absl::string_view name,
                  const std::vector<json>& given) {
  if (IsUndefined(base)) return Raises(absl::StrCat(".", name, " of nothing"));
  const json first = given.empty() ? json() : given[0];
  if (base.is_object() && name == "get" && first.is_string()) {
    if (base.contains(Str(first))) return base[Str(first)];
    return given.size() > 1 ? given[1] : json();
  }
  if (!base.is_string()) {
    return absl::UnimplementedError(absl::StrCat(
        "calls .", name, "() of a ", base.type_name(), ", which is not known"));
  }
  const std::string& text = Str(base);
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    const bool left = name != "rstrip";
    const bool right = name != "lstrip";
    return json(std::string(first.is_string()
                                ? StripOf(text, Str(first), left, right)
                                : PythonStrip(text, left, right)));
  }
  if (name == "split") return Split(text, given);
  if (name == "startswith" && first.is_string()) {
    return json(absl::StartsWith(text, Str(first)));
  }
  if (name == "endswith" && first.is_string()) {
    return json(absl::EndsWith(text, Str(first)));
  }
  if (name == "replace" && given.size() == 2 && first.is_string() &&
      !Str(first).empty() && given[1].is_string()) {
    if (text.size() / Str(first).size() * Str(given[1]).size() > kMaxText) {
      return absl::ResourceExhaustedError("makes too long a text");
    }
    return json(absl::StrReplaceAll(text, {{Str(first), Str(given[1])}}));
  }
  if (given.empty() &&
      (name == "upper" || name == "lower" || name == "capitalize")) {
    return JinjaFilter(base, name, given);
  }
  return absl::UnimplementedError(
      absl::StrCat("calls .", name, "(), which is not known"));
}

Value JinjaFilter(const json& base, absl::string_view name,
                  const std::vector<json>& given) {
  const std::string text = base.is_string() ? Str(base) : std::string();
  const bool is_text = base.is_string() || IsUndefined(base);
  if (given.empty() && is_text) {
    if (name == "trim") return json(std::string(PythonStrip(text, true, true)));
    if (name == "string") return json(text);
    if ((name == "upper" || name == "lower" || name == "capitalize") &&
        !std::all_of(text.begin(), text.end(), absl::ascii_isascii)) {
      return absl::UnimplementedError(
          absl::StrCat("changes letters beyond ASCII by ", name));
    }
    if (name == "upper") return json(absl::AsciiStrToUpper(text));
    if (name == "lower") return json(absl::AsciiStrToLower(text));
    if (name == "capitalize") return json(Capitalized(text));
  }
  if (name == "length" || name == "count") {
    if (base.is_array() || base.is_object()) return json(base.size());
    if (!is_text) return Raises("asks for the length of a number");
    return json(std::count_if(text.begin(), text.end(),
                              [](char c) { return (c & 0xC0) != 0x80; }));
  }
  if (name == "safe" && given.empty()) return base;
  if (name == "list" && !base.is_string()) return JinjaItems(base);
  if (name == "default" || name == "d") {
    const bool takes = given.size() > 1 && JinjaTruth(given[1])
                           ? !JinjaTruth(base)
                           : IsUndefined(base);
    if (!takes) return base;
    return given.empty() ? json("") : given[0];
  }
  if (base.is_array() && (name == "first" || name == "last")) {
    if (base.empty()) return JinjaUndefined();
    return name == "first" ? base.front() : base.back();
  }
  if (name == "selectattr" || name == "rejectattr") {
    return Select(base, name == "selectattr", given);
  }
  return absl::UnimplementedError(
      absl::StrCat("uses the filter |", name, ", which is not known here"));
}

Value JinjaTest(const json& base, absl::string_view name,
                const std::vector<json>& given) {
  if (name == "defined") return json(!IsUndefined(base));
  if (name == "undefined") return json(IsUndefined(base));
  if (name == "none") return json(base.is_null());
  if (name == "string") return json(base.is_string());
  if (name == "mapping") return json(base.is_object());
  if (name == "iterable" || name == "sequence") {
    return json(base.is_string() || base.is_array() || base.is_object() ||
                IsUndefined(base));
  }
  if (name == "number") return json(base.is_number());
  if (name == "boolean") return json(base.is_boolean());
  if (name == "true") return json(base == json(true));
  if (name == "false") return json(base == json(false));
  if ((name == "equalto" || name == "eq" || name == "sameas" || name == "==") &&
      given.size() == 1) {
    return json(Equal(base, given[0]));
  }
  if (name == "in" && given.size() == 1) return Contains(given[0], base);
  if (base.is_number_integer() && (name == "odd" || name == "even")) {
    return json((base.get<int64_t>() % 2 == 0) == (name == "even"));
  }
  return absl::UnimplementedError(
      absl::StrCat("uses the test 'is ", name, "', which is not known"));
}

}  // namespace choir::model
