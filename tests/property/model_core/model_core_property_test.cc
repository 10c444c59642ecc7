// What must hold for any input: nothing is lost, nothing crashes.
#include <rapidcheck.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "base/files.h"
#include "gtest/gtest.h"
#include "model/checkpoint/safetensors.h"
#include "model/quantize/float_formats.h"
#include "model/tokenizer/bpe_model.h"
#include "model/tokenizer/bpe_trainer.h"
#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/unicode.h"
#include "tests/support/golden.h"

namespace choir::model {
namespace {

const Tokenizer& Trained() {
  static const Tokenizer* const tokenizer = [] {
    BpeTrainerOptions options;
    options.vocab_size = 400;
    const std::vector<std::string> texts(
        3, "the cat sat on the mat and they've been there since, 123 123\n\n");
    const std::string text = TrainBpe(texts, options).value();
    return Tokenizer::Parse(text, "trained").value().release();
  }();
  return *tokenizer;
}

rc::Gen<std::string> AnyBytes() {
  return rc::gen::container<std::string>(rc::gen::arbitrary<char>());
}

// Text in which merges, words and special tokens are likely.
rc::Gen<std::string> TextLike() {
  return rc::gen::map(rc::gen::container<std::vector<std::string>>(
                          rc::gen::element<std::string>(
                              "the", " ", "cat", "'ve", "\n", "12", "<|end|>",
                              "é", "\xff", "a", " there", "日", "!")),
                      [](const std::vector<std::string>& parts) {
                        std::string text;
                        for (const std::string& part : parts) text += part;
                        return text;
                      });
}

TEST(TokenizerPropertyTest, ByteLevelGivesBackAnyBytes) {
  EXPECT_TRUE(rc::check([] {
    const std::string text = *rc::gen::oneOf(AnyBytes(), TextLike());
    const std::vector<int32_t> ids = Trained().Encode(text, true);
    RC_ASSERT(Trained().Decode(ids, false).value() == text);
  }));
}

TEST(TokenizerPropertyTest, RememberingWordsDoesNotChangeIds) {
  // A long text remembers its words; its parts, cut at line breaks that end a
  // word, are too short to.
  EXPECT_TRUE(rc::check([] {
    const std::string part = *TextLike() + "x\ny";
    std::string text;
    std::vector<int32_t> expected;
    const std::vector<int32_t> ids = Trained().Encode(part, false);
    while (text.size() < 2000) {
      text += part + "<|end|>";
      expected.insert(expected.end(), ids.begin(), ids.end());
      expected.push_back(1);
    }
    RC_ASSERT(Trained().Encode(text, false) == expected);
  }));
}

TEST(TokenizerPropertyTest, MetaspaceGivesBackUtf8) {
  CHOIR_SKIP_WITHOUT_GOLDEN("stories260k");
  const auto tokenizer = Tokenizer::LoadFile(
      base::JoinPath(tests::GoldenDir(), "stories260k/tokenizer.json"));
  ASSERT_TRUE(tokenizer.ok());
  EXPECT_TRUE(rc::check([&] {
    std::string text = Utf8Lossy(*rc::gen::oneOf(AnyBytes(), TextLike()));
    RC_PRE(text.find("▁") == std::string::npos);
    const std::vector<int32_t> ids = (*tokenizer)->Encode(text, true);
    RC_ASSERT((*tokenizer)->Decode(ids).value() == text);
  }));
}

// The definition, without any clever data structure.
std::vector<std::string> NaiveBpe(
    std::vector<std::string> symbols,
    const std::vector<std::pair<std::string, std::string>>& merges) {
  while (true) {
    size_t best_rank = merges.size();
    size_t best = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      for (size_t rank = 0; rank < best_rank; ++rank) {
        if (merges[rank].first == symbols[i] &&
            merges[rank].second == symbols[i + 1]) {
          best_rank = rank;
          best = i;
        }
      }
    }
    if (best_rank == merges.size()) return symbols;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + best + 1);
  }
}

TEST(BpePropertyTest, ShortAndLongWordsFollowTheDefinition) {
  EXPECT_TRUE(rc::check([] {
    BpeOptions options;
    std::vector<std::string> tokens = {"a", "b", "c"};
    for (size_t i = 0; i < tokens.size(); ++i) {
      options.vocab[tokens[i]] = static_cast<int32_t>(i);
    }
    const int num_merges = *rc::gen::inRange(0, 12);
    for (int i = 0; i < num_merges; ++i) {
      const std::string left = *rc::gen::elementOf(tokens);
      const std::string right = *rc::gen::elementOf(tokens);
      if (!options.vocab
               .emplace(left + right, static_cast<int32_t>(tokens.size()))
               .second) {
        continue;
      }
      tokens.push_back(left + right);
      options.merges.emplace_back(left, right);
    }
    const BpeModel model = BpeModel::Create(options).value();
    const int length = *rc::gen::inRange(0, 80);
    std::string word;
    std::vector<std::string> symbols;
    for (int i = 0; i < length; ++i) {
      word.push_back(*rc::gen::element('a', 'b', 'c'));
      symbols.emplace_back(1, word.back());
    }
    std::vector<int32_t> expected;
    for (const std::string& token : NaiveBpe(symbols, options.merges)) {
      expected.push_back(options.vocab[token]);
    }
    std::vector<int32_t> ids;
    model.EncodeCharacters(word, ids);
    RC_ASSERT(ids == expected);
    std::vector<int32_t> cut;
    for (size_t begin = 0; begin < word.size();) {
      const size_t end = model.IndependentEnd(word, begin, word.size());
      RC_ASSERT(end > begin);
      model.EncodeCharacters(word.substr(begin, end - begin), cut);
      begin = end;
    }
    RC_ASSERT(cut == expected);
  }));
}

TEST(SafetensorsPropertyTest, DecodingAnEncodingGivesItBack) {
  EXPECT_TRUE(rc::check([] {
    const auto contents =
        *rc::gen::arbitrary<std::map<uint16_t, std::vector<float>>>();
    std::vector<TensorView> tensors;
    std::vector<std::string> bytes;
    bytes.reserve(contents.size());
    for (const auto& [name, values] : contents) {
      bytes.push_back(FloatsToBytes(values, DType::kF32));
      tensors.push_back({std::to_string(name),
                         DType::kF32,
                         {static_cast<int64_t>(values.size())},
                         bytes.back()});
    }
    const std::string file = EncodeSafetensors(tensors);
    const auto parsed = ParseSafetensors(file, "m");
    RC_ASSERT(parsed.ok());
    RC_ASSERT(parsed->tensors().size() == contents.size());
    for (const auto& [name, values] : contents) {
      const TensorView* tensor = parsed->Find(std::to_string(name));
      RC_ASSERT(tensor != nullptr);
      RC_ASSERT(FloatsToBytes(ReadFloats(*tensor).value(), DType::kF32) ==
                FloatsToBytes(values, DType::kF32));
    }
  }));
}

TEST(SafetensorsPropertyTest, DamagedFilesNeverCrash) {
  const std::string eight(8, 'x');
  const std::string file = EncodeSafetensors(
      {{"a", DType::kF32, {2}, eight}, {"b", DType::kF16, {2, 2}, eight}});
  EXPECT_TRUE(rc::check([&] {
    std::string damaged = file;
    const int changes = *rc::gen::inRange(1, 4);
    for (int i = 0; i < changes; ++i) {
      damaged[*rc::gen::inRange<size_t>(0, damaged.size())] =
          *rc::gen::arbitrary<char>();
    }
    const auto parsed = ParseSafetensors(damaged, "damaged");
    if (!parsed.ok()) return;
    for (const TensorView& tensor : parsed->tensors()) {
      RC_ASSERT(tensor.bytes.data() >= damaged.data());
      RC_ASSERT(tensor.bytes.data() + tensor.bytes.size() <=
                damaged.data() + damaged.size());
    }
  }));
}

TEST(FloatFormatsPropertyTest, RoundingIsToTheNearest) {
  EXPECT_TRUE(rc::check([](float value) {
    const auto nearest = [value](auto to_half, auto to_float) {
      const uint16_t half = to_half(value);
      const double error = std::abs(static_cast<double>(to_float(half)) -
                                    static_cast<double>(value));
      for (const int step : {-1, 1}) {
        const float other = to_float(static_cast<uint16_t>(half + step));
        if (!std::isfinite(other)) continue;
        RC_ASSERT(error <= std::abs(static_cast<double>(other) -
                                    static_cast<double>(value)));
      }
    };
    nearest(FloatToBf16, Bf16ToFloat);
    if (std::abs(value) < 60000.0f) nearest(FloatToF16, F16ToFloat);
  }));
}

}  // namespace
}  // namespace choir::model
