#include "base/cli.h"

#include <gtest/gtest.h>

#include <csignal>
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

TEST(PrintableTextTest, KeepsWordsAndReplacesWhatMovesTheCursor) {
  EXPECT_EQ(PrintableText("naïve 日本 \xf0\x9f\x8e\xb5"),
            "naïve 日本 \xf0\x9f\x8e\xb5");
  EXPECT_EQ(PrintableText("a\x1b[31mb\nc\td\x7f"),
            "a\uFFFD[31mb\uFFFDc\uFFFDd\uFFFD");
  // A control sequence of one character, and bytes that are no characters.
  EXPECT_EQ(PrintableText("\xc2\x9b\xc2\xa0"), "\uFFFD\u00a0");
  EXPECT_EQ(PrintableText("\xff\xc3"), "\uFFFD\uFFFD");
}

TEST(StopSignalDeathTest, TheFirstSignalEndsWhatWouldLeaveNothingHalfDone) {
  const auto end = [](int signal) {
    StopSignal::InstallToEnd(/*json=*/false);
    if (!StopSignal::Check().ok()) std::_Exit(99);
    std::raise(signal);
  };
  for (const int signal : {SIGINT, SIGTERM}) {
    EXPECT_EXIT(end(signal), ::testing::ExitedWithCode(kExitInterrupted),
                "^error: told to stop\n$");
  }
}

TEST(StopSignalDeathTest, TheFirstSignalAsksAndTheSecondEnds) {
  const auto ask = [](int times) {
    StopSignal::Install();
    for (int i = 0; i < times; ++i) std::raise(SIGTERM);
    const absl::Status status = StopSignal::Check();
    std::_Exit(status == absl::CancelledError("told to stop") ? 7 : 8);
  };
  EXPECT_EXIT(ask(0), ::testing::ExitedWithCode(8), "");
  EXPECT_EXIT(ask(1), ::testing::ExitedWithCode(7), "");
  EXPECT_EXIT(ask(2), ::testing::ExitedWithCode(kExitInterrupted), "");
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
