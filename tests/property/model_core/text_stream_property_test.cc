// A stream of text, however it is cut, is what decoding all ids gives.
#include <rapidcheck.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "model/text_stream.h"
#include "model/tokenizer/bpe_trainer.h"
#include "model/tokenizer/unicode.h"
#include "nlohmann/json.hpp"

namespace choir::model {
namespace {

using nlohmann::json;

constexpr int kBytes = 4;  // the id of the byte 0 in ByteFallback()

// As Llama 2 and Mistral have it: words that begin with a space, single bytes
// for what has no token.
std::string ByteFallback(const json& first_steps) {
  json vocab = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}, {"<0xG>", 3}};
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    vocab[name] = byte + kBytes;
  }
  for (const char* word : {"\u2581", "\u2581the", "t", "\u00e9", "\u2581\u2581",
                           "s\u2581", "\uFFFD", "!"}) {
    vocab[word] = vocab.size();
  }
  json steps = first_steps;
  for (const char* type : {"ByteFallback", "Fuse"}) {
    steps.push_back({{"type", type}});
  }
  steps.push_back(
      {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  const auto special = [](int id, const char* content) {
    return json{{"id", id}, {"content", content}, {"special", true}};
  };
  return json{{"added_tokens",
               {special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")}},
              {"model",
               {{"type", "BPE"},
                {"unk_token", "<unk>"},
                {"byte_fallback", true},
                {"vocab", vocab},
                {"merges", json::array()}}},
              {"decoder", {{"type", "Sequence"}, {"decoders", steps}}}}
      .dump();
}

// One of each way to make text of tokens.
std::vector<std::unique_ptr<const Tokenizer>> Kinds() {
  const json replace = {{"type", "Replace"},
                        {"pattern", {{"String", "\u2581"}}},
                        {"content", " "}};
  std::vector<std::string> documents = {
      ByteFallback(json::array({replace})),
      ByteFallback(json::array({{{"type", "Metaspace"},
                                 {"replacement", "\u2581"},
                                 {"prepend_scheme", "always"}}}))};
  const json words = {{"a</w>", 0}, {"b", 1}, {"c</w>", 2}, {"\u00e9", 3}};
  const json plain = {
      {"type", "BPE"}, {"vocab", words}, {"merges", json::array()}};
  documents.push_back(json{{"model", plain}}.dump());
  documents.push_back(
      json{{"model", plain},
           {"decoder", {{"type", "BPEDecoder"}, {"suffix", "</w>"}}}}
          .dump());
  BpeTrainerOptions options;
  options.vocab_size = 300;
  documents.push_back(
      TrainBpe(std::vector<std::string>(4, "the tree and the apple tree"),
               options)
          .value());
  std::vector<std::unique_ptr<const Tokenizer>> kinds;
  for (const std::string& document : documents) {
    kinds.push_back(Tokenizer::Parse(document, "test").value());
  }
  return kinds;
}

const std::vector<std::unique_ptr<const Tokenizer>>& AllKinds() {
  static const auto* const kinds =
      new std::vector<std::unique_ptr<const Tokenizer>>(Kinds());
  return *kinds;
}

// Any ids, and ids of text in which whole and broken characters are likely.
std::vector<int32_t> AnyIds(const Tokenizer& tokenizer) {
  const auto parts = *rc::gen::container<std::vector<std::string>>(
      rc::gen::element<std::string>(
          "the", " ", "t", "\xF0\x9F\x98\x80", "\xF0\x9F", "\x98", "\xE6\x97",
          "\xE6\x97\xA5", "\xC3\xA9", "\xEF\xBF\xBD", "\xff", "<s>", "!"));
  std::vector<int32_t> ids;
  for (const std::string& part : parts) {
    const std::vector<int32_t> some = tokenizer.Encode(part, false);
    ids.insert(ids.end(), some.begin(), some.end());
  }
  const auto more = *rc::gen::container<std::vector<int32_t>>(
      rc::gen::inRange<int32_t>(0, tokenizer.vocab_size()));
  const size_t at = *rc::gen::inRange<size_t>(0, ids.size() + 1);
  ids.insert(ids.begin() + static_cast<int64_t>(at), more.begin(), more.end());
  return ids;
}

std::string Whole(const Tokenizer& tokenizer, absl::Span<const int32_t> ids) {
  return Utf8Lossy(tokenizer.Decode(ids).value());
}

TEST(TextStreamPropertyTest, PiecesMakeWhatAllIdsDecodeTo) {
  EXPECT_TRUE(rc::check([] {
    const Tokenizer& tokenizer =
        *AllKinds()[*rc::gen::inRange<size_t>(0, AllKinds().size())];
    const std::vector<int32_t> ids = AnyIds(tokenizer);
    TextStream stream(tokenizer, {}, {"never said"});
    std::string text;
    for (const int32_t id : ids) text += stream.Add(id).value();
    text += stream.Finish();
    RC_ASSERT(text == Whole(tokenizer, ids));
  }));
}

TEST(TextStreamPropertyTest, PiecesGoOnWhereThePromptEnds) {
  EXPECT_TRUE(rc::check([] {
    const Tokenizer& tokenizer =
        *AllKinds()[*rc::gen::inRange<size_t>(0, AllKinds().size())];
    std::vector<int32_t> ids = AnyIds(tokenizer);
    // The prompt is known to be whole: it ends with a token of its own.
    const std::vector<int32_t> end = tokenizer.Encode("t", false);
    const size_t prompt = *rc::gen::inRange<size_t>(0, ids.size() + 1);
    ids.insert(ids.begin() + static_cast<int64_t>(prompt), end.begin(),
               end.end());
    const absl::Span<const int32_t> given =
        absl::MakeConstSpan(ids).first(prompt + end.size());
    TextStream stream(tokenizer, given, {});
    std::string text = tokenizer.Decode(given).value();
    for (size_t i = given.size(); i < ids.size(); ++i) {
      text += stream.Add(ids[i]).value();
    }
    text += stream.Finish();
    RC_ASSERT(Utf8Lossy(text) == Whole(tokenizer, ids));
  }));
}

TEST(TextStreamPropertyTest, StopsWhereTheTextFirstHoldsAStop) {
  EXPECT_TRUE(rc::check([] {
    const Tokenizer& tokenizer = *AllKinds()[0];
    const std::vector<int32_t> ids = AnyIds(tokenizer);
    const std::string stop = *rc::gen::element<std::string>(
        "\xF0\x9F\x98\x80", "the\xE6\x97\xA5", "t", "\xC3\xA9!");
    TextStream stream(tokenizer, {}, {stop});
    std::string text;
    size_t read = 0;
    while (read < ids.size() && !stream.stopped()) {
      text += stream.Add(ids[read++]).value();
    }
    text += stream.Finish();
    const std::string whole =
        Whole(tokenizer, absl::MakeConstSpan(ids).first(read));
    RC_ASSERT(stream.stopped() == (whole.find(stop) != std::string::npos));
    RC_ASSERT(text == whole.substr(0, whole.find(stop)));
    // Not later than it could: one id less does not hold it.
    if (stream.stopped()) {
      RC_ASSERT(Whole(tokenizer, absl::MakeConstSpan(ids).first(read - 1))
                    .find(stop) == std::string::npos);
    }
  }));
}

}  // namespace
}  // namespace choir::model
