#include "model/tokenizer/decoder.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "base/check.h"
#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/unicode.h"

namespace choir::model {
namespace {

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

std::vector<std::string> JoinBytes(std::vector<std::string> tokens) {
  std::vector<std::string> out;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (IsValidUtf8(bytes)) {
      out.push_back(bytes);
    } else {
      out.insert(out.end(), bytes.size(), "\uFFFD");
    }
    bytes.clear();
  };
  for (std::string& token : tokens) {
    const int byte = ByteOfToken(token);
    if (byte >= 0) {
      bytes.push_back(static_cast<char>(byte));
    } else {
      flush();
      out.push_back(std::move(token));
    }
  }
  flush();
  return out;
}

void Strip(const std::string& content, size_t start, size_t stop,
           std::string& token) {
  size_t begin = 0;
  for (size_t i = 0; i < start; ++i) {
    if (token.compare(begin, content.size(), content) != 0) break;
    begin += content.size();
  }
  size_t end = token.size();
  for (size_t i = 0; i < stop; ++i) {
    if (end - begin < content.size() ||
        token.compare(end - content.size(), content.size(), content) != 0) {
      break;
    }
    end -= content.size();
  }
  token = token.substr(begin, end - begin);
}

std::string TokenBytes(const std::string& token) {
  std::string bytes;
  for (size_t i = 0; i < token.size();) {
    const Utf8Char c = DecodeUtf8(token, i);
    const int byte = CodePointToByte(c.code_point);
    if (byte < 0) return token;
    bytes.push_back(static_cast<char>(byte));
    i += c.length;
  }
  return bytes;
}

}  // namespace

int ByteOfToken(const std::string& token) {
  if (token.size() != 6 || !absl::StartsWith(token, "<0x") || token[5] != '>') {
    return -1;
  }
  const int high = HexDigit(token[3]);
  const int low = HexDigit(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

void TokenDecoder::AddReplace(std::string pattern, std::string content) {
  CHOIR_CHECK(!pattern.empty());
  steps_.push_back({Kind::kReplace, std::move(pattern), std::move(content)});
}
void TokenDecoder::AddByteFallback() {
  steps_.push_back({Kind::kByteFallback});
}
void TokenDecoder::AddFuse() { steps_.push_back({Kind::kFuse}); }
void TokenDecoder::AddStrip(std::string content, size_t start, size_t stop) {
  CHOIR_CHECK(!content.empty());
  steps_.push_back({Kind::kStrip, "", std::move(content), start, stop});
}
void TokenDecoder::AddByteLevel() { steps_.push_back({Kind::kByteLevel}); }

void TokenDecoder::AddReplace(Regex pattern, std::string content) {
  steps_.push_back({Kind::kRegex, "", std::move(content)});
  steps_.back().regex = std::make_shared<const Regex>(std::move(pattern));
}
void TokenDecoder::AddMetaspace(std::string replacement, bool skip_first) {
  CHOIR_CHECK(!replacement.empty());
  steps_.push_back({Kind::kMetaspace, std::move(replacement)});
  steps_.back().skip_first = skip_first;
}
void TokenDecoder::AddSuffix(std::string suffix) {
  CHOIR_CHECK(!suffix.empty());
  steps_.push_back({Kind::kSuffix, std::move(suffix)});
}

void TokenDecoder::ApplyStep(const Step& step,
                             std::vector<std::string>& tokens) {
  // What takes the place of the pattern in the token.
  const auto replace = [&](std::string& token, absl::string_view content) {
    token = absl::StrReplaceAll(token, {{step.pattern, content}});
  };
  switch (step.kind) {
    case Kind::kReplace:
      for (std::string& token : tokens) replace(token, step.content);
      break;
    case Kind::kRegex:
      for (std::string& token : tokens) {
        token = ReplaceMatches(*step.regex, token, step.content);
      }
      break;
    case Kind::kByteFallback:
      tokens = JoinBytes(std::move(tokens));
      break;
    case Kind::kFuse:
      tokens = {absl::StrJoin(tokens, "")};
      break;
    case Kind::kStrip:
      for (std::string& token : tokens) {
        Strip(step.content, step.start, step.stop, token);
      }
      break;
    case Kind::kMetaspace:
      for (size_t i = 0; i < tokens.size(); ++i) {
        replace(tokens[i], i == 0 && step.skip_first ? "" : " ");
      }
      break;
    case Kind::kSuffix:
      for (size_t i = 0; i < tokens.size(); ++i) {
        replace(tokens[i], i + 1 == tokens.size() ? "" : " ");
      }
      break;
    case Kind::kByteLevel: {
      std::string joined;
      for (const std::string& token : tokens) joined += TokenBytes(token);
      tokens = {std::move(joined)};
      break;
    }
  }
}

std::string TokenDecoder::Decode(std::vector<std::string> tokens) const {
  if (steps_.empty()) return absl::StrJoin(tokens, " ");
  for (const Step& step : steps_) ApplyStep(step, tokens);
  return absl::StrJoin(tokens, "");
}

bool TokenDecoder::joins_bytes() const {
  return std::any_of(steps_.begin(), steps_.end(), [](const Step& step) {
    return step.kind == Kind::kByteFallback;
  });
}

}  // namespace choir::model
