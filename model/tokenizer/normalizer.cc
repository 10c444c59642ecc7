#include "model/tokenizer/normalizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/check.h"
#include "model/tokenizer/unicode.h"

namespace choir::model {
namespace {

std::string Lowercase(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = DecodeUtf8(text, i);
    if (c.code_point == kInvalidCodePoint) {
      out.push_back(text[i]);
    } else {
      AppendLowercase(c.code_point, out);
    }
    i += c.length;
  }
  return out;
}

std::string Strip(absl::string_view text, bool left, bool right) {
  size_t begin = text.size();  // of the first and
  size_t end = 0;              // after the last that is not white space
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = DecodeUtf8(text, i);
    if (!IsWhitespace(c.code_point)) {
      if (begin == text.size()) begin = i;
      end = i + c.length;
    }
    i += c.length;
  }
  if (!left) begin = 0;
  if (!right) end = text.size();
  return begin < end ? std::string(text.substr(begin, end - begin)) : "";
}

}  // namespace

std::string ReplaceMatches(const Regex& pattern, absl::string_view text,
                           absl::string_view content) {
  std::string out;
  size_t done = 0;
  ForEachMatch(pattern, text, [&](TextMatch match) {
    absl::StrAppend(&out, text.substr(done, match.begin - done), content);
    done = match.end;
  });
  absl::StrAppend(&out, text.substr(done));
  return out;
}

void Normalizer::AddPrepend(std::string text) {
  steps_.push_back({Kind::kPrepend, "", std::move(text)});
}

void Normalizer::AddReplace(std::string pattern, std::string content) {
  CHOIR_CHECK(!pattern.empty());
  steps_.push_back({Kind::kReplace, std::move(pattern), std::move(content)});
}

void Normalizer::AddReplace(Regex pattern, std::string content) {
  steps_.push_back({Kind::kRegex, "", std::move(content)});
  steps_.back().regex = std::make_shared<const Regex>(std::move(pattern));
}

void Normalizer::AddUnicode(NormalForm form) {
  steps_.push_back({Kind::kUnicode, "", "", form});
}

void Normalizer::AddLowercase() { steps_.push_back({Kind::kLowercase}); }

void Normalizer::AddStrip(bool left, bool right) {
  steps_.push_back({Kind::kStrip, "", "", NormalForm::kNfc, left, right});
}

std::string Normalizer::ApplyStep(const Step& step, std::string text) {
  switch (step.kind) {
    case Kind::kPrepend:
      return text.empty() ? text : absl::StrCat(step.content, text);
    case Kind::kReplace:
      return absl::StrReplaceAll(text, {{step.pattern, step.content}});
    case Kind::kRegex:
      return ReplaceMatches(*step.regex, text, step.content);
    case Kind::kUnicode:
      return NormalizeUnicode(text, step.form);
    case Kind::kLowercase:
      return Lowercase(text);
    case Kind::kStrip:
      return Strip(text, step.left, step.right);
  }
  return text;
}

std::string Normalizer::Apply(absl::string_view text) const {
  std::string out(text);
  for (const Step& step : steps_) out = ApplyStep(step, std::move(out));
  return out;
}

}  // namespace choir::model
