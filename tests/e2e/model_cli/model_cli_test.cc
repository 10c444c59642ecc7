// choir-model generate and eval as people and scripts call them.
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "base/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/golden.h"
#include "tests/support/process.h"

namespace choir {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

class ModelCliTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { model_ = tests::GoldenDir() + "/stories260k"; }
  void SetUp() override {
    if (!base::FileExists(model_ + "/config.json")) {
      GTEST_SKIP() << model_ << " is not there";
    }
  }

  static tests::CommandResult Run(std::vector<std::string> arguments) {
    const char* bin = std::getenv("CHOIR_BIN_DIR");
    std::vector<std::string> command = {
        std::string(bin == nullptr ? "." : bin) + "/choir-model",
        arguments.front(), "--model", model_};
    command.insert(command.end(), arguments.begin() + 1, arguments.end());
    return tests::RunCommand(command);
  }
  static json RunJson(std::vector<std::string> arguments) {
    arguments.push_back("--json");
    const tests::CommandResult result = Run(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err << result.out;
    return json::parse(result.out, nullptr, false);
  }
  static std::string WriteLines(const std::vector<std::string>& lines) {
    const std::string path = base::JoinPath(tests::NewTempDir(), "data.jsonl");
    std::ofstream file(path);
    for (const std::string& line : lines) file << line << "\n";
    return path;
  }

  static std::string model_;
};

std::string ModelCliTest::model_;

TEST_F(ModelCliTest, GenerateStreamsWhatJsonSaysAtOnce) {
  const std::vector<std::string> arguments = {
      "generate", "--prompt", "Once upon", "--max-tokens",  "12", "--seed",
      "3",        "--top-p",  "0.9",       "--temperature", "1.0"};
  const json whole = RunJson(arguments);
  EXPECT_EQ(whole["finish"], "length");
  EXPECT_GT(whole["tokens_per_second"].get<double>(), 0.0);
  EXPECT_THAT(whole["text"].get<std::string>(), StartsWith("Once upon"));
  EXPECT_EQ(whole["ids"], RunJson(arguments)["ids"]);
  const tests::CommandResult streamed = Run(arguments);
  EXPECT_EQ(streamed.exit_code, 0) << streamed.err;
  EXPECT_EQ(streamed.out, whole["text"].get<std::string>() + "\n");
  std::vector<std::string> other = arguments;
  other[6] = "4";
  EXPECT_NE(whole["ids"], RunJson(other)["ids"]);
}

TEST_F(ModelCliTest, StopStringsEndTheTextAndAreLeftOut) {
  const std::vector<std::string> arguments = {"generate", "--prompt", "One day",
                                              "--max-tokens", "30"};
  const std::string whole = RunJson(arguments)["text"];
  ASSERT_GT(whole.size(), 12u);
  // A stop string across tokens, from the middle of what the model says.
  const std::string stop = whole.substr(9, 4);
  std::vector<std::string> stopping = arguments;
  stopping.insert(stopping.end(), {"--stop", "never said", stop});
  const json stopped = RunJson(stopping);
  const size_t at = whole.find(stop, 7);
  EXPECT_EQ(stopped["text"].get<std::string>(), whole.substr(0, at));
  EXPECT_EQ(stopped["finish"], "stop");
  EXPECT_EQ(Run(stopping).out, whole.substr(0, at) + "\n");
  const tests::CommandResult empty =
      Run({"generate", "--prompt", "the", "--stop", ""});
  EXPECT_EQ(empty.exit_code, 2);
}

TEST_F(ModelCliTest, EvalTellsDomainsApart) {
  const std::string data =
      WriteLines({R"({"text":"the apple is a fruit","topic":"fruit"})",
                  R"({"text":"a tree is a tall plant","topic":"tree"})",
                  R"({"prompt":"the","response":"tree","topic":"tree"})"});
  const json all = RunJson({"eval", "--data", data, "--domain-field", "topic"});
  ASSERT_EQ(all["domains"].size(), 2u);
  double loss = 0.0;
  int64_t tokens = 0;
  for (const json& domain : all["domains"]) {
    loss += domain["mean_nll"].get<double>() * domain["tokens"].get<int64_t>();
    tokens += domain["tokens"].get<int64_t>();
    EXPECT_NEAR(domain["perplexity"].get<double>(),
                std::exp(domain["mean_nll"].get<double>()), 1e-6);
  }
  EXPECT_EQ(all["domains"][0]["domain"], "fruit");
  EXPECT_EQ(all["domains"][1]["examples"], 2);
  EXPECT_EQ(all["tokens"], tokens);
  EXPECT_NEAR(all["mean_nll"].get<double>(), loss / tokens, 1e-9);
  EXPECT_GT(all["tokens_per_second"].get<double>(), 0.0);
  const tests::CommandResult table =
      Run({"eval", "--data", data, "--domain-field", "topic"});
  EXPECT_THAT(table.out, HasSubstr("perplexity"));
  EXPECT_THAT(table.out, HasSubstr("fruit"));
}

TEST_F(ModelCliTest, TablesOfDomainsMoveNoCursor) {
  const std::string data =
      WriteLines({R"({"text":"the apple","topic":"a\u001b[2J\nb\u009bc"})",
                  R"({"text":"the tree","topic":"Bäume"})"});
  const std::vector<std::string> eval = {"eval", "--data", data,
                                         "--domain-field", "topic"};
  const std::string table = Run(eval).out;
  EXPECT_THAT(table, HasSubstr("a\uFFFD[2J\uFFFDb\uFFFDc  "));
  EXPECT_THAT(table, HasSubstr("Bäume"));
  EXPECT_THAT(table, Not(HasSubstr("\x1b")));
  EXPECT_EQ(RunJson(eval)["domains"][1]["domain"], "a\x1b[2J\nb\u009bc");
}

TEST_F(ModelCliTest, EvalRefusesWhatDoesNotFit) {
  const std::string data = WriteLines({R"({"text":"a"})", R"({"note":"b"})"});
  const tests::CommandResult line = Run({"eval", "--data", data});
  EXPECT_EQ(line.exit_code, 2);
  EXPECT_THAT(line.err, HasSubstr("data.jsonl:2"));
  EXPECT_THAT(line.err, Not(HasSubstr("note")));
  const tests::CommandResult field =
      Run({"eval", "--data", WriteLines({R"({"text":"a b c"})"}),
           "--domain-field", "topic"});
  EXPECT_THAT(field.err, HasSubstr("--domain-field"));
  EXPECT_EQ(Run({"eval"}).exit_code, 2);
  EXPECT_EQ(Run({"eval", "--text", "x", "--domain-field", "y"}).exit_code, 2);
}

}  // namespace
}  // namespace choir
