#include "model/tokenizer/normalizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/check.h"

namespace choir::model {

void Normalizer::AddPrepend(std::string text) {
  steps_.push_back({"", std::move(text)});
}

void Normalizer::AddReplace(std::string pattern, std::string content) {
  CHOIR_CHECK(!pattern.empty());
  steps_.push_back({std::move(pattern), std::move(content)});
}

std::string Normalizer::Apply(absl::string_view text) const {
  std::string out(text);
  for (const Step& step : steps_) {
    if (!step.pattern.empty()) {
      out = absl::StrReplaceAll(out, {{step.pattern, step.content}});
    } else if (!out.empty()) {
      out = absl::StrCat(step.content, out);
    }
  }
  return out;
}

}  // namespace choir::model
