#include "model/tokenizer/tokenizer.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace choir::model {
namespace {

// From this length on a text repeats enough words that remembering them pays.
constexpr size_t kRememberFromBytes = 512;
constexpr size_t kMostRememberedWords = 1 << 16;
constexpr size_t kLongestRememberedWord = 64;

// Where the ids of a word that came before stand.
struct Seen {
  size_t begin;
  size_t count;
};

}  // namespace

void Tokenizer::EncodePiece(absl::string_view text,
                            std::vector<int32_t>& ids) const {
  std::string prefixed;
  if (pre_tokenizer_.add_prefix_space && text[0] != ' ') {
    prefixed = absl::StrCat(" ", text);
    text = prefixed;
  }
  const auto encode = [&](absl::string_view word) {
    if (pre_tokenizer_.byte_level) {
      model_.EncodeBytes(word, ids);
    } else {
      model_.EncodeCharacters(word, ids);
    }
  };
  const bool remember = text.size() >= kRememberFromBytes;
  absl::flat_hash_map<absl::string_view, Seen> seen;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = pre_tokenizer_.word_end(text, begin);
    if (!pre_tokenizer_.byte_level) {
      end = model_.IndependentEnd(text, begin, end);
    }
    const absl::string_view word = text.substr(begin, end - begin);
    begin = end;
    if (!remember || word.size() > kLongestRememberedWord) {
      encode(word);
      continue;
    }
    const auto found = seen.find(word);
    if (found != seen.end()) {
      const Seen before = found->second;
      for (size_t i = 0; i < before.count; ++i) {
        ids.push_back(ids[before.begin + i]);
      }
      continue;
    }
    const size_t first = ids.size();
    encode(word);
    if (seen.size() < kMostRememberedWords) {
      seen.emplace(word, Seen{first, ids.size() - first});
    }
  }
}

std::vector<int32_t> Tokenizer::Encode(absl::string_view text,
                                       bool add_special) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 8);
  if (add_special) ids = prefix_ids_;
  const auto encode_normalized = [&](absl::string_view normalized) {
    for (const TextPart& part : normalized_added_.Split(normalized)) {
      if (part.id) {
        ids.push_back(*part.id);
      } else {
        EncodePiece(part.text, ids);
      }
    }
  };
  for (const TextPart& part : raw_added_.Split(text)) {
    if (part.id) {
      ids.push_back(*part.id);
    } else if (normalizer_.empty()) {
      encode_normalized(part.text);
    } else {
      encode_normalized(normalizer_.Apply(part.text));
    }
  }
  if (add_special) {
    ids.insert(ids.end(), suffix_ids_.begin(), suffix_ids_.end());
  }
  return ids;
}

absl::StatusOr<std::string> Tokenizer::Decode(absl::Span<const int32_t> ids,
                                              bool skip_special) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("token id ", id, " is not in the vocabulary of ",
                       vocab_size(), " tokens"));
    }
    if (skip_special && special_[id]) continue;
    tokens.push_back(id_to_token_[id]);
  }
  return decoder_.Decode(std::move(tokens));
}

std::optional<int32_t> Tokenizer::TokenToId(absl::string_view token) const {
  const auto found = token_to_id_.find(token);
  if (found == token_to_id_.end()) return std::nullopt;
  return found->second;
}

absl::string_view Tokenizer::IdToToken(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return "";
  return id_to_token_[id];
}

bool Tokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && id < vocab_size() && special_[id];
}

}  // namespace choir::model
