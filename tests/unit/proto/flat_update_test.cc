#include "proto/codec/flat_update.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <limits>

namespace choir::codec {
namespace {

Layout TwoTensors() { return *Layout::Create({{"a", {2}}, {"b", {1, 3}}}); }

TEST(FlatUpdateTest, DecodeUndoesEncode) {
  EXPECT_TRUE(rc::check([] {
    const Layout layout = TwoTensors();
    std::vector<float> values;
    for (int i = 0; i < 5; ++i) {
      values.push_back(static_cast<float>(*rc::gen::inRange(-4096, 4096)) /
                       64.0f);
    }
    const auto decoded =
        DecodeFlatUpdate(EncodeFlatUpdate(layout, values), layout, 64.0);
    RC_ASSERT(decoded.ok());
    RC_ASSERT(*decoded == values);
  }));
}

TEST(FlatUpdateTest, TheBytesAreThoseOfTheDocument) {
  const Layout layout = *Layout::Create({{"w", {2}}});
  const std::string bytes = EncodeFlatUpdate(layout, {1.0f, -2.0f});
  EXPECT_EQ(bytes.size(), 52u);
  EXPECT_EQ(bytes.substr(0, 4), "CHU1");
  EXPECT_EQ(bytes.substr(36, 8), std::string("\x02\0\0\0\0\0\0\0", 8));
  EXPECT_EQ(bytes.substr(44), std::string("\0\0\x80\x3f\0\0\0\xc0", 8));
}

TEST(FlatUpdateTest, NamesTheTensorThatIsNotFinite) {
  const Layout layout = TwoTensors();
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    const std::string bytes = EncodeFlatUpdate(layout, {0, 0, 0, bad, 0});
    const absl::Status status = DecodeFlatUpdate(bytes, layout, 64).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find("'b'"), std::string::npos) << status;
  }
}

TEST(FlatUpdateTest, RefusesAValueBeyondTheGrid) {
  const Layout layout = TwoTensors();
  const std::string bytes = EncodeFlatUpdate(layout, {64.5f, 0, 0, 0, 0});
  EXPECT_FALSE(DecodeFlatUpdate(bytes, layout, 64).ok());
  EXPECT_TRUE(DecodeFlatUpdate(bytes, layout, 65).ok());
}

TEST(FlatUpdateTest, RefusesAnotherLayout) {
  const std::string bytes = EncodeFlatUpdate(TwoTensors(), {1, 2, 3, 4, 5});
  const Layout other = *Layout::Create({{"a", {3}}, {"b", {2}}});
  const absl::Status status = DecodeFlatUpdate(bytes, other, 64).status();
  EXPECT_NE(status.message().find("layout"), std::string::npos) << status;
}

TEST(FlatUpdateTest, RefusesEveryTruncationAndAnExtraByte) {
  const Layout layout = TwoTensors();
  const std::string bytes = EncodeFlatUpdate(layout, {1, 2, 3, 4, 5});
  for (size_t n = 0; n < bytes.size(); ++n) {
    EXPECT_FALSE(DecodeFlatUpdate(bytes.substr(0, n), layout, 64).ok()) << n;
  }
  EXPECT_FALSE(DecodeFlatUpdate(bytes + "x", layout, 64).ok());
}

}  // namespace
}  // namespace choir::codec
