#include "base/sha256.h"

#include <gtest/gtest.h>

namespace choir::base {
namespace {

// FIPS 180-2, appendix B.
constexpr char kAbc[] =
    "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

TEST(Sha256Test, MatchesTheStandardsExample) {
  EXPECT_EQ(Sha256Hex("abc"), kAbc);
  EXPECT_EQ(Sha256Hex(""),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST(Sha256Test, PiecesGiveTheDigestOfTheWhole) {
  Sha256 hasher;
  hasher.Update("a");
  hasher.Update("bc");
  EXPECT_EQ(ToHex(hasher.Finish()), kAbc);
  hasher.Update("abc");  // begins afresh
  EXPECT_EQ(ToHex(hasher.Finish()), kAbc);
}

TEST(DigestFromHexTest, ReadsWhatToHexWrites) {
  EXPECT_EQ(ToHex(*DigestFromHex(kAbc)), kAbc);
  EXPECT_EQ(ToHex(*DigestFromHex(std::string("sha256:") + kAbc)), kAbc);
}

TEST(DigestFromHexTest, RefusesOtherText) {
  for (const std::string& text :
       {std::string(), std::string("abc"), std::string(64, 'g'),
        std::string(63, 'a'), std::string(65, 'a'),
        std::string("../") + kAbc}) {
    EXPECT_EQ(DigestFromHex(text).status().code(),
              absl::StatusCode::kInvalidArgument)
        << text;
  }
}

}  // namespace
}  // namespace choir::base
