#include "model/text_stream.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "base/status_macros.h"
#include "model/tokenizer/unicode.h"

namespace choir::model {
namespace {

// Tokens of the prompt that the first piece is decoded with: what a decoder
// does at the beginning of a text must not happen in its middle.
constexpr size_t kContext = 6;

// True if `text` ends inside a character that further bytes could complete.
bool EndsInsideCharacter(absl::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xC0) == 0x80) continue;  // inside
    const size_t length = byte >= 0xF0   ? 4
                          : byte >= 0xE0 ? 3
                          : byte >= 0xC0 ? 2
                                         : 1;
    return length > back;
  }
  return false;
}

}  // namespace

TextStream::TextStream(const Tokenizer& tokenizer,
                       absl::Span<const int32_t> prompt,
                       std::vector<std::string> stops)
    : tokenizer_(tokenizer), stops_(std::move(stops)) {
  const size_t kept = std::min(kContext, prompt.size());
  ids_.assign(prompt.end() - kept, prompt.end());
  read_ = kept;
}

absl::StatusOr<std::string> TextStream::Add(int32_t id) {
  // Models are often padded with rows that no token has.
  if (stopped_ || id >= tokenizer_.vocab_size()) return std::string();
  ids_.push_back(id);
  const absl::Span<const int32_t> ids = ids_;
  CHOIR_ASSIGN_OR_RETURN(
      const std::string before,
      tokenizer_.Decode(ids.subspan(context_, read_ - context_)));
  CHOIR_ASSIGN_OR_RETURN(const std::string now,
                         tokenizer_.Decode(ids.subspan(context_)));
  if (EndsInsideCharacter(now)) return Release();
  if (now.size() > before.size() && absl::StartsWith(now, before)) {
    held_.append(now, before.size(), std::string::npos);
  }
  context_ = read_;
  read_ = ids_.size();
  return Release();
}

std::string TextStream::Release() {
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) {
    if (!stop.empty()) first = std::min(first, held_.find(stop));
  }
  std::string released;
  if (first != std::string::npos) {
    stopped_ = true;
    released = held_.substr(0, first);
    held_.clear();
    return Utf8Lossy(released);
  }
  // The longest end that is the beginning of a stop string.
  size_t keep = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size(), held_.size()); n > keep; --n) {
      if (absl::EndsWith(held_, absl::string_view(stop).substr(0, n))) {
        keep = n;
      }
    }
  }
  released = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return Utf8Lossy(released);
}

std::string TextStream::Finish() {
  if (stopped_) return "";
  const absl::Span<const int32_t> ids = ids_;
  // Every id was decoded before, alone or with others.
  const auto before =
      tokenizer_.Decode(ids.subspan(context_, read_ - context_));
  const auto now = tokenizer_.Decode(ids.subspan(context_));
  if (before.ok() && now.ok() && now->size() > before->size()) {
    held_.append(*now, before->size(), std::string::npos);
  }
  context_ = read_ = ids_.size();
  std::string text = Utf8Lossy(held_);
  held_.clear();
  return text;
}

}  // namespace choir::model
