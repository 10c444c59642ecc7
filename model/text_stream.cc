#include "model/text_stream.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/tokenizer/unicode.h"

namespace choir::model {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";  // U+FFFD

bool IsInside(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
}

// True if `text` ends inside a character that further bytes could complete.
bool EndsInsideCharacter(absl::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const char last = text[text.size() - back];
    if (IsInside(last)) continue;
    const auto byte = static_cast<unsigned char>(last);
    const size_t length = byte >= 0xF0   ? 4
                          : byte >= 0xE0 ? 3
                          : byte >= 0xC0 ? 2
                                         : 1;
    return length > back;
  }
  return false;
}

// How much of `now` was there before. Where more tokens changed the text that
// they follow, whole characters that are the same.
size_t Shared(absl::string_view before, absl::string_view now) {
  size_t shared = 0;
  while (shared < std::min(before.size(), now.size()) &&
         before[shared] == now[shared]) {
    ++shared;
  }
  if (shared == before.size()) return shared;
  while (shared > 0 && shared < now.size() && IsInside(now[shared])) --shared;
  return shared;
}

}  // namespace

// What a decoder does at the beginning of a text must not happen in its middle:
// all of the prompt is there when the first piece is decoded.
TextStream::TextStream(const Tokenizer& tokenizer,
                       absl::Span<const int32_t> prompt,
                       std::vector<std::string> stops)
    : tokenizer_(tokenizer),
      stops_(std::move(stops)),
      ids_(prompt.begin(), prompt.end()),
      read_(prompt.size()) {}

absl::StatusOr<std::string> TextStream::Tail() const {
  const absl::Span<const int32_t> ids = ids_;
  CHOIR_ASSIGN_OR_RETURN(
      const std::string before,
      tokenizer_.Decode(ids.subspan(context_, read_ - context_)));
  CHOIR_ASSIGN_OR_RETURN(const std::string now,
                         tokenizer_.Decode(ids.subspan(context_)));
  return now.substr(Shared(before, now));
}

bool TextStream::InByteRun() const {
  for (size_t i = ids_.size(); i > read_; --i) {
    if (!tokenizer_.IsSpecial(ids_[i - 1])) {
      return tokenizer_.IsFallbackByte(ids_[i - 1]);
    }
  }
  return false;
}

absl::StatusOr<std::string> TextStream::Add(int32_t id) {
  // Models are often padded with rows that no token has.
  if (stopped_ || id >= tokenizer_.vocab_size()) return std::string();
  ids_.push_back(id);
  CHOIR_ASSIGN_OR_RETURN(const std::string tail, Tail());
  std::string released;
  if (InByteRun()) {
    // Broken characters at the end may be the beginning of whole ones.
    if (!absl::EndsWith(tail, kReplacement)) {
      StopIn(absl::StrCat(held_, tail), released);
    }
    return released;
  }
  if (tail.empty() || EndsInsideCharacter(tail)) return Release();
  held_ += tail;
  // Context must have a text, or it would pass for the beginning of one.
  CHOIR_ASSIGN_OR_RETURN(
      const std::string alone,
      tokenizer_.Decode(absl::Span<const int32_t>(ids_).subspan(read_)));
  if (!alone.empty()) context_ = read_;
  read_ = ids_.size();
  return Release();
}

size_t TextStream::FindStop(absl::string_view text) const {
  size_t first = absl::string_view::npos;
  for (const std::string& stop : stops_) {
    if (!stop.empty()) first = std::min(first, text.find(stop));
  }
  return first;
}

bool TextStream::StopIn(const std::string& text, std::string& released) {
  const size_t first = FindStop(text);
  if (first == absl::string_view::npos) return false;
  stopped_ = true;
  held_.clear();
  released = Utf8Lossy(absl::string_view(text).substr(0, first));
  return true;
}

std::string TextStream::Release() {
  std::string released;
  if (StopIn(std::string(held_), released)) return released;
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
  // Every id was decoded before, alone or with others.
  absl::StatusOr<std::string> tail = Tail();
  if (tail.ok()) held_ += *tail;
  context_ = read_ = ids_.size();
  std::string text;
  if (!StopIn(std::string(held_), text)) text = Utf8Lossy(held_);
  held_.clear();
  return text;
}

}  // namespace choir::model
