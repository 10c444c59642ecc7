#include "model/tokenizer/bpe_model.h"

#include <algorithm>
#include <limits>
#include <queue>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "model/tokenizer/unicode.h"

namespace choir::model {
namespace {

// Up to here searching for the best pair beats keeping a heap of them.
constexpr size_t kShortWord = 24;
constexpr uint32_t kSpaceSign = 0x2581;

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 |
         static_cast<uint32_t>(right);
}

uint64_t CharactersKey(uint32_t left, uint32_t right) {
  return static_cast<uint64_t>(left) << 32 | right;
}

std::string CharacterString(uint32_t code_point) {
  std::string text;
  AppendUtf8(code_point, text);
  return text;
}

}  // namespace

absl::StatusOr<BpeModel> BpeModel::Create(BpeOptions options) {
  BpeModel model;
  model.vocab_ = std::move(options.vocab);
  model.fuse_unk_ = options.fuse_unk;
  model.byte_fallback_ = options.byte_fallback;
  model.ignore_merges_ = options.ignore_merges;
  model.prefix_ = options.continuing_subword_prefix;
  model.suffix_ = options.end_of_word_suffix;
  model.has_affixes_ = !model.prefix_.empty() || !model.suffix_.empty();
  const auto find = [&model](absl::string_view token) {
    const auto found = model.vocab_.find(token);
    return found == model.vocab_.end() ? -1 : found->second;
  };
  if (!options.unk_token.empty()) {
    model.unk_id_ = find(options.unk_token);
    if (model.unk_id_ < 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "unk_token '", options.unk_token, "' is not in the vocabulary"));
    }
  }
  model.merges_.reserve(options.merges.size());
  for (size_t rank = 0; rank < options.merges.size(); ++rank) {
    const auto& [left, right] = options.merges[rank];
    const int32_t left_id = find(left);
    const int32_t right_id = find(right);
    const int32_t id = find(absl::StrCat(
        left, absl::StripPrefix(right, options.continuing_subword_prefix)));
    if (left_id < 0 || right_id < 0 || id < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("merge ", rank, " ('", left, "' and '", right,
                       "') needs a token that is not in the vocabulary"));
    }
    // Of repeated merges the last counts, as in the reference.
    model.merges_[PairKey(left_id, right_id)] = {static_cast<int32_t>(rank),
                                                 id};
  }
  for (int byte = 0; byte < 256; ++byte) {
    model.alphabet_ids_[byte] =
        find(CharacterString(ByteToCodePoint(static_cast<uint8_t>(byte))));
    model.fallback_ids_[byte] = find(absl::StrFormat("<0x%02X>", byte));
  }
  model.FindNeighbours(options);
  model.FindCharacters();
  return model;
}

void BpeModel::FindNeighbours(const BpeOptions& options) {
  // Symbols that do not spell what they stand for may merge with anything.
  absl::flat_hash_set<int32_t> opaque(fallback_ids_.begin(),
                                      fallback_ids_.end());
  opaque.insert(unk_id_);
  can_cut_ = !ignore_merges_ && !has_affixes_;
  if (!can_cut_) return;
  for (const auto& [left, right] : options.merges) {
    if (opaque.contains(vocab_.at(left)) || opaque.contains(vocab_.at(right))) {
      can_cut_ = false;
    }
    const std::string join = absl::StrCat(left, right);
    uint32_t before = kInvalidCodePoint;
    for (size_t i = 0; i < join.size();) {
      const Utf8Char c = DecodeUtf8(join, i);
      if (i > 0) neighbours_.insert(CharactersKey(before, c.code_point));
      before = c.code_point;
      i += c.length;
    }
  }
  for (const auto& [token, id] : vocab_) {
    if (token.empty()) continue;
    const Utf8Char c = DecodeUtf8(token, 0);
    if (c.length != token.size()) continue;
    neighbours_.insert(CharactersKey(c.code_point, kInvalidCodePoint));
  }
}

std::optional<int32_t> BpeModel::TokenToId(absl::string_view token) const {
  const auto found = vocab_.find(token);
  if (found == vocab_.end()) return std::nullopt;
  return found->second;
}

size_t BpeModel::IndependentEnd(absl::string_view text, size_t begin,
                                size_t end) const {
  if (!can_cut_) return end;
  const auto slot = [](uint32_t c) { return c == kSpaceSign ? 0 : c; };
  Utf8Char before = DecodeUtf8(text, begin);
  for (size_t i = begin + before.length; i < end;) {
    const Utf8Char c = DecodeUtf8(text, i);
    const uint32_t left = slot(before.code_point);
    const uint32_t right = slot(c.code_point);
    const bool cuts =
        left < 128 && right < 128 && before.code_point != 0 && c.code_point != 0
            ? ascii_cuts_[left][right]
            : CutsBetween(before.code_point, c.code_point);
    if (cuts) return i;
    before = c;
    i += c.length;
  }
  return end;
}

// Not beside an unknown character: a run of those may be one token, or none,
// which makes neighbours of what is around it.
bool BpeModel::CutsBetween(uint32_t before, uint32_t after) const {
  return !neighbours_.contains(CharactersKey(before, after)) &&
         neighbours_.contains(CharactersKey(before, kInvalidCodePoint)) &&
         neighbours_.contains(CharactersKey(after, kInvalidCodePoint));
}

void BpeModel::FindCharacters() {
  ascii_ids_.fill(-1);
  for (const auto& [token, id] : vocab_) {
    if (token.empty()) continue;
    const Utf8Char c = DecodeUtf8(token, 0);
    if (c.length != token.size() || c.code_point == kInvalidCodePoint) continue;
    if (c.code_point < 128) {
      ascii_ids_[c.code_point] = id;
    } else {
      wide_ids_.emplace(c.code_point, id);
    }
  }
  for (uint32_t left = 0; can_cut_ && left < 128; ++left) {
    for (uint32_t right = 0; right < 128; ++right) {
      ascii_cuts_[left][right] = CutsBetween(left == 0 ? kSpaceSign : left,
                                             right == 0 ? kSpaceSign : right);
    }
  }
}

BpeModel::Merge BpeModel::FindMerge(int32_t left, int32_t right) const {
  const auto found = merges_.find(PairKey(left, right));
  return found == merges_.end() ? Merge() : found->second;
}

void BpeModel::AppendUnknown(absl::string_view character, bool& waiting,
                             std::vector<int32_t>& symbols) const {
  if (byte_fallback_ &&
      std::all_of(character.begin(), character.end(), [this](char byte) {
        return fallback_ids_[static_cast<uint8_t>(byte)] >= 0;
      })) {
    for (const char byte : character) {
      symbols.push_back(fallback_ids_[static_cast<uint8_t>(byte)]);
    }
    return;
  }
  if (unk_id_ < 0) return;
  if (!fuse_unk_) AppendWaiting(waiting, symbols);
  waiting = true;
}

void BpeModel::EncodeCharacters(absl::string_view word,
                                std::vector<int32_t>& ids) const {
  if (ignore_merges_) {
    const auto whole = vocab_.find(word);
    if (whole != vocab_.end()) {
      ids.push_back(whole->second);
      return;
    }
  }
  const size_t begin = ids.size();
  bool waiting = false;
  for (size_t i = 0; i < word.size();) {
    const Utf8Char c = DecodeUtf8(word, i);
    const absl::string_view character = word.substr(i, c.length);
    i += c.length;
    std::string affixed;
    absl::string_view symbol = character;
    int32_t id = -1;
    if (has_affixes_) {
      affixed = absl::StrCat(i == c.length ? "" : prefix_, character,
                             i == word.size() ? suffix_ : "");
      symbol = affixed;
      id = TokenToId(symbol).value_or(-1);
    } else {
      id = CharacterId(c);
    }
    if (id >= 0) {
      AppendWaiting(waiting, ids);
      ids.push_back(id);
    } else {
      AppendUnknown(symbol, waiting, ids);
    }
  }
  AppendWaiting(waiting, ids);
  MergeSymbols(begin, ids);
}

void BpeModel::EncodeBytes(absl::string_view word,
                           std::vector<int32_t>& ids) const {
  if (ignore_merges_) {
    const auto whole = vocab_.find(BytesToAlphabet(word));
    if (whole != vocab_.end()) {
      ids.push_back(whole->second);
      return;
    }
  }
  if (has_affixes_) {
    EncodeCharacters(BytesToAlphabet(word), ids);
    return;
  }
  const size_t begin = ids.size();
  bool waiting = false;
  for (const char byte : word) {
    const int32_t id = alphabet_ids_[static_cast<uint8_t>(byte)];
    if (id >= 0) {
      AppendWaiting(waiting, ids);
      ids.push_back(id);
    } else {
      AppendUnknown(absl::string_view(&byte, 1), waiting, ids);
    }
  }
  AppendWaiting(waiting, ids);
  MergeSymbols(begin, ids);
}

void BpeModel::MergeSymbols(size_t begin, std::vector<int32_t>& symbols) const {
  const size_t count = symbols.size() - begin;
  if (count < 2) return;
  if (count <= kShortWord) {
    MergeShort(begin, symbols);
  } else {
    MergeLong(begin, symbols);
  }
}

void BpeModel::MergeShort(size_t begin, std::vector<int32_t>& symbols) const {
  int32_t* const word = symbols.data() + begin;
  size_t count = symbols.size() - begin;
  Merge pairs[kShortWord];  // pairs[i]: word[i] with word[i + 1]
  for (size_t i = 0; i + 1 < count; ++i) {
    pairs[i] = FindMerge(word[i], word[i + 1]);
  }
  while (count > 1) {
    size_t best = count;
    int32_t best_rank = std::numeric_limits<int32_t>::max();
    for (size_t i = 0; i + 1 < count; ++i) {
      if (pairs[i].rank >= 0 && pairs[i].rank < best_rank) {
        best = i;
        best_rank = pairs[i].rank;
      }
    }
    if (best == count) break;
    word[best] = pairs[best].id;
    std::copy(word + best + 2, word + count, word + best + 1);
    if (best + 2 < count) {
      std::copy(pairs + best + 2, pairs + count - 1, pairs + best + 1);
    }
    --count;
    if (best > 0) pairs[best - 1] = FindMerge(word[best - 1], word[best]);
    if (best + 1 < count) pairs[best] = FindMerge(word[best], word[best + 1]);
  }
  symbols.resize(begin + count);
}

void BpeModel::MergeLong(size_t begin, std::vector<int32_t>& symbols) const {
  constexpr size_t kNone = std::numeric_limits<size_t>::max();
  struct Link {
    size_t previous;
    size_t next;
    bool alive = true;
  };
  // Rank, position of the left symbol, id of the join. Entries are not removed
  // when a neighbour merges; what they promise is checked when they come up.
  using Entry = std::tuple<int32_t, size_t, int32_t>;
  int32_t* const word = symbols.data() + begin;
  const size_t count = symbols.size() - begin;
  std::vector<Link> links(count);
  std::vector<Entry> entries;
  for (size_t i = 0; i < count; ++i) {
    links[i].previous = i == 0 ? kNone : i - 1;
    links[i].next = i + 1 == count ? kNone : i + 1;
    if (i + 1 == count) break;
    const Merge merge = FindMerge(word[i], word[i + 1]);
    if (merge.rank >= 0) entries.emplace_back(merge.rank, i, merge.id);
  }
  std::priority_queue<Entry, std::vector<Entry>, std::greater<Entry>> heap(
      std::greater<Entry>(), std::move(entries));
  while (!heap.empty()) {
    const auto [rank, left, id] = heap.top();
    heap.pop();
    if (!links[left].alive || links[left].next == kNone) continue;
    const size_t right = links[left].next;
    const Merge now = FindMerge(word[left], word[right]);
    if (now.rank != rank || now.id != id) continue;
    word[left] = id;
    links[right].alive = false;
    const size_t next = links[left].next = links[right].next;
    const size_t previous = links[left].previous;
    if (next != kNone) {
      links[next].previous = left;
      const Merge merge = FindMerge(id, word[next]);
      if (merge.rank >= 0) heap.emplace(merge.rank, left, merge.id);
    }
    if (previous != kNone) {
      const Merge merge = FindMerge(word[previous], id);
      if (merge.rank >= 0) heap.emplace(merge.rank, previous, merge.id);
    }
  }
  size_t kept = 0;
  for (size_t i = 0; i != kNone; i = links[i].next) word[kept++] = word[i];
  symbols.resize(begin + kept);
}

}  // namespace choir::model
