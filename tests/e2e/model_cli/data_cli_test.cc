// What choir-model reads: conversations, ids, folders that are no models.
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/golden.h"
#include "tests/support/process.h"

namespace choir {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

constexpr char kTalk[] = R"([{"role":"user","content":"say the tree"},)"
                         R"({"role":"assistant","content":"the tree"}])";

class DataCliTest : public testing::Test {
 protected:
  static std::string Program() {
    return base::JoinPath(tests::BinDir(), "choir-model");
  }
  static std::string Tiny() {
    return base::JoinPath(tests::SourceDir(), "models/choir-tiny");
  }
  static tests::CommandResult Run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), Program());
    return tests::RunCommand(arguments);
  }
  static json RunJson(std::vector<std::string> arguments) {
    arguments.push_back("--json");
    const tests::CommandResult result = Run(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.out << result.err;
    return json::parse(result.out, nullptr, false);
  }
  // "choir-model tokenize" of choir-tiny, `input` on stdin.
  static tests::CommandResult Tokenize(const std::string& input,
                                       const std::string& flags) {
    const std::string path = base::JoinPath(tests::NewTempDir(), "stdin");
    std::ofstream(path, std::ios::binary) << input;
    return tests::RunCommand(
        {"/bin/sh", "-c",
         absl::StrCat("'", Program(), "' tokenize --model '", Tiny(), "' ",
                      flags, " < '", path, "'")});
  }
  static std::string WriteLines(const std::vector<std::string>& lines) {
    const std::string path = base::JoinPath(tests::NewTempDir(), "data.jsonl");
    std::ofstream file(path);
    for (const std::string& line : lines) file << line << "\n";
    return path;
  }
  // A copy of choir-tiny whose weights end with `end`.
  static std::string TinyEndingWith(const std::string& end) {
    const std::string folder = tests::NewTempDir();
    const std::vector<std::string> names = base::ListDirectory(Tiny()).value();
    for (const std::string& name : names) {
      std::string bytes = base::ReadFile(base::JoinPath(Tiny(), name)).value();
      if (name == "model.safetensors") {
        bytes.replace(bytes.size() - end.size(), end.size(), end);
      }
      EXPECT_TRUE(
          base::WriteFileAtomic(base::JoinPath(folder, name), bytes).ok());
    }
    return folder;
  }
};

TEST_F(DataCliTest, ConversationsAreDecodedFromWhatTokenizePrints) {
  const tests::CommandResult chat =
      Tokenize(kTalk, "--chat --chat-format plain --json");
  ASSERT_EQ(chat.exit_code, 0) << chat.out << chat.err;
  const json document = json::parse(chat.out);
  const tests::CommandResult back = Tokenize(chat.out, "--decode --json");
  ASSERT_EQ(back.exit_code, 0) << back.out << back.err;
  EXPECT_THAT(json::parse(back.out)["text"].get<std::string>(),
              AllOf(HasSubstr("say the tree"), HasSubstr("the tree")));
  // Lists and plain numbers as ever.
  const std::string ids = document["ids"].dump();
  EXPECT_EQ(Tokenize(ids, "--decode --json").out, back.out);
  EXPECT_EQ(Tokenize(absl::StrReplaceAll(ids, {{"[", ""}, {"]", ""}}),
                     "--decode --json")
                .out,
            back.out);
  for (const char* bad :
       {R"({"text":"a"})", R"({"ids":["a"]})", R"({"ids":[-1]})", "{"}) {
    const tests::CommandResult wrong = Tokenize(bad, "--decode");
    EXPECT_EQ(wrong.exit_code, 2) << bad;
    EXPECT_THAT(wrong.err, HasSubstr("\"ids\"")) << bad;
  }
}

TEST_F(DataCliTest, FlagsOfConversationsNeedAConversation) {
  const auto refused = [](const char* flags, const char* named) {
    const tests::CommandResult result = Tokenize("the tree", flags);
    EXPECT_EQ(result.exit_code, 2) << flags;
    EXPECT_THAT(result.err, HasSubstr(named)) << flags;
  };
  refused("--chat-format plain", "give --chat");
  refused("--chat-format model", "give --chat");
  refused("--generation-prompt", "--generation-prompt");
  refused("--chat --decode", "--decode");
  refused("--chat --no-special", "--no-special");
  refused("--decode --no-special", "--no-special");
  const tests::CommandResult eval =
      Run({"eval", "--model", Tiny(), "--text", "x", "--chat-format", "plain"});
  EXPECT_EQ(eval.exit_code, 2);
  EXPECT_THAT(eval.err, HasSubstr("--chat-format"));
}

TEST_F(DataCliTest, EvalPredictsWhatTheAssistantSays) {
  const std::string talk = absl::StrCat(R"({"messages":)", kTalk, "}");
  const tests::CommandResult shown =
      Tokenize(kTalk, "--chat --chat-format plain --json");
  int learnt = 0;
  const json document = json::parse(shown.out);
  for (const json& one : document["learnt"]) learnt += one.get<int>();
  const std::vector<std::string> eval = {"eval",          "--model", Tiny(),
                                         "--chat-format", "plain",   "--data"};
  const auto of = [&](const std::vector<std::string>& lines) {
    std::vector<std::string> all = eval;
    all.push_back(WriteLines(lines));
    return all;
  };
  const json one = RunJson(of({talk}));
  EXPECT_GT(learnt, 1);
  EXPECT_EQ(one["tokens"], learnt);
  // Beside other lines, and with its content in parts.
  const json other = RunJson(of({R"({"prompt":"say","response":"the tree"})"}));
  const json both =
      RunJson(of({absl::StrReplaceAll(
                      talk, {{R"("content":"the tree")",
                              R"("content":[{"type":"text","text":"the "},)"
                              R"({"type":"text","text":"tree"}])"}}),
                  R"({"prompt":"say","response":"the tree"})"}));
  EXPECT_EQ(both["tokens"], learnt + other["tokens"].get<int>());
  EXPECT_NEAR(
      both["mean_nll"].get<double>() * both["tokens"].get<double>(),
      one["mean_nll"].get<double>() * learnt +
          other["mean_nll"].get<double>() * other["tokens"].get<double>(),
      1e-3);
  // choir-tiny has no chat template.
  const tests::CommandResult unknown =
      Run({"eval", "--model", Tiny(), "--data", WriteLines({talk})});
  EXPECT_NE(unknown.exit_code, 0);
  EXPECT_THAT(unknown.err, HasSubstr("--chat-format"));
  for (
      const char* bad :
      {R"({"messages":[]})", R"({"messages":[{"role":"user"}]})",
       R"({"messages":[{"role":"user","content":"a"}]})",
       R"({"messages":[{"role":"user","content":"a"}],"text":"b"})",
       R"({"messages":[{"role":"assistant","content":[{"type":"image"}]}]})"}) {
    const tests::CommandResult wrong = Run(of({talk, bad}));
    EXPECT_EQ(wrong.exit_code, 2) << bad;
    EXPECT_THAT(wrong.err, HasSubstr("data.jsonl:2")) << bad;
  }
}

TEST_F(DataCliTest, NumbersThatAreTooLargeAreToldTheLimit) {
  const tests::CommandResult tokens =
      Run({"generate", "--model", Tiny(), "--prompt", "a", "--max-tokens",
           "99999999999"});
  EXPECT_EQ(tokens.exit_code, 2);
  EXPECT_THAT(tokens.err,
              AllOf(HasSubstr("--max-tokens"),
                    HasSubstr("'99999999999' is too large; the most is "
                              "2147483647")));
  const tests::CommandResult batch =
      Run({"plan", "--model", Tiny(), "--budget-mib", "900", "--batch-size",
           "99999999999999999"});
  EXPECT_EQ(batch.exit_code, 2);
  EXPECT_THAT(batch.err,
              AllOf(HasSubstr("--batch-size"), HasSubstr("2147483647")));
  const tests::CommandResult word =
      Run({"generate", "--model", Tiny(), "--prompt", "a", "--threads", "two"});
  EXPECT_THAT(word.err, HasSubstr("'two' is not a whole number"));
}

TEST_F(DataCliTest, FoldersWithoutAModelAreToldWhatToGive) {
  const std::string nothing = tests::NewTempDir();
  const tests::CommandResult missing =
      Run({"eval", "--model", nothing, "--text", "x"});
  EXPECT_THAT(missing.err, AllOf(HasSubstr(nothing),
                                 HasSubstr("folder of a Hugging Face model")));
  const std::string adapter = tests::NewTempDir();
  std::ofstream(adapter + "/adapter_config.json")
      << R"({"peft_type":"LORA","r":2,"lora_alpha":4,)"
      << R"("target_modules":["q_proj"],)"
      << R"("base_model_name_or_path":"/no/such/base"})";
  const tests::CommandResult as_model =
      Run({"eval", "--model", adapter, "--text", "x"});
  EXPECT_THAT(as_model.err,
              AllOf(HasSubstr("holds a PEFT adapter"), HasSubstr("--adapter")));
  const tests::CommandResult merge =
      Run({"merge", "--adapter", adapter, "--out", nothing + "/merged"});
  EXPECT_EQ(merge.exit_code, 2);
  EXPECT_THAT(merge.err,
              AllOf(HasSubstr("'/no/such/base'"),
                    HasSubstr("adapter_config.json"), HasSubstr("--model")));
}

TEST_F(DataCliTest, ALossThatIsNotFiniteNamesTheModel) {
  // bfloat16 NaN; the last tensors are norms.
  const std::string broken = TinyEndingWith(std::string(64, '\xFF'));
  const tests::CommandResult result =
      Run({"eval", "--model", broken, "--data",
           WriteLines({R"({"text":"the tree is green"})"})});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, AllOf(HasSubstr(broken), HasSubstr("not a finite"),
                                HasSubstr("take another")));
}

TEST_F(DataCliTest, WeightsThatAreNoNumbersNameTheirFile) {
  CHOIR_SKIP_WITHOUT_GOLDEN("stories260k");
  const std::string from = base::JoinPath(tests::GoldenDir(), "stories260k");
  const std::string folder = tests::NewTempDir();
  for (const char* name : {"config.json", "tokenizer.json"}) {
    ASSERT_TRUE(base::WriteFileAtomic(
                    base::JoinPath(folder, name),
                    base::ReadFile(base::JoinPath(from, name)).value())
                    .ok());
  }
  std::string bytes =
      base::ReadFile(base::JoinPath(from, "model.safetensors")).value();
  const size_t at = bytes.find("\"F32\"");
  ASSERT_NE(at, std::string::npos);
  bytes.replace(at, 5, "\"I32\"");
  const std::string weights = base::JoinPath(folder, "model.safetensors");
  ASSERT_TRUE(base::WriteFileAtomic(weights, bytes).ok());
  const tests::CommandResult result =
      Run({"generate", "--model", folder, "--prompt", "a"});
  EXPECT_EQ(result.exit_code, 2) << result.err;
  EXPECT_THAT(result.err, AllOf(HasSubstr(weights), HasSubstr("stored as I32"),
                                HasSubstr("F32, BF16 and F16")));
}

}  // namespace
}  // namespace choir
