#include "model/tokenizer/bpe_trainer.h"

#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/tokenizer/pre_tokenizer.h"
#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/unicode.h"
#include "nlohmann/json.hpp"

namespace choir::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::vector<std::string>& Corpus() {
  static const auto* const corpus = new std::vector<std::string>{
      "the cat sat on the mat, the other cat did not sit",
      "banana bandana banana cabana aaaa aaaaaaa aaa",
      "naïve café naïve café 1234 1234 12 12",
      "we've don't I've they've don't  two  spaces\n\n\nlines\n\n\n",
  };
  return *corpus;
}

// Counts all pairs anew for every merge: slow and plainly right.
std::vector<std::pair<std::string, std::string>> NaiveMerges(
    const std::vector<std::string>& texts, size_t num_merges) {
  std::map<std::vector<std::string>, int> words;
  for (const std::string& text : texts) {
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = Gpt2Pattern().MatchAt(text, begin);
      std::vector<std::string> symbols;
      for (size_t i = begin; i < end; ++i) {
        symbols.push_back(BytesToAlphabet(text.substr(i, 1)));
      }
      ++words[symbols];
      begin = end;
    }
  }
  // Older tokens first; bytes in order of their characters, as UTF-8 keeps it.
  std::map<std::string, int> age;
  std::map<std::string, int> bytes;
  for (int b = 0; b < 256; ++b) {
    bytes[BytesToAlphabet(std::string(1, static_cast<char>(b)))] = 0;
  }
  for (const auto& [token, unused] : bytes) {
    age.emplace(token, static_cast<int>(age.size()));
  }
  std::vector<std::pair<std::string, std::string>> merges;
  while (merges.size() < num_merges) {
    std::map<std::pair<int, int>, int> counts;
    std::map<int, std::string> names;
    for (const auto& [token, a] : age) names[a] = token;
    for (const auto& [symbols, count] : words) {
      for (size_t i = 0; i + 1 < symbols.size(); ++i) {
        counts[{age[symbols[i]], age[symbols[i + 1]]}] += count;
      }
    }
    int best_count = 1;
    std::pair<int, int> best;
    for (const auto& [pair, count] : counts) {
      if (count > best_count) best = pair, best_count = count;
    }
    if (best_count < 2) break;
    const std::string left = names[best.first], right = names[best.second];
    merges.emplace_back(left, right);
    age.emplace(left + right, static_cast<int>(age.size()));
    std::map<std::vector<std::string>, int> merged;
    for (const auto& [symbols, count] : words) {
      std::vector<std::string> out;
      for (size_t i = 0; i < symbols.size(); ++i) {
        if (i + 1 < symbols.size() && symbols[i] == left &&
            symbols[i + 1] == right) {
          out.push_back(left + right);
          ++i;
        } else {
          out.push_back(symbols[i]);
        }
      }
      merged[out] += count;
    }
    words = std::move(merged);
  }
  return merges;
}

TEST(BpeTrainerTest, LearnsTheMergesThatCountingAnewFinds) {
  BpeTrainerOptions options;
  options.vocab_size = 258 + 200;
  const auto text = TrainBpe(Corpus(), options);
  ASSERT_TRUE(text.ok()) << text.status();
  const auto document = nlohmann::json::parse(*text);
  std::vector<std::string> expected;
  for (const auto& [left, right] : NaiveMerges(Corpus(), 200)) {
    expected.push_back(left + " " + right);
  }
  EXPECT_GT(expected.size(), 30u);
  EXPECT_EQ(document["model"]["merges"].get<std::vector<std::string>>(),
            expected);
}

TEST(BpeTrainerTest, MakesATokenizerThatGivesTextsBack) {
  BpeTrainerOptions options;
  options.vocab_size = 285;
  options.add_bos = true;
  const auto text = TrainBpe(Corpus(), options);
  ASSERT_TRUE(text.ok()) << text.status();
  const auto tokenizer = Tokenizer::Parse(*text, "trained");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 285);
  EXPECT_EQ((*tokenizer)->bos_id(), 0);
  EXPECT_EQ((*tokenizer)->eos_id(), 1);
  for (const std::string& sample : Corpus()) {
    const std::vector<int32_t> ids = (*tokenizer)->Encode(sample, true);
    EXPECT_EQ(ids[0], 0);
    EXPECT_LT(ids.size(), sample.size());
    EXPECT_EQ((*tokenizer)->Decode(ids).value(), sample);
  }
  EXPECT_THAT((*tokenizer)->Encode("<|end|>", false), ElementsAre(1));
}

TEST(BpeTrainerTest, IsDeterministic) {
  BpeTrainerOptions options;
  options.vocab_size = 400;
  EXPECT_EQ(TrainBpe(Corpus(), options).value(),
            TrainBpe(Corpus(), options).value());
}

TEST(BpeTrainerTest, StopsWhenNoPairIsFrequentEnough) {
  BpeTrainerOptions options;
  options.vocab_size = 1000;
  options.special_tokens.clear();
  const std::vector<std::string> texts = {"abc abd"};
  const auto text = TrainBpe(texts, options);
  ASSERT_TRUE(text.ok());
  EXPECT_THAT(nlohmann::json::parse(*text)["model"]["merges"],
              ElementsAre("a b"));
}

TEST(BpeTrainerTest, NeverMergesIntoASpecialToken) {
  BpeTrainerOptions options;
  options.vocab_size = 400;
  options.special_tokens = {"ab"};
  const std::vector<std::string> texts = {"ab ab ab abc abc abc"};
  const auto text = TrainBpe(texts, options);
  ASSERT_TRUE(text.ok());
  EXPECT_TRUE(Tokenizer::Parse(*text, "t").ok());
  const auto merges = nlohmann::json::parse(*text)["model"]["merges"];
  ASSERT_FALSE(merges.empty());
  for (const auto& merge : merges) {
    EXPECT_NE(merge.get<std::string>(), "a b");
  }
}

TEST(BpeTrainerTest, RefusesBadOptions) {
  const auto error = [](const BpeTrainerOptions& options) {
    const auto text = TrainBpe({}, options);
    EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(text.status().message());
  };
  BpeTrainerOptions options;
  for (const int size : {-1, 0, 257, (1 << 20) + 1}) {
    options.vocab_size = size;
    EXPECT_THAT(error(options), HasSubstr("from 258"));
  }
  options = {};
  options.special_tokens = {"<a>", "<a>"};
  EXPECT_THAT(error(options), HasSubstr("twice"));
  options.special_tokens = {""};
  EXPECT_THAT(error(options), HasSubstr("empty"));
  options.special_tokens = {"a"};
  EXPECT_THAT(error(options), HasSubstr("two characters"));
  options.special_tokens = {};
  options.add_bos = true;
  EXPECT_THAT(error(options), HasSubstr("add_bos"));
}

}  // namespace
}  // namespace choir::model
