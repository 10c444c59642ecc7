// Byte-pair encoding of one word at a time: the "model" of tokenizer.json.
#ifndef CHOIR_MODEL_TOKENIZER_BPE_MODEL_H_
#define CHOIR_MODEL_TOKENIZER_BPE_MODEL_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/tokenizer/unicode.h"

namespace choir::model {

struct BpeOptions {
  absl::flat_hash_map<std::string, int32_t> vocab;
  // Best first. Both parts and their join must be in the vocabulary.
  std::vector<std::pair<std::string, std::string>> merges;
  std::string unk_token;       // empty: unknown characters are dropped
  bool fuse_unk = false;       // a run of unknown characters is one token
  bool byte_fallback = false;  // unknown characters become "<0x..>" tokens
  bool ignore_merges = false;  // a word in the vocabulary is taken whole
  // Before every character but a word's first, and after its last. A join
  // leaves out the prefix of its right part.
  std::string continuing_subword_prefix;
  std::string end_of_word_suffix;
};

// Threads: safe, nothing changes after Create.
class BpeModel {
 public:
  BpeModel() = default;
  // INVALID_ARGUMENT names the merge or token that does not fit.
  static absl::StatusOr<BpeModel> Create(BpeOptions options);
  std::optional<int32_t> TokenToId(absl::string_view token) const;

  // Appends the ids of a word of UTF-8 characters; an invalid byte is an
  // unknown character.
  void EncodeCharacters(absl::string_view word,
                        std::vector<int32_t>& ids) const;
  // A position in (begin, end] at which a word of characters from `begin` to
  // `end` can be cut without changing its ids: the first one that no merge can
  // reach across, because no token has the two characters side by side.
  size_t IndependentEnd(absl::string_view text, size_t begin, size_t end) const;

  // Can words of characters be cut by IndependentEnd at all?
  bool can_cut() const { return can_cut_; }

  // Appends the ids of a word of bytes, by GPT-2's alphabet.
  void EncodeBytes(absl::string_view word, std::vector<int32_t>& ids) const;

 private:
  struct Merge {
    int32_t rank = -1;  // -1: no such merge
    int32_t id = -1;
  };
  Merge FindMerge(int32_t left, int32_t right) const;
  void FindNeighbours(const BpeOptions& options);
  void FindCharacters();
  // The id of a character alone, or -1.
  int32_t CharacterId(Utf8Char c) const {
    if (c.code_point < 128) return ascii_ids_[c.code_point];
    const auto found = wide_ids_.find(c.code_point);
    return found == wide_ids_.end() ? -1 : found->second;
  }
  bool CutsBetween(uint32_t before, uint32_t after) const;
  // The token for an unknown character waits until a known one follows, or
  // another that is not fused with it: bytes that stand for a character in
  // between come first, as in the reference. `waiting`: such a token waits.
  void AppendUnknown(absl::string_view character, bool& waiting,
                     std::vector<int32_t>& symbols) const;
  void AppendWaiting(bool& waiting, std::vector<int32_t>& symbols) const {
    if (waiting) symbols.push_back(unk_id_);
    waiting = false;
  }
  // Merges the symbols from `begin` to the end, in place: the lowest rank
  // first, the leftmost of equals. Short words by search, long ones by a heap.
  void MergeSymbols(size_t begin, std::vector<int32_t>& symbols) const;
  void MergeShort(size_t begin, std::vector<int32_t>& symbols) const;
  void MergeLong(size_t begin, std::vector<int32_t>& symbols) const;

  absl::flat_hash_map<std::string, int32_t> vocab_;
  absl::flat_hash_map<uint64_t, Merge> merges_;
  // Pairs of neighbouring code points in what merges make, and
  // (code point, kInvalidCodePoint) for each character with a token.
  absl::flat_hash_set<uint64_t> neighbours_;
  bool can_cut_ = false;
  // CutsBetween of ASCII characters, "\0" standing for U+2581, the space of
  // SentencePiece; and the ids of characters.
  std::array<std::array<bool, 128>, 128> ascii_cuts_{};
  std::array<int32_t, 128> ascii_ids_{};  // -1: none
  absl::flat_hash_map<uint32_t, int32_t> wide_ids_;
  std::array<int32_t, 256> alphabet_ids_{};  // byte-level: id or -1
  std::array<int32_t, 256> fallback_ids_{};  // "<0x..>": id or -1
  int32_t unk_id_ = -1;
  bool fuse_unk_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
  std::string prefix_;  // of a character that continues a word
  std::string suffix_;  // of one that ends it
  bool has_affixes_ = false;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_TOKENIZER_BPE_MODEL_H_
