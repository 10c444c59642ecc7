// Every part of tokenizer.json against Hugging Face tokenizers, whose results
// tests/data/tokenizer/make_pipelines.js wrote down.
#include <string>
#include <vector>

#include "base/files.h"
#include "gtest/gtest.h"
#include "model/tokenizer/tokenizer.h"
#include "nlohmann/json.hpp"
#include "tests/support/golden.h"

namespace choir::model {
namespace {

using nlohmann::json;

TEST(PipelineTest, EveryPartDoesWhatHuggingFaceDoes) {
  const auto text = base::ReadFile(base::JoinPath(
      tests::SourceDir(), "tests/data/tokenizer/pipelines.json"));
  ASSERT_TRUE(text.ok()) << text.status();
  const json file = json::parse(*text);
  const json& texts = file["texts"];
  ASSERT_GT(file["cases"].size(), 60u);
  for (const json& one : file["cases"]) {
    json document = one["part"];
    document["model"] = file["model"];
    const auto tokenizer = Tokenizer::Parse(document.dump(), "pipeline");
    ASSERT_TRUE(tokenizer.ok()) << one["part"] << tokenizer.status();
    for (size_t i = 0; i < texts.size(); ++i) {
      const auto ids = one["ids"][i].get<std::vector<int32_t>>();
      EXPECT_EQ((*tokenizer)->Encode(texts[i].get<std::string>(), false), ids)
          << one["part"] << " of " << texts[i];
      EXPECT_EQ((*tokenizer)->Decode(ids, false).value(),
                one["decoded"][i].get<std::string>())
          << one["part"] << " of " << texts[i];
    }
  }
}

}  // namespace
}  // namespace choir::model
