#include "model/text_stream.h"

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "model/tokenizer/bpe_trainer.h"
#include "nlohmann/json.hpp"

namespace choir::model {
namespace {

class TextStreamTest : public ::testing::Test {
 protected:
  void SetUp() override {
    BpeTrainerOptions options;
    options.vocab_size = 300;
    tokenizer_ =
        Tokenizer::Parse(TrainBpe(std::vector<std::string>(4,
                                                           "the tree and the "
                                                           "apple tree"),
                                  options)
                             .value(),
                         "test")
            .value();
  }

  // The pieces that the tokens of `text` become, and the rest.
  std::vector<std::string> Pieces(const std::string& text,
                                  std::vector<std::string> stops) {
    TextStream stream(*tokenizer_, tokenizer_->Encode("so: ", false),
                      std::move(stops));
    std::vector<std::string> pieces;
    for (const int32_t id : tokenizer_->Encode(text, false)) {
      pieces.push_back(stream.Add(id).value());
    }
    stopped_ = stream.stopped();
    pieces.push_back(stream.Finish());
    return pieces;
  }
  static std::string Joined(const std::vector<std::string>& pieces) {
    std::string all;
    for (const std::string& piece : pieces) all += piece;
    return all;
  }

  std::unique_ptr<const Tokenizer> tokenizer_;
  bool stopped_ = false;
};

TEST_F(TextStreamTest, PiecesMakeTheText) {
  const std::string text = "the tree, and z\xC3\xBC\xF0\x9F\x8C\xB3 the end";
  const std::vector<std::string> pieces = Pieces(text, {});
  EXPECT_EQ(Joined(pieces), text);
  EXPECT_EQ(pieces.back(), "");
  EXPECT_FALSE(stopped_);
}

TEST_F(TextStreamTest, CharactersComeWhole) {
  // Four tokens of one byte each: nothing, nothing, nothing, the tree.
  const std::vector<std::string> pieces = Pieces("\xF0\x9F\x8C\xB3", {});
  ASSERT_EQ(pieces.size(), 5u);
  EXPECT_EQ(pieces[0] + pieces[1] + pieces[2], "");
  EXPECT_EQ(pieces[3], "\xF0\x9F\x8C\xB3");
}

TEST_F(TextStreamTest, ABrokenCharacterAtTheEndIsReplaced) {
  const std::vector<std::string> pieces = Pieces("a\xF0\x9F", {});
  EXPECT_EQ(Joined(pieces), "a\xEF\xBF\xBD");
}

TEST_F(TextStreamTest, StopsBeforeAStopStringAcrossTokens) {
  const std::string text = "xyzzy and more";
  EXPECT_EQ(Joined(Pieces(text, {"zzy a"})), "xy");
  EXPECT_TRUE(stopped_);
  EXPECT_EQ(Joined(Pieces(text, {"more?", "and"})), "xyzzy ");
  EXPECT_TRUE(stopped_);
}

TEST_F(TextStreamTest, WhatOnlyBeginsAStopStringComesLater) {
  const std::string text = "xyzzy";
  const std::vector<std::string> pieces = Pieces(text, {"zzyx"});
  EXPECT_FALSE(stopped_);
  EXPECT_EQ(Joined(pieces), text);
  EXPECT_EQ(pieces.back(), "zzy");
}

// A tokenizer with byte fallback: <0x00> is 1, "t" 257, "Once" 258.
std::unique_ptr<const Tokenizer> ByteFallback() {
  nlohmann::json vocab = {{"<unk>", 0}, {"t", 257}, {"Once", 258}};
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    vocab[name] = byte + 1;
  }
  const nlohmann::json document = {
      {"model",
       {{"type", "BPE"},
        {"unk_token", "<unk>"},
        {"byte_fallback", true},
        {"vocab", vocab},
        {"merges", nlohmann::json::array()}}},
      {"decoder",
       {{"type", "Sequence"},
        {"decoders", {{{"type", "ByteFallback"}}, {{"type", "Fuse"}}}}}}};
  return Tokenizer::Parse(document.dump(), "test").value();
}

TEST(TextStreamOfBytesTest, CharactersComeWholeOnceNothingCanSpoilThem) {
  const auto tokenizer = ByteFallback();
  TextStream stream(*tokenizer, {258}, {});
  std::vector<std::string> pieces;
  for (const int32_t id : {0xF0 + 1, 0x9F + 1, 0x98 + 1, 0x80 + 1, 257}) {
    pieces.push_back(stream.Add(id).value());
  }
  EXPECT_EQ(pieces[0] + pieces[1] + pieces[2] + pieces[3], "");
  EXPECT_EQ(pieces[4], "\xF0\x9F\x98\x80t");
  EXPECT_EQ(stream.Finish(), "");
}

TEST(TextStreamOfBytesTest, ABrokenRunIsReplacedAsDecodingReplacesIt) {
  const auto tokenizer = ByteFallback();
  TextStream stream(*tokenizer, {258}, {});
  std::string text;
  for (const int32_t id : {0xC3 + 1, 0xA9 + 1, 0xF0 + 1, 257}) {
    text += stream.Add(id).value();
  }
  EXPECT_EQ(text, "\uFFFD\uFFFD\uFFFDt");
}

TEST(TextStreamOfBytesTest, StopsAtACharacterThatItsLastByteCompletes) {
  const auto tokenizer = ByteFallback();
  TextStream stream(*tokenizer, {258}, {"\xF0\x9F\x98\x80"});
  std::string text = stream.Add(257).value();
  for (const int32_t id : {0xF0 + 1, 0x9F + 1, 0x98 + 1}) {
    text += stream.Add(id).value();
    EXPECT_FALSE(stream.stopped());
  }
  text += stream.Add(0x80 + 1).value();
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(text + stream.Finish(), "t");
}

}  // namespace
}  // namespace choir::model
