#include "model/tokenizer/tokenizer.h"

#include <deque>
#include <utility>

#include "absl/strings/str_cat.h"

namespace choir::model {
namespace {

// From this length on a text repeats enough words that remembering them pays.
constexpr size_t kRememberFromBytes = 512;
constexpr size_t kMostRememberedWords = 1 << 16;
constexpr size_t kLongestRememberedWord = 64;

// The words of one text with their ids, as they come to be known.
class WordMemory {
 public:
  // Appends the ids of `word` if they are known.
  bool Recall(absl::string_view word, std::vector<int32_t>& ids) const {
    const auto found = seen_.find(word);
    if (found == seen_.end()) return false;
    const Seen before = found->second;
    for (size_t i = 0; i < before.count; ++i) {
      ids.push_back(ids[before.begin + i]);
    }
    return true;
  }
  // The ids of `word` stand from `begin` to the end of `ids`.
  void Keep(absl::string_view word, size_t begin,
            const std::vector<int32_t>& ids) {
    if (seen_.size() >= kMostRememberedWords) return;
    seen_.emplace(words_.emplace_back(word), Seen{begin, ids.size() - begin});
  }

 private:
  struct Seen {
    size_t begin;
    size_t count;
  };
  std::deque<std::string> words_;  // what the keys below point to
  absl::flat_hash_map<absl::string_view, Seen> seen_;
};

}  // namespace

void Tokenizer::EncodePiece(absl::string_view text, bool at_start,
                            std::vector<int32_t>& ids) const {
  const bool remembers = text.size() >= kRememberFromBytes;
  WordMemory memory;
  const auto encode = [&](absl::string_view word) {
    const bool kept = remembers && word.size() <= kLongestRememberedWord;
    if (kept && memory.Recall(word, ids)) return;
    const size_t begin = ids.size();
    if (pre_tokenizer_.byte_level()) {
      model_.EncodeBytes(word, ids);
    } else {
      model_.EncodeCharacters(word, ids);
    }
    if (kept) memory.Keep(word, begin, ids);
  };
  const bool cuts = !pre_tokenizer_.byte_level() && model_.can_cut();
  pre_tokenizer_.ForEachWord(text, at_start, [&](absl::string_view word) {
    if (!cuts) {
      encode(word);
      return;
    }
    for (size_t begin = 0; begin < word.size();) {
      const size_t end = model_.IndependentEnd(word, begin, word.size());
      encode(word.substr(begin, end - begin));
      begin = end;
    }
  });
}

std::vector<int32_t> Tokenizer::Encode(absl::string_view text,
                                       bool add_special) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 8);
  if (add_special) ids = prefix_ids_;
  const auto encode_normalized = [&](absl::string_view normalized,
                                     bool at_start) {
    for (const TextPart& part : normalized_added_.Split(normalized)) {
      if (part.id) {
        ids.push_back(*part.id);
      } else {
        EncodePiece(part.text,
                    at_start && part.text.data() == normalized.data(), ids);
      }
    }
  };
  for (const TextPart& part : raw_added_.Split(text)) {
    const bool at_start = part.text.data() == text.data();
    if (part.id) {
      ids.push_back(*part.id);
    } else if (normalizer_.empty()) {
      encode_normalized(part.text, at_start);
    } else {
      encode_normalized(normalizer_.Apply(part.text), at_start);
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
  const auto found = added_ids_.find(token);
  if (found != added_ids_.end()) return found->second;
  return model_.TokenToId(token);
}

int32_t Tokenizer::own_vocab_size() const {
  int32_t size = vocab_size();
  while (size > 0 && (id_to_token_[size - 1].empty() ||
                      added_ids_.contains(id_to_token_[size - 1]))) {
    --size;
  }
  return size;
}

absl::string_view Tokenizer::IdToToken(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return "";
  return id_to_token_[id];
}

bool Tokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && id < vocab_size() && special_[id];
}

bool Tokenizer::IsFallbackByte(int32_t id) const {
  return id >= 0 && id < vocab_size() && ByteOfToken(id_to_token_[id]) >= 0 &&
         decoder_.joins_bytes();
}

}  // namespace choir::model
