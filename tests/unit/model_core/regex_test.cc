#include "model/tokenizer/regex.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/tokenizer/code_point_set.h"
#include "model/tokenizer/unicode_normal.h"

namespace choir::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> Matches(absl::string_view pattern,
                                 absl::string_view text) {
  const auto regex = Regex::Compile(pattern);
  EXPECT_TRUE(regex.ok()) << regex.status();
  std::vector<std::string> matches;
  ForEachMatch(*regex, text, [&](TextMatch match) {
    matches.emplace_back(text.substr(match.begin, match.end - match.begin));
  });
  return matches;
}

TEST(RegexTest, TheFirstAlternativeWinsNotTheLongest) {
  EXPECT_THAT(Matches("a|ab", "abab"), ElementsAre("a", "a"));
  EXPECT_THAT(Matches("(?:a|ab)c?", "abc"), ElementsAre("a"));
  EXPECT_THAT(Matches("(?:a|ab)(?:c|d)", "abc"), ElementsAre("abc"));
  EXPECT_THAT(Matches("a+?|a", "aaa"), ElementsAre("a", "a", "a"));
  EXPECT_THAT(Matches("a{2,3}", "aaaaa"), ElementsAre("aaa", "aa"));
}

TEST(RegexTest, LooksOneCharacterAround) {
  EXPECT_THAT(Matches("\\s+(?!\\S)", "a   b  "), ElementsAre("  ", "  "));
  EXPECT_THAT(Matches("(?<=a)b", "abbb"), ElementsAre("b"));
  EXPECT_THAT(Matches("^.|.$", "ab\ncd"), ElementsAre("a", "b", "c", "d"));
  EXPECT_THAT(Matches("\\Aa|b\\z", "aabb"), ElementsAre("a", "b"));
  EXPECT_THAT(Matches("(?<=é)x", "éx"), ElementsAre("x"));
}

TEST(RegexTest, PossessiveQuantifiersGiveNothingBack) {
  EXPECT_THAT(Matches("a++a|b", "aaab"), ElementsAre("b"));
  EXPECT_THAT(Matches("a?+a", "aa"), ElementsAre("aa"));
  EXPECT_THAT(Matches("a*+b", "aab"), ElementsAre("aab"));
  EXPECT_THAT(Matches("(?>a+)a", "aaa"), ElementsAre());
}

TEST(RegexTest, CasesThatUnicodeFoldsTogetherMatch) {
  EXPECT_THAT(Matches("(?i:s)", "sSſx"), ElementsAre("s", "S", "ſ"));
  EXPECT_THAT(Matches("(?i:[k-l])", "kKK"), ElementsAre("k", "K", "K"));
  EXPECT_THAT(Matches("(?i:É)É", "éÉÉé"), ElementsAre("éÉ"));
  EXPECT_THAT(Matches("a(?i)b|c", "aB aC ab"), ElementsAre("aB", "aC", "ab"));
}

TEST(RegexTest, ClassesAreThoseOfHuggingFacesMatcher) {
  // Letters and digits that Unicode 15 and 16 added.
  EXPECT_THAT(Matches("\\p{L}+", "\U00016D40'\u1C8A-\U0001E4D0"),
              ElementsAre("\U00016D40", "\u1C8A", "\U0001E4D0"));
  EXPECT_THAT(Matches("\\d", "\U00010D40x\U0001E4F0"),
              ElementsAre("\U00010D40", "\U0001E4F0"));
  // Of numbers that are not digits, \w has Latin-1's alone.
  EXPECT_THAT(Matches("\\w+", "½²-৴-Ⅷ-ⓐ-①"), ElementsAre("½²", "Ⅷ", "ⓐ"));
}

TEST(RegexTest, InvalidBytesAreCharactersOfNoClass) {
  EXPECT_THAT(Matches("[^a]", "a\xff\xc3"), ElementsAre("\xff", "\xc3"));
  EXPECT_THAT(Matches("\\p{L}+|\\S", "a\xff"), ElementsAre("a", "\xff"));
}

TEST(RegexTest, EmptyMatchesAreFoundOnceAPlace) {
  EXPECT_THAT(Matches("x*", "axb"), ElementsAre("", "x", ""));
  EXPECT_THAT(Matches("(?=b)", "abb"), ElementsAre("", ""));
}

TEST(RegexTest, SaysWhatItDoesNotKnowAndWhere) {
  for (const auto& [pattern, problem] :
       std::vector<std::pair<const char*, const char*>>{
           {"(?=ab)", "more than one character"},
           {"(?:ab)++", "possessive"},
           {"(?>a|ab)", "atomic"},
           {"\\p{Han}", "\\p{Han}"},
           {"\\p", "\\p"},
           {"\\1", "'\\1'"},
           {"(?<name>a)", "group"},
           {"(a", "without ')'"},
           {"a)", "without '('"},
           {"[a", "without ']'"},
           {"[b-a]", "range"},
           {"*a", "repeats nothing"},
           {"a{2000}", "1000"},
           {"a{3,2}", "at most less"},
           {"\\x{110000}", "hexadecimal"},
           {"\\", "backslash"},
           {"\xff", "UTF-8"},
           {"(?:(?:a{900}){900}){900}", "too complex"},
           {"(?:a|b)*a(?:a|b){20}", "too complex"}}) {
    const auto regex = Regex::Compile(pattern);
    EXPECT_EQ(regex.status().code(), absl::StatusCode::kInvalidArgument)
        << pattern;
    EXPECT_THAT(std::string(regex.status().message()), HasSubstr(problem))
        << pattern;
  }
  EXPECT_FALSE(Regex::Compile(std::string(10000, 'a')).ok());
  EXPECT_FALSE(Regex::Compile(std::string(5000, '(')).ok());
}

TEST(CodePointSetTest, ComplementsAndIntersections) {
  const CodePointSet letters = *CodePointSet::Named("L");
  EXPECT_TRUE(letters.Contains(0x3B1));
  EXPECT_FALSE(letters.Complement().Contains(0x3B1));
  EXPECT_TRUE(letters.Complement().Contains(kInvalidCodePoint));
  EXPECT_EQ(letters.Complement().Complement(), letters);
  CodePointSet both = *CodePointSet::Named("Lu");
  both.Add(*CodePointSet::Named("N"));
  EXPECT_EQ(both.Intersection(letters), *CodePointSet::Named("Lu"));
  EXPECT_TRUE(letters.Intersection(*CodePointSet::Named("N")).empty());
  EXPECT_EQ(CodePointSet::Named("Latin"), std::nullopt);
}

TEST(NormalizeUnicodeTest, FollowsTheStandardsExamples) {
  // Figures 3 to 6 of Unicode Standard Annex 15.
  const auto forms = [](absl::string_view text) {
    return std::vector<std::string>{NormalizeUnicode(text, NormalForm::kNfd),
                                    NormalizeUnicode(text, NormalForm::kNfc),
                                    NormalizeUnicode(text, NormalForm::kNfkd),
                                    NormalizeUnicode(text, NormalForm::kNfkc)};
  };
  EXPECT_THAT(forms("\u212B"),
              ElementsAre("A\u030A", "\u00C5", "A\u030A", "\u00C5"));
  EXPECT_THAT(forms("\u1E0B\u0323"),
              ElementsAre("d\u0323\u0307", "\u1E0D\u0307", "d\u0323\u0307",
                          "\u1E0D\u0307"));
  EXPECT_THAT(forms("q\u0307\u0323"),
              ElementsAre("q\u0323\u0307", "q\u0323\u0307", "q\u0323\u0307",
                          "q\u0323\u0307"));
  EXPECT_THAT(forms("\uFB01"), ElementsAre("\uFB01", "\uFB01", "fi", "fi"));
  EXPECT_THAT(forms("2\u2075"), ElementsAre("2\u2075", "2\u2075", "25", "25"));
  EXPECT_THAT(forms("\u1E9B\u0323"),
              ElementsAre("\u017F\u0323\u0307", "\u1E9B\u0323", "s\u0323\u0307",
                          "\u1E69"));
  EXPECT_THAT(forms("\uAC01"), ElementsAre("\u1100\u1161\u11A8", "\uAC01",
                                           "\u1100\u1161\u11A8", "\uAC01"));
  // A composition that is excluded, and a mark that is blocked.
  EXPECT_EQ(NormalizeUnicode("\u0958", NormalForm::kNfc), "\u0915\u093C");
  EXPECT_EQ(NormalizeUnicode("a\u05AE\u0300\u0301", NormalForm::kNfc),
            "\u00E0\u05AE\u0301");
  EXPECT_EQ(NormalizeUnicode("e\xff\u0301 e\u0301", NormalForm::kNfc),
            "e\xff\u0301 \u00E9");
}

}  // namespace
}  // namespace choir::model
