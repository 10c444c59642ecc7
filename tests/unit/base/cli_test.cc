#include "base/cli.h"

#include <gtest/gtest.h>

namespace choir::base {
namespace {

TEST(JsonQuoteTest, EscapesWhatJsonForbids) {
  EXPECT_EQ(JsonQuote("a\"b\\c\nd\x01"), "\"a\\\"b\\\\c\\nd\\u0001\"");
  EXPECT_EQ(JsonQuote("naïve"), "\"naïve\"");
}

}  // namespace
}  // namespace choir::base
