// Ids and texts against Hugging Face tokenizers.
#include <cctype>
#include <string>
#include <vector>

#include "absl/algorithm/container.h"
#include "base/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/tokenizer/tokenizer.h"
#include "nlohmann/json.hpp"
#include "tests/support/golden.h"

namespace choir::model {
namespace {

using nlohmann::json;

json ReadJson(const std::string& path) {
  const auto text = base::ReadFile(path);
  EXPECT_TRUE(text.ok()) << text.status();
  return json::parse(*text);
}

TEST(TokenizerGoldenTest, Stories260k) {
  CHOIR_SKIP_WITHOUT_GOLDEN("stories260k");
  const std::string folder = base::JoinPath(tests::GoldenDir(), "stories260k");
  const auto tokenizer = Tokenizer::LoadFile(folder + "/tokenizer.json");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 512);
  EXPECT_EQ((*tokenizer)->bos_id(), 1);
  EXPECT_EQ((*tokenizer)->eos_id(), 2);
  const json examples = ReadJson(folder + "/tokenizer_expected.json");
  ASSERT_FALSE(examples.empty());
  for (const json& example : examples) {
    const auto text = example[0].get<std::string>();
    const auto ids = example[1].get<std::vector<int32_t>>();
    EXPECT_EQ((*tokenizer)->Encode(text, true), ids) << text;
    EXPECT_EQ((*tokenizer)->Decode(ids).value(), text);
  }
}

class TokenizerFolderTest : public testing::TestWithParam<std::string> {};

TEST_P(TokenizerFolderTest, MatchesHuggingFace) {
  const std::string folder =
      base::JoinPath(tests::GoldenDir(), "tokenizers/") + GetParam();
  const auto tokenizer = Tokenizer::LoadFolder(folder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const json examples = ReadJson(folder + "/expected.json");
  ASSERT_FALSE(examples.empty());
  ASSERT_GT(examples.size(), 10u);
  for (const json& example : examples) {
    const auto text = example["text"].get<std::string>();
    const auto ids = example["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ((*tokenizer)->Encode(text, false), ids) << text;
    EXPECT_EQ((*tokenizer)->Decode(ids, false).value(),
              example["decoded"].get<std::string>());
  }
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(TokenizerFolderTest);
INSTANTIATE_TEST_SUITE_P(Golden, TokenizerFolderTest,
                         testing::ValuesIn(tests::GoldenFolders("tokenizers")),
                         [](const auto& info) {
                           std::string name = info.param;
                           absl::c_replace_if(
                               name,
                               [](unsigned char c) { return !std::isalnum(c); },
                               '_');
                           return name;
                         });

TEST(TokenizerGoldenTest, TokenizerConfigNamesBosAndEos) {
  CHOIR_SKIP_WITHOUT_GOLDEN("mistral");
  const auto tokenizer = Tokenizer::LoadFolder(
      base::JoinPath(tests::GoldenDir(), "tokenizers/mistral"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->bos_id(), 1);
  EXPECT_EQ((*tokenizer)->eos_id(), 2);
}

}  // namespace
}  // namespace choir::model
