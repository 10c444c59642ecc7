#include "model/checkpoint/safetensors.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/quantize/float_formats.h"
#include "tests/support/golden.h"

namespace choir::model {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string FileWithHeader(absl::string_view header, size_t data_bytes) {
  std::string out;
  for (int i = 0; i < 8; ++i) {
    out.push_back(static_cast<char>(header.size() >> (8 * i) & 0xFF));
  }
  out.append(header.data(), header.size());
  out.append(data_bytes, 'x');
  return out;
}

TEST(SafetensorsTest, ReadsWhatItWrites) {
  const std::vector<float> values = {1.5f, -2.0f, 0.0f, 3e-40f, 7.0f, 8.0f};
  const std::string f32 = FloatsToBytes(values, DType::kF32);
  const std::string bf16 = FloatsToBytes(values, DType::kBf16);
  const std::string bytes = EncodeSafetensors(
      {{"b", DType::kF32, {2, 3}, f32}, {"a", DType::kBf16, {6}, bf16}});
  const auto file = ParseSafetensors(bytes, "memory");
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->tensors().size(), 2u);
  EXPECT_EQ(file->tensors()[0].name, "a");
  EXPECT_THAT(file->tensors()[1].shape, ElementsAre(2, 3));
  EXPECT_EQ(file->metadata().at("format"), "pt");
  EXPECT_EQ(ReadFloats(file->tensors()[1]).value(), values);
  EXPECT_THAT(ReadFloats(file->tensors()[0]).value(),
              ElementsAre(1.5f, -2.0f, 0.0f, testing::_, 7.0f, 8.0f));
}

TEST(SafetensorsTest, WritesTheSameBytesForTensorsInAnyOrder) {
  const std::string four(4, 'z');
  const TensorView a{"a", DType::kF32, {1}, four};
  const TensorView b{"b", DType::kI32, {1}, four};
  const std::string bytes = EncodeSafetensors({a, b});
  EXPECT_EQ(bytes, EncodeSafetensors({b, a}));
  EXPECT_EQ(static_cast<uint8_t>(bytes[0]) % 8, 0) << "header not padded";
}

TEST(SafetensorsTest, WhatFitsIsWhatStaysFinite) {
  for (const DType dtype : {DType::kF16, DType::kBf16, DType::kF32}) {
    float largest = 0.0f;
    for (const float edge : {65520.0f, 0x1.ffp127f}) {
      for (const float value :
           {1.0f, edge, std::nextafter(edge, 0.0f), 2 * edge, NAN}) {
        for (const float v : {value, -value}) {
          TensorView view{"t", dtype, {1}, ""};
          const std::string bytes = FloatsToBytes({v}, dtype);
          view.bytes = bytes;
          const bool finite = std::isfinite(ReadFloats(view).value()[0]);
          const absl::Status status = CheckFits("t", {0.5f, v}, dtype);
          EXPECT_EQ(status.ok(), finite) << DTypeName(dtype) << " " << v;
          if (finite) largest = std::max(largest, v);
        }
      }
    }
    EXPECT_GT(largest, 65000.0f);
  }
  const absl::Status large = CheckFits("a.b", {0.5f, -1e6f}, DType::kF16);
  EXPECT_EQ(large.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(large.message()),
              AllOf(HasSubstr("'a.b'"), HasSubstr("-1e+06"), HasSubstr("F16"),
                    HasSubstr("float32")));
  EXPECT_THAT(std::string(CheckFits("a.b", {INFINITY}, DType::kF32).message()),
              AllOf(HasSubstr("'a.b'"), HasSubstr("not a finite number")));
}

struct BadFile {
  const char* name;
  std::string bytes;
  const char* message;
};

TEST(SafetensorsTest, RefusesMalformedFilesAndNamesTheProblem) {
  const std::string good =
      R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  std::string huge(8, '\xff');
  const BadFile cases[] = {
      {"empty", "", "8 bytes"},
      {"seven bytes", "1234567", "8 bytes"},
      {"huge header", huge, "claims a header of 18446744073709551615"},
      {"header past the end", FileWithHeader("{}", 0).substr(0, 9),
       "truncated"},
      {"not JSON", FileWithHeader("{\"a\":", 0), "not valid JSON"},
      {"not an object", FileWithHeader("[]", 0), "object is expected"},
      {"deep", FileWithHeader(std::string(40, '['), 0), "deeper than"},
      {"not UTF-8", FileWithHeader("{\"\xff\":1}", 0), "not valid JSON"},
      {"truncated data", FileWithHeader("{" + good + "}", 7), "truncated"},
      {"trailing", FileWithHeader("{" + good + "}", 9), "follow the last"},
      {"data without tensors", FileWithHeader("{}", 4), "4 bytes follow"},
      {"repeated name", FileWithHeader("{" + good + "," + good + "}", 8),
       "'a' twice"},
      {"overlap",
       FileWithHeader(
           "{" + good +
               R"(,"b":{"dtype":"U8","shape":[8],"data_offsets":[4,12]}})",
           12),
       "inside another"},
      {"gap",
       FileWithHeader(
           "{" + good +
               R"(,"b":{"dtype":"U8","shape":[1],"data_offsets":[9,10]}})",
           10),
       "belong to no tensor"},
      {"dtype",
       FileWithHeader(R"({"a":{"dtype":"F7","shape":[],"data_offsets":[0,0]}})",
                      0),
       "unknown dtype 'F7'"},
      {"size",
       FileWithHeader(
           R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8),
       "needs 12"},
      {"overflow",
       FileWithHeader(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],
                      "data_offsets":[0,0]}})",
                      0),
       "above 2^50"},
      {"negative",
       FileWithHeader(
           R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}})", 0),
       "whole number"},
      {"offsets backwards",
       FileWithHeader(
           R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[2,1]}})", 2),
       "bytes 2 to 1"},
      {"no offsets", FileWithHeader(R"({"a":{"dtype":"U8","shape":[1]}})", 1),
       "data_offsets"},
      {"no shape",
       FileWithHeader(R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", 1),
       "needs a 'shape'"},
      {"entry", FileWithHeader(R"({"a":1})", 0), "tensor 'a'"},
      {"metadata", FileWithHeader(R"({"__metadata__":{"a":1}})", 0),
       "not text"},
  };
  for (const BadFile& bad : cases) {
    const auto file = ParseSafetensors(bad.bytes, "some.safetensors");
    ASSERT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument)
        << bad.name;
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(bad.message))
        << bad.name;
    EXPECT_THAT(std::string(file.status().message()),
                HasSubstr("some.safetensors"))
        << bad.name;
  }
}

TEST(SafetensorsTest, RefusesEveryTruncationOfAGoodFile) {
  const std::string eight(8, 'x');
  const std::string bytes =
      EncodeSafetensors({{"weight", DType::kF32, {2}, eight}});
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(ParseSafetensors(bytes.substr(0, size), "cut").ok()) << size;
  }
}

TEST(SafetensorsTest, AcceptsScalarsAndEmptyTensors) {
  const std::string bytes = FileWithHeader(
      R"({"e":{"dtype":"F32","shape":[0,3],"data_offsets":[4,4]},
          "s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})",
      4);
  const auto file = ParseSafetensors(bytes, "m");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(ReadFloats(file->tensors()[0])->size(), 0u);
  EXPECT_EQ(ReadFloats(file->tensors()[1])->size(), 1u);
}

TEST(SafetensorsTest, GetSaysWhatDiffers) {
  const std::string eight(8, 'x');
  const std::string bytes = EncodeSafetensors({{"w", DType::kF32, {2}, eight}});
  const auto file = ParseSafetensors(bytes, "f");
  ASSERT_TRUE(file.ok());
  EXPECT_TRUE(file->Get("w", {2}).ok());
  EXPECT_THAT(std::string(file->Get("w", {1, 2}).status().message()),
              HasSubstr("shape [2], not [1, 2]"));
  EXPECT_THAT(std::string(file->Get("v", {2}).status().message()),
              HasSubstr("'v' is not there"));
}

TEST(SafetensorsTest, DoesNotReadIntegersAsFloats) {
  const std::string eight(8, 'x');
  EXPECT_EQ(ReadFloats({"w", DType::kI64, {1}, eight}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(SafetensorsTest, MissingFileIsNotFound) {
  EXPECT_EQ(SafetensorsFile::Open("/nonexistent/m").status().code(),
            absl::StatusCode::kNotFound);
}

TEST(SafetensorsTest, OpensTheGoldenModel) {
  CHOIR_SKIP_WITHOUT_GOLDEN("stories260k");
  const auto file = SafetensorsFile::Open(
      base::JoinPath(tests::GoldenDir(), "stories260k/model.safetensors"));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(file->Get("model.embed_tokens.weight", {512, 64}).ok());
  EXPECT_EQ(file->Find("lm_head.weight"), nullptr);
}

TEST(FloatFormatsTest, EveryHalfSurvivesTheWayThroughFloat) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float bf16 = Bf16ToFloat(half);
    const float f16 = F16ToFloat(half);
    if (std::isnan(bf16)) {
      EXPECT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(bf16))));
    } else {
      ASSERT_EQ(FloatToBf16(bf16), half);
    }
    if (std::isnan(f16)) {
      EXPECT_TRUE(std::isnan(F16ToFloat(FloatToF16(f16))));
    } else {
      ASSERT_EQ(FloatToF16(f16), half);
    }
  }
}

TEST(FloatFormatsTest, RoundsToNearestAndTiesToEven) {
  EXPECT_EQ(FloatToBf16(FloatFromBits(0x3F808000)), 0x3F80);
  EXPECT_EQ(FloatToBf16(FloatFromBits(0x3F818000)), 0x3F82);
  EXPECT_EQ(FloatToBf16(FloatFromBits(0x3F808001)), 0x3F81);
  EXPECT_EQ(FloatToF16(65504.0f), 0x7BFF);
  EXPECT_EQ(FloatToF16(65519.9f), 0x7BFF);
  EXPECT_EQ(FloatToF16(65520.0f), 0x7C00);
  EXPECT_EQ(FloatToF16(0x1p-24f), 1);
  EXPECT_EQ(FloatToF16(0x1p-25f), 0);
  EXPECT_EQ(FloatToF16(0x1.8p-25f), 1);
  EXPECT_EQ(FloatToF16(-1e30f), 0xFC00);
  EXPECT_EQ(FloatToBf16(3.4e38f), 0x7F80);
}

}  // namespace
}  // namespace choir::model
