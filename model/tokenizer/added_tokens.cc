#include "model/tokenizer/added_tokens.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "model/tokenizer/unicode.h"

namespace choir::model {
namespace {

// The character that ends at `end`, which is above 0.
Utf8Char CharacterBefore(absl::string_view text, size_t end) {
  for (size_t back = 1; back <= 4 && back <= end; ++back) {
    const Utf8Char c = DecodeUtf8(text, end - back);
    if (c.code_point != kInvalidCodePoint && c.length == back) return c;
  }
  return {};
}

bool StandsAlone(absl::string_view text, size_t begin, size_t end) {
  const bool word_before =
      begin > 0 && IsWord(CharacterBefore(text, begin).code_point);
  const bool word_after =
      end < text.size() && IsWord(DecodeUtf8(text, end).code_point);
  return !word_before && !word_after;
}

}  // namespace

void AddedTokens::Add(AddedToken token) {
  CHOIR_CHECK(!token.content.empty());
  std::vector<int>& bucket =
      by_first_byte_[static_cast<uint8_t>(token.content[0])];
  const auto place = std::find_if(bucket.begin(), bucket.end(), [&](int i) {
    return tokens_[i].content.size() < token.content.size();
  });
  bucket.insert(place, static_cast<int>(tokens_.size()));
  tokens_.push_back(std::move(token));
}

const AddedToken* AddedTokens::MatchAt(absl::string_view text,
                                       size_t position) const {
  for (const int i : by_first_byte_[static_cast<uint8_t>(text[position])]) {
    const std::string& content = tokens_[i].content;
    if (text.substr(position, content.size()) == content) return &tokens_[i];
  }
  return nullptr;
}

std::vector<TextPart> AddedTokens::Split(absl::string_view text) const {
  std::vector<TextPart> parts;
  size_t done = 0;  // what lies before is in `parts`
  for (size_t i = 0; i < text.size() && !tokens_.empty();) {
    const AddedToken* token = MatchAt(text, i);
    if (token == nullptr) {
      ++i;
      continue;
    }
    size_t begin = i;
    size_t end = i + token->content.size();
    i = end;
    if (token->single_word && !StandsAlone(text, begin, end)) continue;
    if (token->lstrip) {
      if (end <= done) {  // within what another swallowed
        done = end;
        continue;
      }
      while (begin > done) {
        const Utf8Char c = CharacterBefore(text, begin);
        if (!IsWhitespace(c.code_point) || begin - done < c.length) break;
        begin -= c.length;
      }
    }
    if (token->rstrip) {
      while (end < text.size()) {
        const Utf8Char c = DecodeUtf8(text, end);
        if (!IsWhitespace(c.code_point)) break;
        end += c.length;
      }
      // A token of white space there is found all the same, as in the
      // reference.
    }
    if (begin > done) {
      parts.push_back({text.substr(done, begin - done), std::nullopt});
    }
    parts.push_back({text.substr(begin, end - begin), token->id});
    done = end;
  }
  if (done < text.size()) parts.push_back({text.substr(done), std::nullopt});
  return parts;
}

}  // namespace choir::model
