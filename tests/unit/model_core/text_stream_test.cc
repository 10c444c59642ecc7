#include "model/text_stream.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "model/tokenizer/bpe_trainer.h"

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

}  // namespace
}  // namespace choir::model
