#include "model/tokenizer/jinja_tags.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "model/tokenizer/jinja.h"

namespace choir::model {
namespace {

// The end of the code that begins at 0, past strings in quotes.
size_t EndOfCode(absl::string_view text, absl::string_view close) {
  char quote = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (quote != 0) {
      if (text[i] == '\\') {
        ++i;
      } else if (text[i] == quote) {
        quote = 0;
      }
    } else if (absl::StartsWith(text.substr(i), close)) {
      return i;
    } else if (text[i] == '\'' || text[i] == '"') {
      quote = text[i];
    }
  }
  return absl::string_view::npos;
}

// What stands before a tag, less the white space that the tag takes.
std::string TextBefore(absl::string_view text, absl::string_view tag,
                       bool strips, bool line_starts) {
  if (strips) text = PythonStrip(text, true, false);
  if (tag.size() > 2 && tag[2] == '-')
    return std::string(PythonStrip(text, false, true));
  if (tag.size() > 1 && tag[1] != '{' && !(tag.size() > 2 && tag[2] == '+')) {
    const size_t line = text.rfind('\n') + 1;
    if ((line > 0 || line_starts) &&
        PythonStrip(text.substr(line), true, true).empty()) {
      text = text.substr(0, line);
    }
  }
  return std::string(text);
}

}  // namespace

absl::Status NotJinja(absl::string_view where) {
  return absl::InvalidArgumentError(
      absl::StrCat("cannot be read at '", where.substr(0, 60), "'"));
}

absl::StatusOr<std::vector<JinjaTag>> SplitJinja(absl::string_view text) {
  std::vector<JinjaTag> tags;
  bool strips = false;
  bool line_starts = true;
  while (!text.empty()) {
    size_t begin =
        std::min({text.find("{{"), text.find("{%"), text.find("{#")});
    if (begin == absl::string_view::npos) begin = text.size();
    const absl::string_view tag = text.substr(begin);
    std::string before =
        TextBefore(text.substr(0, begin), tag, strips, line_starts);
    if (!before.empty()) tags.push_back({'t', std::move(before)});
    if (tag.empty()) break;
    const char kind = tag[1];
    const absl::string_view close = kind == '{'   ? "}}"
                                    : kind == '%' ? "%}"
                                                  : "#}";
    const size_t end =
        kind == '#' ? tag.find(close, 2) : EndOfCode(tag.substr(2), close) + 2;
    if (end < 2 || end >= tag.size()) return NotJinja(tag);
    absl::string_view inside = tag.substr(2, end - 2);
    text = tag.substr(end + 2);
    strips = absl::ConsumeSuffix(&inside, "-");
    if (!absl::ConsumePrefix(&inside, "-")) absl::ConsumePrefix(&inside, "+");
    line_starts = kind != '{' && !strips && absl::ConsumePrefix(&text, "\n");
    if (kind != '#') tags.push_back({kind, std::string(inside)});
  }
  return tags;
}

}  // namespace choir::model
