#include "base/json_text.h"

#include <algorithm>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"

namespace choir::base {
namespace {

// The deepest nesting of brackets outside strings.
int Depth(absl::string_view text) {
  int depth = 0;
  int deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      deepest = std::max(deepest, ++depth);
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return deepest;
}

// Reports where parsing stops, without exceptions, and keeps no values.
class SyntaxChecker : public nlohmann::json_sax<nlohmann::json> {
 public:
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return true; }
  bool key(string_t&) override { return true; }
  bool end_object() override { return true; }
  bool start_array(std::size_t) override { return true; }
  bool end_array() override { return true; }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    position_ = position;
    return false;
  }
  std::size_t position() const { return position_; }

 private:
  std::size_t position_ = 0;
};

}  // namespace

absl::StatusOr<nlohmann::json> ParseJsonObject(absl::string_view text,
                                               absl::string_view source,
                                               const JsonLimits& limits) {
  if (text.size() > limits.max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, " has ", text.size(), " bytes of JSON; at most ",
                     limits.max_bytes, " are read"));
  }
  if (Depth(text) > limits.max_depth) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, " nests JSON deeper than ", limits.max_depth));
  }
  std::set<std::string> keys;
  std::string repeated;
  bool is_repeated = false;
  nlohmann::json::parser_callback_t callback = nullptr;
  if (limits.unique_top_keys) {
    callback = [&](int depth, nlohmann::json::parse_event_t event,
                   nlohmann::json& value) {
      if (event == nlohmann::json::parse_event_t::key && depth == 1 &&
          !keys.insert(value.get<std::string>()).second && !is_repeated) {
        is_repeated = true;
        repeated = value.get<std::string>();
      }
      return true;
    };
  }
  nlohmann::json document =
      nlohmann::json::parse(text.begin(), text.end(), callback,
                            /*allow_exceptions=*/false);
  if (document.is_discarded()) {
    SyntaxChecker checker;
    nlohmann::json::sax_parse(text.begin(), text.end(), &checker);
    // The parser counts the end as one more byte.
    return absl::InvalidArgumentError(
        checker.position() > text.size()
            ? absl::StrCat(source, " is not valid JSON: it ends too early")
            : absl::StrCat(source, " is not valid JSON: it breaks at byte ",
                           checker.position(), " of ", text.size()));
  }
  if (!document.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, " holds a JSON ", document.type_name(),
                     " where an object is expected"));
  }
  if (is_repeated) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, " names '", repeated, "' twice"));
  }
  return document;
}

}  // namespace choir::base
