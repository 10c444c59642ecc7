#include "model/tokenizer/tokenizer.h"

#include <string>
#include <vector>

#include "base/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/golden.h"

namespace choir::model {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Characters a to d, a space as "_", "?" for the unknown.
json SmallModel() {
  json vocab = {{"?", 0},    {"a", 1},  {"b", 2},  {"c", 3},
                {"d", 4},    {"_", 5},  {"ab", 6}, {"cd", 7},
                {"abcd", 8}, {"_a", 9}, {"bc", 10}};
  return {{"model",
           {{"type", "BPE"},
            {"unk_token", "?"},
            {"fuse_unk", true},
            {"vocab", vocab},
            {"merges", {"a b", "c d", "ab cd", "_ a", "b c"}}}}};
}

std::unique_ptr<const Tokenizer> Parse(const json& document) {
  return Tokenizer::Parse(document.dump(), "t.json").value();
}

std::string ErrorOf(const json& document) {
  const auto tokenizer = Tokenizer::Parse(document.dump(), "t.json");
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument)
      << document;
  EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr("t.json"));
  return std::string(tokenizer.status().message());
}

TEST(TokenizerTest, MergesByRankThenFromTheLeft) {
  const auto tokenizer = Parse(SmallModel());
  EXPECT_THAT(tokenizer->Encode("abcd", false), ElementsAre(8));
  EXPECT_THAT(tokenizer->Encode("bcd", false), ElementsAre(2, 7));
  EXPECT_THAT(tokenizer->Encode("bca", false), ElementsAre(10, 1));
  EXPECT_THAT(tokenizer->Encode("", false), ElementsAre());
}

TEST(TokenizerTest, ReadsMergesAsPairs) {
  json document = SmallModel();
  document["model"]["merges"] =
      json::array({json::array({"a", "b"}), json::array({"c", "d"}),
                   json::array({"ab", "cd"})});
  EXPECT_THAT(Parse(document)->Encode("abcd", false), ElementsAre(8));
}

TEST(TokenizerTest, UnknownCharactersFuseOnlyWhenAsked) {
  json document = SmallModel();
  EXPECT_THAT(Parse(document)->Encode("axyéb", false), ElementsAre(1, 0, 2));
  document["model"]["fuse_unk"] = false;
  EXPECT_THAT(Parse(document)->Encode("axyb", false), ElementsAre(1, 0, 0, 2));
  document["model"].erase("unk_token");
  EXPECT_THAT(Parse(document)->Encode("axyb", false), ElementsAre(6));
}

TEST(TokenizerTest, BytesComeBeforeAnUnknownCharacterThatTheyFollow) {
  json document = SmallModel();
  document["model"]["byte_fallback"] = true;
  document["model"]["vocab"]["<0xC3>"] = 11;
  document["model"]["vocab"]["<0xA9>"] = 12;
  // As Hugging Face has it: what is unknown waits for what is known.
  EXPECT_THAT(Parse(document)->Encode("axéb", false),
              ElementsAre(1, 11, 12, 0, 2));
  EXPECT_THAT(Parse(document)->Encode("xéy", false), ElementsAre(11, 12, 0));
}

TEST(TokenizerTest, TokensOfWhiteSpaceAreFoundWhereAnotherSwallowedIt) {
  json document = SmallModel();
  document["added_tokens"] = {
      {{"id", 11}, {"content", "<r>"}, {"rstrip", true}, {"special", true}},
      {{"id", 12}, {"content", "  "}, {"normalized", false}}};
  EXPECT_THAT(Parse(document)->Encode("a<r>  b", false),
              ElementsAre(1, 11, 12, 2));
  EXPECT_THAT(Parse(document)->Encode("a<r> b", false), ElementsAre(1, 11, 2));
}

TEST(TokenizerTest, CuttingWordsKeepsRunsOfUnknownCharactersTogether) {
  // "c a" has no merge, so "bca" may be cut; "xy" may not.
  EXPECT_THAT(Parse(SmallModel())->Encode("bcaxyxdx", false),
              ElementsAre(10, 1, 0, 4, 0));
}

TEST(TokenizerTest, IgnoreMergesTakesAWordWhole) {
  json document = SmallModel();
  document["model"]["merges"] = json::array();
  EXPECT_THAT(Parse(document)->Encode("abcd", false), ElementsAre(1, 2, 3, 4));
  document["model"]["ignore_merges"] = true;
  EXPECT_THAT(Parse(document)->Encode("abcd", false), ElementsAre(8));
}

TEST(TokenizerTest, LongWordsMergeAsShortOnesDo) {
  const auto tokenizer = Parse(SmallModel());
  std::string text;
  std::vector<int32_t> expected;
  for (int i = 0; i < 500; ++i) {
    text += "abcdbca";  // a merges with the next a only if they could
    expected.insert(expected.end(), {8, 10, 1});
  }
  EXPECT_EQ(tokenizer->Encode(text, false), expected);
}

json Token(int id, const char* content) {
  return {{"id", id},
          {"content", content},
          {"special", true},
          {"normalized", false}};
}

TEST(TokenizerTest, TakesTheLongestAddedTokenBeforeNormalising) {
  json document = SmallModel();
  document["normalizer"] = {{"type", "Prepend"}, {"prepend", "_"}};
  document["added_tokens"] = {Token(11, "<x>"), Token(12, "<x><y>")};
  const auto tokenizer = Parse(document);
  EXPECT_THAT(tokenizer->Encode("a<x>b<x><y>", false),
              ElementsAre(9, 11, 5, 2, 12));
  EXPECT_TRUE(tokenizer->IsSpecial(12));
  EXPECT_FALSE(tokenizer->IsSpecial(1));
  EXPECT_EQ(tokenizer->vocab_size(), 13);
  EXPECT_EQ(tokenizer->TokenToId("<x>"), 11);
  EXPECT_EQ(tokenizer->TokenToId("<z>"), std::nullopt);
}

TEST(TokenizerTest, NormalizedAddedTokensAreFoundAfterNormalising) {
  json document = SmallModel();
  document["normalizer"] = {
      {"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "_"}};
  document["added_tokens"] = {{{"id", 11},
                               {"content", "b c"},
                               {"normalized", true},
                               {"special", false}}};
  EXPECT_THAT(Parse(document)->Encode("ab cd", false), ElementsAre(1, 11, 4));
  EXPECT_THAT(Parse(document)->Encode("ab_cd", false), ElementsAre(1, 11, 4));
}

TEST(TokenizerTest, AddedTokensCanEatSpacesAndStandAlone) {
  json document = SmallModel();
  json token = Token(11, "<m>");
  token["lstrip"] = true;
  token["rstrip"] = true;
  json word = Token(7, "cd");
  word["single_word"] = true;
  document["added_tokens"] = {token, word};
  document["model"]["merges"] = json::array();
  const auto tokenizer = Parse(document);
  EXPECT_THAT(tokenizer->Encode("a  <m> \t b", false), ElementsAre(1, 11, 2));
  EXPECT_THAT(tokenizer->Encode("cd", false), ElementsAre(7));
  // Inside a word it is left to BPE, which has no merge for "c d" here.
  EXPECT_THAT(tokenizer->Encode("cda", false), ElementsAre(3, 4, 1));
  EXPECT_THAT(tokenizer->Encode("acd", false), ElementsAre(1, 3, 4));
  EXPECT_THAT(tokenizer->Encode("a cd.", false), ElementsAre(1, 0, 7, 0));
}

TEST(TokenizerTest, TheTemplateSurroundsATextWhenAsked) {
  json document = SmallModel();
  document["added_tokens"] = {Token(11, "[B]"), Token(12, "[E]")};
  const auto special = [](const char* name) -> json {
    return {{"SpecialToken", {{"id", name}, {"type_id", 0}}}};
  };
  document["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single",
       {special("[B]"),
        {{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
        special("[E]")}},
      {"special_tokens",
       {{"[B]", {{"id", "[B]"}, {"ids", {11}}, {"tokens", {"[B]"}}}},
        {"[E]", {{"id", "[E]"}, {"ids", {12}}, {"tokens", {"[E]"}}}}}}};
  const auto tokenizer = Parse(document);
  EXPECT_THAT(tokenizer->Encode("ab", true), ElementsAre(11, 6, 12));
  EXPECT_THAT(tokenizer->Encode("ab", false), ElementsAre(6));
  EXPECT_THAT(tokenizer->Encode("", true), ElementsAre(11, 12));
  EXPECT_EQ(tokenizer->bos_id(), 11);
  EXPECT_EQ(tokenizer->eos_id(), 12);
  document["post_processor"]["special_tokens"]["[B]"]["ids"] = {99};
  EXPECT_THAT(ErrorOf(document), HasSubstr("99"));
}

TEST(TokenizerTest, DecodeRefusesIdsOutsideTheVocabulary) {
  const auto tokenizer = Parse(SmallModel());
  EXPECT_EQ(tokenizer->Decode({-1}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(tokenizer->Decode({11}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(tokenizer->Decode({}).value(), "");
}

TEST(TokenizerTest, ByteFallbackDecodesBrokenCharactersAsReplacements) {
  json vocab = {{"<unk>", 0}, {"a", 1}};
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    vocab[name] = byte + 2;
  }
  const json document = {
      {"model",
       {{"type", "BPE"},
        {"unk_token", "<unk>"},
        {"byte_fallback", true},
        {"vocab", vocab},
        {"merges", json::array()}}},
      {"decoder",
       {{"type", "Sequence"},
        {"decoders", {{{"type", "ByteFallback"}}, {{"type", "Fuse"}}}}}}};
  const auto tokenizer = Parse(document);
  const std::vector<int32_t> ids = tokenizer->Encode("aé", false);
  EXPECT_THAT(ids, ElementsAre(1, 0xC3 + 2, 0xA9 + 2));
  EXPECT_EQ(tokenizer->Decode(ids).value(), "aé");
  EXPECT_EQ(tokenizer->Decode({1, 0xC3 + 2, 1}).value(), "a\uFFFDa");
}

TEST(TokenizerTest, RefusesMalformedFilesAndNamesThePart) {
  const auto with = [](const char* key, const json& value) {
    json document = SmallModel();
    document[key] = value;
    return document;
  };
  const auto with_model = [](const char* key, const json& value) {
    json document = SmallModel();
    document["model"][key] = value;
    return document;
  };
  EXPECT_THAT(ErrorOf(json::object()), HasSubstr("vocabulary"));
  EXPECT_THAT(ErrorOf(with_model("type", "Unigram")), HasSubstr("Unigram"));
  EXPECT_THAT(ErrorOf(with_model("vocab", {{"a", -1}})), HasSubstr("'a'"));
  EXPECT_THAT(ErrorOf(with_model("vocab", {{"a", 1}, {"b", 1}})),
              HasSubstr("another token"));
  EXPECT_THAT(ErrorOf(with_model("vocab", {{"a", 4000000}})),
              HasSubstr("far above"));
  EXPECT_THAT(ErrorOf(with_model("vocab", {{"a", 1e20}})), HasSubstr("'a'"));
  EXPECT_THAT(ErrorOf(with_model("merges", {"a b c"})), HasSubstr("merge 0"));
  EXPECT_THAT(ErrorOf(with_model("merges", {"ab"})), HasSubstr("merge 0"));
  EXPECT_THAT(ErrorOf(with_model("merges", {1})), HasSubstr("merge 0"));
  EXPECT_THAT(ErrorOf(with_model("merges", {"a d"})),
              HasSubstr("not in the vocabulary"));
  EXPECT_THAT(ErrorOf(with_model("merges", nullptr)), HasSubstr("merges"));
  EXPECT_THAT(ErrorOf(with_model("dropout", 0.1)), HasSubstr("dropout"));
  EXPECT_THAT(ErrorOf(with_model("unk_token", "!")), HasSubstr("'!'"));
  EXPECT_THAT(ErrorOf(with("normalizer", {{"type", "Precompiled"}})),
              HasSubstr("known types: Sequence, Prepend, Replace"));
  EXPECT_THAT(ErrorOf(with("normalizer", 5)), HasSubstr("type"));
  EXPECT_THAT(ErrorOf(with("pre_tokenizer", {{"type", "UnicodeScripts"}})),
              HasSubstr("UnicodeScripts"));
  EXPECT_THAT(ErrorOf(with("decoder", {{"type", "CTC"}})), HasSubstr("CTC"));
  EXPECT_THAT(ErrorOf(with("post_processor", {{"type", "Bert"}})),
              HasSubstr("Bert"));
  EXPECT_THAT(ErrorOf(with("added_tokens", {{{"id", 3}, {"content", "z"}}})),
              HasSubstr("same id 3"));
  EXPECT_THAT(ErrorOf(with("added_tokens", {{{"id", 3}, {"content", "a"}}})),
              HasSubstr("but 1 in the vocabulary"));
  EXPECT_THAT(ErrorOf(with("added_tokens", {{{"id", 3}, {"content", ""}}})),
              HasSubstr("content"));
  EXPECT_FALSE(Tokenizer::Parse("", "t").ok());
  EXPECT_FALSE(Tokenizer::Parse("{\"model\":{", "t").ok());
  EXPECT_FALSE(Tokenizer::Parse(std::string(100000, '['), "t").ok());
}

TEST(TokenizerTest, FolderWithoutAnyTokenizerIsNotFound) {
  EXPECT_EQ(Tokenizer::LoadFolder(tests::NewTempDir()).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(TokenizerTest, TokensThatTheConfigurationNamesAreSpecial) {
  const std::string folder = tests::NewTempDir();
  ASSERT_TRUE(
      base::WriteFileAtomic(folder + "/tokenizer.json", SmallModel().dump())
          .ok());
  const auto ids = [&](const std::string& text) {
    const auto tokenizer = Tokenizer::LoadFolder(folder);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return (*tokenizer)->Encode(text, false);
  };
  const std::vector<int32_t> merged = ids("abcdabab");
  ASSERT_TRUE(base::WriteFileAtomic(folder + "/tokenizer_config.json",
                                    R"({"eos_token": "d", "pad_token": "zz"})")
                  .ok());
  ASSERT_TRUE(base::WriteFileAtomic(folder + "/special_tokens_map.json",
                                    R"({"eos_token": "ab",
                      "additional_special_tokens": [{"content": "c"}]})")
                  .ok());
  // Now "c" and "d" are found before BPE sees the text.
  const auto tokenizer = Tokenizer::LoadFolder(folder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const int32_t c = *(*tokenizer)->TokenToId("c");
  const int32_t d = *(*tokenizer)->TokenToId("d");
  EXPECT_TRUE((*tokenizer)->IsSpecial(c));
  EXPECT_TRUE((*tokenizer)->IsSpecial(d));
  EXPECT_FALSE((*tokenizer)->IsSpecial(*(*tokenizer)->TokenToId("ab")));
  EXPECT_EQ((*tokenizer)->eos_id(), d);
  const std::vector<int32_t> split = ids("abcdabab");
  EXPECT_NE(split, merged);
  EXPECT_EQ(split[1], c);
  EXPECT_EQ(split[2], d);
  EXPECT_EQ((*tokenizer)->Decode(split).value(), "ab ab ab");
  EXPECT_EQ((*tokenizer)->Decode(split, false).value(), "ab c d ab ab");
}

TEST(TokenizerTest, TheConfigurationMakesAddedTokensSpecial) {
  const std::string folder = tests::NewTempDir();
  json document = SmallModel();
  document["added_tokens"] = {Token(11, "<e>"), Token(12, "<f>"),
                              Token(13, "<g>")};
  for (json& token : document["added_tokens"]) token["special"] = false;
  ASSERT_TRUE(
      base::WriteFileAtomic(folder + "/tokenizer.json", document.dump()).ok());
  ASSERT_TRUE(
      base::WriteFileAtomic(folder + "/tokenizer_config.json",
                            R"({"eos_token": "<e>", "added_tokens_decoder": {
                      "12": {"content": "<f>", "special": true},
                      "13": {"content": "<g>", "special": false}}})")
          .ok());
  const auto tokenizer = Tokenizer::LoadFolder(folder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->Decode({1, 11, 12, 13}).value(), "a <g>");
}

TEST(TokenizerTest, FolderRefusesABosThatIsNoToken) {
  const std::string folder = tests::NewTempDir();
  ASSERT_TRUE(
      base::WriteFileAtomic(folder + "/tokenizer.json", SmallModel().dump())
          .ok());
  ASSERT_TRUE(base::WriteFileAtomic(folder + "/tokenizer_config.json",
                                    R"({"bos_token":{"content":"abcd"}})")
                  .ok());
  auto tokenizer = Tokenizer::LoadFolder(folder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->bos_id(), 8);
  ASSERT_TRUE(base::WriteFileAtomic(folder + "/tokenizer_config.json",
                                    R"({"bos_token":"zz"})")
                  .ok());
  EXPECT_THAT(std::string(Tokenizer::LoadFolder(folder).status().message()),
              HasSubstr("'zz'"));
}

}  // namespace
}  // namespace choir::model
