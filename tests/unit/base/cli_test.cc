#include "base/cli.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

namespace choir::base {
namespace {

TEST(JsonQuoteTest, EscapesWhatJsonForbids) {
  EXPECT_EQ(JsonQuote("a\"b\\c\nd\x01"), "\"a\\\"b\\\\c\\nd\\u0001\"");
  EXPECT_EQ(JsonQuote("naïve"), "\"naïve\"");
}

TEST(JsonQuoteTest, ReplacesWhatIsNotUtf8) {
  const std::string replaced = "\xef\xbf\xbd";
  EXPECT_EQ(JsonQuote("a\xff"
                      "b"),
            "\"a" + replaced + "b\"");
  EXPECT_EQ(JsonQuote("\xc3"), "\"" + replaced + "\"");
  // A surrogate, an overlong slash, and a character above U+10FFFF.
  EXPECT_EQ(JsonQuote("\xed\xa0\x80"),
            "\"" + replaced + replaced + replaced + "\"");
  EXPECT_EQ(JsonQuote("\xc0\xaf"), "\"" + replaced + replaced + "\"");
  EXPECT_EQ(JsonQuote("\xf4\x90\x80\x80").size(), 2 + 4 * replaced.size());
  EXPECT_EQ(JsonQuote("\xf0\x9f\x8e\xb5"), "\"\xf0\x9f\x8e\xb5\"");
}

TEST(FinishOutputDeathTest, AResultThatCouldNotBeWrittenIsAFailure) {
  const auto print_to = [](const char* path, int code) {
    if (std::freopen(path, "w", stdout) == nullptr) std::_Exit(99);
    std::printf("{\"rounds\":3}\n");
    std::exit(FinishOutput(code));
  };
  EXPECT_EXIT(print_to("/dev/full", kExitDone),
              ::testing::ExitedWithCode(kExitFailed), "No space left");
  EXPECT_EXIT(print_to("/dev/full", kExitVerificationFailed),
              ::testing::ExitedWithCode(kExitVerificationFailed),
              "could not be written");
  EXPECT_EXIT(print_to("/dev/null", kExitDone),
              ::testing::ExitedWithCode(kExitDone), "^$");
}

}  // namespace
}  // namespace choir::base
