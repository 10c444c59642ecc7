#include "model/tokenizer/bpe_trainer.h"

#include <algorithm>
#include <numeric>
#include <queue>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "model/tokenizer/pre_tokenizer.h"
#include "model/tokenizer/unicode.h"
#include "nlohmann/json.hpp"

namespace choir::model {
namespace {

constexpr int kMostTokens = 1 << 20;

struct Word {
  std::vector<int32_t> symbols;
  int64_t count = 0;
};

using Pair = std::pair<int32_t, int32_t>;

struct PairState {
  int64_t count = 0;
  // Words that have, or once had, the pair; may repeat.
  std::vector<int32_t> words;
};

// A pair with the count it had when it was put on the heap.
struct Candidate {
  int64_t count;
  Pair pair;
  // The most frequent first; of equals the pair of the oldest tokens.
  bool operator<(const Candidate& other) const {
    return count != other.count ? count < other.count : pair > other.pair;
  }
};

// Merges the most frequent pair again and again, keeping all pair counts up to
// date instead of counting anew.
class Merger {
 public:
  // `tokens` are those that exist, the first `num_special` of them special.
  Merger(std::vector<Word> words, std::vector<std::string> tokens,
         size_t num_special)
      : words_(std::move(words)),
        tokens_(std::move(tokens)),
        num_special_(static_cast<int32_t>(num_special)) {
    for (size_t id = 0; id < tokens_.size(); ++id) {
      ids_.emplace(tokens_[id], static_cast<int32_t>(id));
    }
    for (size_t w = 0; w < words_.size(); ++w) {
      const std::vector<int32_t>& symbols = words_[w].symbols;
      for (size_t i = 0; i + 1 < symbols.size(); ++i) {
        Change({symbols[i], symbols[i + 1]}, words_[w].count,
               static_cast<int32_t>(w));
      }
    }
    changed_.clear();
    for (const auto& [pair, state] : pairs_) heap_.push({state.count, pair});
  }

  // Merges until there are `vocab_size` tokens or no pair is frequent enough.
  void Run(size_t vocab_size, int64_t min_frequency) {
    while (tokens_.size() < vocab_size && !heap_.empty()) {
      const Candidate best = heap_.top();
      heap_.pop();
      const auto found = pairs_.find(best.pair);
      if (found == pairs_.end() || found->second.count <= 0) continue;
      if (found->second.count != best.count) {
        // A count that rose was pushed when it did; one that fell was not.
        if (found->second.count < best.count) {
          heap_.push({found->second.count, best.pair});
        }
        continue;
      }
      if (best.count < min_frequency) break;
      // Two ways of merging can lead to one token; none may lead to a special
      // token.
      const auto [join, is_new] = ids_.emplace(
          absl::StrCat(tokens_[best.pair.first], tokens_[best.pair.second]),
          static_cast<int32_t>(tokens_.size()));
      if (!is_new && join->second < num_special_) continue;
      if (is_new) tokens_.push_back(join->first);
      merges_.push_back(best.pair);
      Merge(best.pair, join->second);
    }
  }

  const std::vector<std::string>& tokens() const { return tokens_; }
  const std::vector<Pair>& merges() const { return merges_; }

 private:
  void Change(Pair pair, int64_t by, int32_t word) {
    PairState& state = pairs_[pair];
    state.count += by;
    if (by > 0) {
      if (state.words.empty() || state.words.back() != word) {
        state.words.push_back(word);
      }
      changed_.insert(pair);
    }
  }

  void Merge(Pair pair, int32_t id) {
    // Taken out first: merging changes pairs_, which may move its values.
    std::vector<int32_t> affected = std::move(pairs_[pair].words);
    std::sort(affected.begin(), affected.end());
    affected.erase(std::unique(affected.begin(), affected.end()),
                   affected.end());
    changed_.clear();
    for (const int32_t w : affected) MergeInWord(pair, id, w);
    pairs_.erase(pair);
    for (const Pair& changed : changed_) {
      const auto found = pairs_.find(changed);
      if (found != pairs_.end() && found->second.count > 0) {
        heap_.push({found->second.count, changed});
      }
    }
  }

  void MergeInWord(Pair pair, int32_t id, int32_t w) {
    Word& word = words_[w];
    std::vector<int32_t>& symbols = word.symbols;
    size_t out = 0;
    for (size_t i = 0; i < symbols.size(); ++out) {
      if (i + 1 == symbols.size() || symbols[i] != pair.first ||
          symbols[i + 1] != pair.second) {
        symbols[out] = symbols[i++];
        continue;
      }
      // symbols[out - 1] is what now stands before, merged or not.
      if (out > 0) {
        Change({symbols[out - 1], pair.first}, -word.count, w);
        Change({symbols[out - 1], id}, word.count, w);
      }
      if (i + 2 < symbols.size()) {
        Change({pair.second, symbols[i + 2]}, -word.count, w);
        Change({id, symbols[i + 2]}, word.count, w);
      }
      Change(pair, -word.count, w);
      symbols[out] = id;
      i += 2;
    }
    symbols.resize(out);
  }

  std::vector<Word> words_;
  std::vector<std::string> tokens_;
  int32_t num_special_;
  absl::flat_hash_map<std::string, int32_t> ids_;
  std::vector<Pair> merges_;
  absl::flat_hash_map<Pair, PairState> pairs_;
  absl::flat_hash_set<Pair> changed_;  // rose since the last merge
  std::priority_queue<Candidate> heap_;
};

absl::Status Validate(const BpeTrainerOptions& options) {
  const int needed = 256 + static_cast<int>(options.special_tokens.size());
  if (options.vocab_size < needed || options.vocab_size > kMostTokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "vocab_size is ", options.vocab_size, ", not from ", needed,
        " (256 bytes and the special tokens) to ", kMostTokens));
  }
  absl::flat_hash_set<std::string> seen;
  for (const std::string& token : options.special_tokens) {
    if (token.empty() || !IsValidUtf8(token)) {
      return absl::InvalidArgumentError(
          "a special token is empty or not UTF-8");
    }
    if (!seen.insert(token).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("special token '", token, "' is given twice"));
    }
    if (DecodeUtf8(token, 0).length == token.size()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "special token '", token, "' has fewer than two characters"));
    }
  }
  if (options.add_bos && options.special_tokens.empty()) {
    return absl::InvalidArgumentError(
        "add_bos needs a special token to begin texts with");
  }
  return absl::OkStatus();
}

// Bytes in the order of their characters in GPT-2's alphabet.
std::vector<uint8_t> AlphabetOrder() {
  std::vector<uint8_t> bytes(256);
  std::iota(bytes.begin(), bytes.end(), 0);
  std::sort(bytes.begin(), bytes.end(), [](uint8_t a, uint8_t b) {
    return ByteToCodePoint(a) < ByteToCodePoint(b);
  });
  return bytes;
}

// Distinct words with their counts, in order of their text.
std::vector<Word> CountWords(absl::Span<const std::string> texts,
                             const std::vector<int32_t>& byte_ids) {
  absl::flat_hash_map<absl::string_view, int64_t> counts;
  for (const std::string& text : texts) {
    // The pattern matches everywhere: the words follow one another.
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = Gpt2Pattern().MatchAt(text, begin);
      ++counts[absl::string_view(text).substr(begin, end - begin)];
      begin = end;
    }
  }
  std::vector<std::pair<absl::string_view, int64_t>> sorted(counts.begin(),
                                                            counts.end());
  std::sort(sorted.begin(), sorted.end());
  std::vector<Word> words;
  words.reserve(sorted.size());
  for (const auto& [text, count] : sorted) {
    Word word;
    word.count = count;
    for (const char byte : text) {
      word.symbols.push_back(byte_ids[static_cast<uint8_t>(byte)]);
    }
    words.push_back(std::move(word));
  }
  return words;
}

nlohmann::ordered_json PostProcessor(const BpeTrainerOptions& options) {
  if (!options.add_bos) {
    return {{"type", "ByteLevel"},
            {"add_prefix_space", false},
            {"trim_offsets", false},
            {"use_regex", true}};
  }
  const std::string& bos = options.special_tokens[0];
  const auto special = [&](int type) -> nlohmann::ordered_json {
    return {{"SpecialToken", {{"id", bos}, {"type_id", type}}}};
  };
  const auto sequence = [](const char* name,
                           int type) -> nlohmann::ordered_json {
    return {{"Sequence", {{"id", name}, {"type_id", type}}}};
  };
  nlohmann::ordered_json out;
  out["type"] = "TemplateProcessing";
  out["single"] = {special(0), sequence("A", 0)};
  out["pair"] = {special(0), sequence("A", 0), special(1), sequence("B", 1)};
  nlohmann::ordered_json entry;
  entry["id"] = bos;
  entry["ids"] = std::vector<int>{0};
  entry["tokens"] = std::vector<std::string>{bos};
  out["special_tokens"][bos] = std::move(entry);
  return out;
}

// `tokens` are in GPT-2's alphabet, by id.
std::string TokenizerJson(const BpeTrainerOptions& options,
                          const std::vector<std::string>& tokens,
                          const std::vector<Pair>& merges) {
  nlohmann::ordered_json out;
  out["version"] = "1.0";
  out["truncation"] = nullptr;
  out["padding"] = nullptr;
  out["added_tokens"] = nlohmann::ordered_json::array();
  for (size_t i = 0; i < options.special_tokens.size(); ++i) {
    out["added_tokens"].push_back({{"id", i},
                                   {"content", options.special_tokens[i]},
                                   {"single_word", false},
                                   {"lstrip", false},
                                   {"rstrip", false},
                                   {"normalized", false},
                                   {"special", true}});
  }
  const nlohmann::ordered_json byte_level = {{"type", "ByteLevel"},
                                             {"add_prefix_space", false},
                                             {"trim_offsets", true},
                                             {"use_regex", true}};
  out["normalizer"] = nullptr;
  out["pre_tokenizer"] = byte_level;
  out["post_processor"] = PostProcessor(options);
  out["decoder"] = byte_level;
  nlohmann::ordered_json& model = out["model"];
  model["type"] = "BPE";
  model["dropout"] = nullptr;
  model["unk_token"] = nullptr;
  model["continuing_subword_prefix"] = nullptr;
  model["end_of_word_suffix"] = nullptr;
  model["fuse_unk"] = false;
  model["byte_fallback"] = false;
  model["ignore_merges"] = false;
  // Appended, not looked up: the tokens differ, and there are many.
  nlohmann::ordered_json::object_t vocab;
  for (size_t id = 0; id < tokens.size(); ++id) {
    vocab.push_back({tokens[id], id});
  }
  model["vocab"] = std::move(vocab);
  model["merges"] = nlohmann::ordered_json::array();
  for (const Pair& merge : merges) {
    model["merges"].push_back(
        absl::StrCat(tokens[merge.first], " ", tokens[merge.second]));
  }
  return out.dump(1) + "\n";
}

}  // namespace

absl::StatusOr<std::string> TrainBpe(absl::Span<const std::string> texts,
                                     const BpeTrainerOptions& options) {
  if (absl::Status status = Validate(options); !status.ok()) return status;
  std::vector<std::string> tokens = options.special_tokens;
  std::vector<int32_t> byte_ids(256);
  for (const uint8_t byte : AlphabetOrder()) {
    byte_ids[byte] = static_cast<int32_t>(tokens.size());
    tokens.emplace_back();
    AppendUtf8(ByteToCodePoint(byte), tokens.back());
  }
  Merger merger(CountWords(texts, byte_ids), std::move(tokens),
                options.special_tokens.size());
  merger.Run(options.vocab_size, std::max<int64_t>(options.min_frequency, 1));
  return TokenizerJson(options, merger.tokens(), merger.merges());
}

}  // namespace choir::model
