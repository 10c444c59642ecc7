#include "model/tokenizer/pre_tokenizer.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/tokenizer/unicode.h"

namespace choir::model {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> Words(const PreTokenizer& pre_tokenizer,
                               absl::string_view text, bool at_start = true) {
  std::vector<std::string> words;
  pre_tokenizer.ForEachWord(text, at_start, [&](absl::string_view word) {
    words.emplace_back(word);
  });
  return words;
}

std::vector<std::string> Words(absl::string_view text) {
  PreTokenizer pre_tokenizer;
  pre_tokenizer.AddByteLevel(/*add_prefix_space=*/false, /*use_regex=*/true);
  return Words(pre_tokenizer, text);
}

TEST(Gpt2WordsTest, FollowThePattern) {
  EXPECT_THAT(Words("Hello world 12, x"),
              ElementsAre("Hello", " world", " 12", ",", " x"));
  EXPECT_THAT(Words("don't I'LL we've '' 'so"),
              ElementsAre("don", "'t", " I", "'", "LL", " we", "'ve", " ''",
                          " '", "so"));
  EXPECT_THAT(Words("  a"), ElementsAre(" ", " a"));
  EXPECT_THAT(Words("a  "), ElementsAre("a", "  "));
  EXPECT_THAT(Words("a \n b"), ElementsAre("a", " \n", " b"));
  EXPECT_THAT(Words("a\nb"), ElementsAre("a", "\n", "b"));
  EXPECT_THAT(Words("\n\n\tb"), ElementsAre("\n\n", "\t", "b"));
  EXPECT_THAT(Words("naïve ½ 日本語!"),
              ElementsAre("naïve", " ½", " 日本語", "!"));
  EXPECT_THAT(Words(" "), ElementsAre(" "));
  EXPECT_THAT(Words("'"), ElementsAre("'"));
}

TEST(Gpt2WordsTest, InvalidBytesAreSymbols) {
  EXPECT_THAT(Words("a\xff\xc3 b"), ElementsAre("a", "\xff\xc3", " b"));
}

TEST(UnicodeTest, DecodesAndRefusesAsTheStandardSays) {
  const auto code_point = [](absl::string_view text) {
    const Utf8Char c = DecodeUtf8(text, 0);
    return c.length == text.size() ? c.code_point : kInvalidCodePoint + 1;
  };
  EXPECT_EQ(code_point("a"), 0x61u);
  EXPECT_EQ(code_point("é"), 0xE9u);
  EXPECT_EQ(code_point("日"), 0x65E5u);
  EXPECT_EQ(code_point("🦙"), 0x1F999u);
  EXPECT_EQ(code_point("\xF4\x8F\xBF\xBF"), 0x10FFFFu);
  for (const absl::string_view bad :
       {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xED\xA0\x80",
        "\xF0\x80\x80\x80", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xE6\x97",
        "\xC3", "\xFF"}) {
    EXPECT_FALSE(IsValidUtf8(bad));
    EXPECT_EQ(DecodeUtf8(bad, 0).code_point, kInvalidCodePoint);
    EXPECT_EQ(DecodeUtf8(bad, 0).length, 1u);
  }
  EXPECT_EQ(Utf8Lossy("a\xFFé\xE6\x97"), "a\uFFFDé\uFFFD");
}

TEST(UnicodeTest, OneReplacementForEachBrokenCharacter) {
  // The examples of the Unicode standard, tables 3-8 to 3-11.
  EXPECT_EQ(Utf8Lossy("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"),
            "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDA");
  EXPECT_EQ(Utf8Lossy("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"),
            "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDA");
  EXPECT_EQ(Utf8Lossy("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"),
            "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDA\uFFFD\uFFFDB");
  EXPECT_EQ(Utf8Lossy("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"),
            "\uFFFD\uFFFD\uFFFD\uFFFDA");
}

TEST(UnicodeTest, KnowsClasses) {
  for (const uint32_t c :
       {0x61u, 0x5Au, 0xAAu, 0xE9u, 0x416u, 0x65E5u, 0x10400u, 0x3134Au}) {
    EXPECT_TRUE(IsLetter(c)) << c;
    EXPECT_FALSE(IsNumber(c)) << c;
  }
  for (const uint32_t c :
       {0x30u, 0x39u, 0xB2u, 0xBDu, 0x660u, 0x2167u, 0x1D7CEu}) {
    EXPECT_TRUE(IsNumber(c)) << c;
    EXPECT_FALSE(IsLetter(c)) << c;
  }
  for (const uint32_t c : {0x0u, 0x20u, 0x5Fu, 0xD7u, 0x301u, 0x200Du, 0x1F999u,
                           0x10FFFFu, kInvalidCodePoint}) {
    EXPECT_FALSE(IsLetter(c)) << c;
    EXPECT_FALSE(IsNumber(c)) << c;
  }
  for (const uint32_t c : {0x9u, 0xDu, 0x20u, 0x85u, 0xA0u, 0x2003u, 0x3000u}) {
    EXPECT_TRUE(IsWhitespace(c)) << c;
  }
  for (const uint32_t c : {0x8u, 0xEu, 0x1Fu, 0x200Bu, 0xFEFFu}) {
    EXPECT_FALSE(IsWhitespace(c)) << c;
  }
}

TEST(UnicodeTest, TheAlphabetIsGpt2s) {
  EXPECT_EQ(ByteToCodePoint(' '), 0x120u);   // Ġ
  EXPECT_EQ(ByteToCodePoint('\n'), 0x10Au);  // Ċ
  EXPECT_EQ(ByteToCodePoint('a'), 0x61u);
  EXPECT_EQ(ByteToCodePoint(0xAD), 0x143u);
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(CodePointToByte(ByteToCodePoint(static_cast<uint8_t>(byte))),
              byte);
  }
  EXPECT_EQ(CodePointToByte(0x20), -1);
  EXPECT_EQ(CodePointToByte(0x144), -1);
}

}  // namespace
}  // namespace choir::model
