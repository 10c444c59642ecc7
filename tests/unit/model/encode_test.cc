#include "model/objective/encode.h"

#include "gtest/gtest.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/unit/model/tiny_model.h"

namespace choir::model {
namespace {

class EncodeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto tokenizer =
        Tokenizer::LoadFolder(tests::WriteTinyModel(tests::TinyConfig()));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
    bos_ = tokenizer_->bos_id().value();
    eos_ = tokenizer_->eos_id().value();
  }
  std::unique_ptr<const Tokenizer> tokenizer_;
  int32_t bos_ = -1, eos_ = -1;
};

TEST_F(EncodeTest, TextBecomesWindowsThatEachBeginWithBos) {
  const std::string text = "the apple is a fruit of the tree, and tall";
  const std::vector<Example> examples = EncodeText(*tokenizer_, text, 6);
  ASSERT_GT(examples.size(), 1u);
  std::vector<int32_t> joined;
  for (const Example& example : examples) {
    EXPECT_LE(example.ids.size(), 6u);
    EXPECT_GE(example.ids.size(), 2u);
    EXPECT_EQ(example.ids[0], bos_);
    EXPECT_EQ(example.loss_begin, 1);
    joined.insert(joined.end(), example.ids.begin() + 1, example.ids.end());
  }
  EXPECT_EQ(joined.back(), eos_);
  joined.pop_back();
  EXPECT_EQ(tokenizer_->Decode(joined).value(), text);
  EXPECT_TRUE(EncodeText(*tokenizer_, "", 6).empty());
}

TEST_F(EncodeTest, LossBeginsWithTheResponse) {
  const Example example =
      EncodePromptResponse(*tokenizer_, "Define apple:", "a fruit", 64);
  EXPECT_EQ(example.ids.front(), bos_);
  EXPECT_EQ(example.ids.back(), eos_);
  const auto part = [&](size_t from, size_t to) {
    return tokenizer_
        ->Decode(absl::MakeConstSpan(example.ids).subspan(from, to - from))
        .value();
  };
  const size_t begin = example.loss_begin;
  EXPECT_EQ(part(0, begin), "Define apple:");
  EXPECT_EQ(part(begin, example.ids.size()), " a fruit");
}

TEST_F(EncodeTest, WhiteSpaceIsNotDoubled) {
  const Example example =
      EncodePromptResponse(*tokenizer_, "Define apple:\n", "a fruit", 64);
  EXPECT_EQ(tokenizer_->Decode(example.ids).value(), "Define apple:\na fruit");
}

TEST_F(EncodeTest, LongPromptsLoseTheirBeginningNotTheResponse) {
  std::string prompt;
  for (int i = 0; i < 100; ++i) prompt += "xyz ";
  const Example example =
      EncodePromptResponse(*tokenizer_, prompt + "apple:", "a fruit", 32);
  EXPECT_EQ(example.ids.size(), 32u);
  EXPECT_EQ(example.ids.back(), eos_);
  EXPECT_EQ(example.ids.front(), bos_);
  EXPECT_GT(example.loss_begin, 16);
  const Example both = EncodePromptResponse(*tokenizer_, prompt, prompt, 32);
  EXPECT_EQ(both.ids.size(), 32u);
  EXPECT_NEAR(both.loss_begin, 16, 1);
}

// What of `example` is learnt.
std::string Learnt(const Tokenizer& tokenizer, const Example& example) {
  std::vector<int32_t> ids;
  for (size_t i = 1; i < example.ids.size(); ++i) {
    if (example.loss_mask[i] != 0) ids.push_back(example.ids[i]);
  }
  return tokenizer.Decode(ids).value();
}

TEST_F(EncodeTest, OfConversationsTheAssistantsTurnsAreLearnt) {
  const auto chat = ChatTemplate::For(*tokenizer_, "plain").value();
  const std::vector<ChatMessage> talk = {{"system", "s"},
                                         {"user", "apple?"},
                                         {"assistant", "a fruit"},
                                         {"user", "tree?"},
                                         {"assistant", "tall"}};
  const Example example =
      EncodeConversation(*tokenizer_, chat, talk, 200).value();
  ASSERT_EQ(example.loss_mask.size(), example.ids.size());
  EXPECT_EQ(example.ids.front(), bos_);
  EXPECT_EQ(example.ids.back(), eos_);
  EXPECT_EQ(Learnt(*tokenizer_, example), " a fruit tall");
  EXPECT_EQ(tokenizer_->Decode(example.ids).value(),
            "System: s\n\nUser: apple?\n\nAssistant: a fruit\n\nUser: "
            "tree?\n\nAssistant: tall");
  // The same ids whole, for causal language modelling.
  const auto whole =
      EncodeConversationText(*tokenizer_, chat, talk, 200).value();
  ASSERT_EQ(whole.size(), 1u);
  EXPECT_TRUE(whole[0].loss_mask.empty());
  EXPECT_GE(whole[0].ids.size(), example.ids.size());
}

TEST_F(EncodeTest, LongConversationsKeepSomethingToLearn) {
  const auto chat = ChatTemplate::For(*tokenizer_, "plain").value();
  std::string much;
  for (int i = 0; i < 60; ++i) much += "xyz ";
  const std::vector<ChatMessage> talk = {{"user", much},
                                         {"assistant", "no"},
                                         {"user", "tree?"},
                                         {"assistant", "tall"}};
  const Example late = EncodeConversation(*tokenizer_, chat, talk, 40).value();
  EXPECT_LE(late.ids.size(), 40u);
  EXPECT_EQ(Learnt(*tokenizer_, late), " tall");
  const std::vector<ChatMessage> single = {{"user", much},
                                           {"assistant", "tall"}};
  const Example cut = EncodeConversation(*tokenizer_, chat, single, 40).value();
  EXPECT_LE(cut.ids.size(), 40u);
  EXPECT_EQ(Learnt(*tokenizer_, cut), " tall");
}

}  // namespace
}  // namespace choir::model
