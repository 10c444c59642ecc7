// Flags of choir-model that make no sense, and files that it must not write.
#include <string>
#include <vector>

#include "base/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/adapter/lora_layout.h"
#include "model/adapter/peft_folder.h"
#include "nlohmann/json.hpp"
#include "tests/support/golden.h"
#include "tests/support/process.h"

namespace choir {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

struct Answer {
  int exit_code = 0;
  json document;
  std::string code() const { return document["error"].value("code", ""); }
  std::string message() const { return document["error"].value("message", ""); }
};

class RefusalsTest : public testing::Test {
 protected:
  static Answer Run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(),
                     base::JoinPath(tests::BinDir(), "choir-model"));
    arguments.push_back("--json");
    const tests::CommandResult result = tests::RunCommand(arguments);
    return {result.exit_code, json::parse(result.out, nullptr, false)};
  }
  // A flag that is refused as a matter of usage, with a message like `what`.
  template <typename Matcher>
  static void Refuses(const std::vector<std::string>& arguments, Matcher what,
                      const std::string& code = "INVALID_ARGUMENT") {
    const Answer answer = Run(arguments);
    EXPECT_EQ(answer.exit_code, 2) << answer.document;
    EXPECT_EQ(answer.code(), code) << answer.document;
    EXPECT_THAT(answer.message(), what);
  }
  // Model and `more` flags.
  static std::vector<std::string> Plan(const std::vector<std::string>& more) {
    std::vector<std::string> plan = {"plan", "--model", Tiny(), "--budget-mib",
                                     "400"};
    plan.insert(plan.end(), more.begin(), more.end());
    return plan;
  }
  static std::string Tiny() {
    return base::JoinPath(tests::SourceDir(), "models/choir-tiny");
  }
  static std::string NewPath(const std::string& name) {
    return base::JoinPath(tests::NewTempDir(), name);
  }
  static std::string Quantised(const std::string& format) {
    const std::string out = NewPath(format);
    const Answer made =
        Run({"quantize", "--model", Tiny(), "--to", format, "--out", out});
    EXPECT_EQ(made.exit_code, 0) << made.document;
    return out;
  }
  // With `value` as the last number of its last B.
  static std::string Adapter(float value = 0.0f) {
    const auto config =
        model::LoadModelConfig(base::JoinPath(Tiny(), "config.json"));
    config::AdapterOptions options;
    options.rank = 2;
    options.target_modules = {"q_proj"};
    const codec::Layout layout = model::AdapterLayout(*config, options).value();
    const std::string folder = NewPath("adapter");
    std::vector<float> values = model::InitialAdapter(layout, 3);
    values.back() = value;
    EXPECT_TRUE(
        model::WritePeftFolder(folder, options, layout, values, Tiny()).ok());
    return folder;
  }
};

TEST_F(RefusalsTest, ThreadsAreCheckedBeforeAnythingComputes) {
  const auto what = AllOf(HasSubstr("--threads is 0"), HasSubstr("1 to 1024"));
  Refuses(Plan({"--threads", "0"}), what);
  Refuses(Plan({"--threads", "0", "--measure"}), what);
  Refuses({"eval", "--model", Tiny(), "--text", Tiny() + "/README.md",
           "--threads", "0"},
          what);
  Refuses({"pretrain", "--corpus", "x", "--out", "y", "--threads", "0"}, what);
  Refuses(Plan({"--threads", "1025", "--measure"}), HasSubstr("1025"));
}

TEST_F(RefusalsTest, PlansAreWithinTheModelsContextAndSayIt) {
  const Answer plan = Run(Plan({"--max-sequence-length", "100000"}));
  ASSERT_EQ(plan.exit_code, 0) << plan.document;
  EXPECT_EQ(plan.document["max_sequence_length"], 256);
  ASSERT_EQ(plan.document["changes"].size(), 1u) << plan.document;
  EXPECT_EQ(plan.document["changes"][0],
            "max_sequence_length 256 (the model's context) instead of 100000");
  EXPECT_EQ(Run(Plan({"--max-sequence-length", "256"})).document["changes"],
            json::array());
}

TEST_F(RefusalsTest, NumbersBelowZeroAreRefused) {
  Refuses(Plan({"--longest", "-5"}), HasSubstr("--longest is -5"));
  EXPECT_EQ(Run(Plan({"--longest", "0"})).exit_code, 0);
  for (const char* seed : {"-1", "1.5", "18446744073709551616"}) {
    Refuses({"generate", "--model", Tiny(), "--prompt", "a", "--seed", seed},
            AllOf(HasSubstr("--seed"), HasSubstr(seed)));
  }
  Refuses({"upcycle", "--model", Tiny(), "--out", NewPath("x"), "--seed", "-1"},
          HasSubstr("--seed"));
  Refuses({"pretrain", "--corpus", "x", "--out", "y", "--seed", "-1"},
          HasSubstr("--seed"));
  EXPECT_EQ(Run({"generate", "--model", Tiny(), "--prompt", "a", "--max-tokens",
                 "1", "--seed", "18446744073709551615"})
                .exit_code,
            0);
}

TEST_F(RefusalsTest, AQuantisedFolderHasItsPrecisionAndIsNoBaseToMergeInto) {
  const std::string nf4 = Quantised("nf4");
  const std::vector<std::string> plan = {
      "plan", "--model", nf4, "--budget-mib", "400", "--precision"};
  const auto with = [&](const std::string& precision) {
    std::vector<std::string> all = plan;
    all.push_back(precision);
    return all;
  };
  Refuses(with("fp32"), AllOf(HasSubstr(nf4), HasSubstr("stored in nf4"),
                              HasSubstr("fp32"), HasSubstr("leave")));
  EXPECT_EQ(Run(with("nf4")).document["precision"], "nf4");
  EXPECT_EQ(Run(with("stored")).document["precision"], "nf4");
  const auto what = AllOf(HasSubstr(nf4), HasSubstr("quantised to nf4"),
                          HasSubstr("the checkpoint that was not quantised"));
  Refuses({"merge", "--model", nf4, "--adapter", Adapter(), "--out",
           NewPath("merged")},
          what);
  Refuses({"upcycle", "--model", nf4, "--out", NewPath("moe")}, what);
}

TEST_F(RefusalsTest, QuantizeOffersWhatItTakes) {
  const auto quantize = [&](const std::string& to,
                            const std::vector<std::string>& more) {
    std::vector<std::string> all = {"quantize", "--model", Tiny(),      "--to",
                                    to,         "--out",   NewPath("q")};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  for (const char* to : {"int4", "fp32", "bf16", ""}) {
    Refuses(quantize(to, {}),
            AllOf(HasSubstr("--to"), HasSubstr("one of int8, nf4"),
                  Not(HasSubstr("one of fp32"))));
  }
  for (const char* rms : {"nan", "inf", "-1"}) {
    Refuses(quantize("int8", {"--outlier-rms", rms}),
            AllOf(HasSubstr("--outlier-rms"), HasSubstr("from 0")));
  }
  Refuses(quantize("nf4", {"--outlier-rms", "6"}),
          AllOf(HasSubstr("--outlier-rms"), HasSubstr("int8")));
  const Answer none = Run(quantize("int8", {"--outlier-rms", "0"}));
  EXPECT_EQ(none.document["outlier_columns"], 0) << none.document;
}

TEST_F(RefusalsTest, ModelsAreWrittenIntoNewFoldersOnly) {
  const std::string adapter = Adapter();
  const std::string taken = Adapter();
  const auto what = AllOf(HasSubstr(taken), HasSubstr("adapter_config.json"),
                          HasSubstr("name a new folder"));
  const std::vector<std::vector<std::string>> writers = {
      {"merge", "--model", Tiny(), "--adapter", adapter},
      {"export", "--model", Tiny(), "--adapter", adapter},
      {"quantize", "--model", Tiny(), "--to", "nf4"},
      {"upcycle", "--model", Tiny()},
      {"pretrain", "--corpus", Tiny() + "/README.md"}};
  for (std::vector<std::string> writer : writers) {
    writer.insert(writer.end(), {"--out", taken});
    Refuses(writer, what, "ALREADY_EXISTS");
  }
  EXPECT_EQ(base::ListDirectory(taken).value().size(), 2u);
}

TEST_F(RefusalsTest, NumbersThatTheDtypeLacksAreRefused) {
  const std::string adapter = Adapter(1e6f);
  const auto what = AllOf(HasSubstr("tensor '"), HasSubstr("too large for F16"),
                          HasSubstr("float32"));
  for (std::vector<std::string> writer : {std::vector<std::string>{"merge"},
                                          {"export"},
                                          {"export", "--to", "gguf"}}) {
    const std::string out = NewPath("out");
    writer.insert(writer.end(), {"--model", Tiny(), "--adapter", adapter,
                                 "--dtype", "f16", "--out", out});
    Refuses(writer, what);
    EXPECT_FALSE(base::FileExists(out)) << writer[0];
  }
}

TEST_F(RefusalsTest, ExportNeverWritesOverWhatIsThere) {
  const std::string adapter = Adapter();
  const auto bytes = [&] {
    return base::ReadFile(adapter + "/adapter_config.json").value() +
           base::ReadFile(adapter + "/adapter_model.safetensors").value();
  };
  const std::string before = bytes();
  const auto to = [&](const std::string& format, const std::string& out) {
    return std::vector<std::string>{"export", "--model", Tiny(),
                                    "--to",   format,    "--adapter",
                                    adapter,  "--out",   out};
  };
  for (const std::string& input : {adapter, adapter + "/.", Tiny()}) {
    Refuses(to("peft", input),
            AllOf(HasSubstr(input), HasSubstr("name a new folder")),
            "ALREADY_EXISTS");
    Refuses(to("gguf", input), HasSubstr("name a new file"), "ALREADY_EXISTS");
  }
  EXPECT_EQ(bytes(), before);

  const std::string gguf = NewPath("a.gguf");
  EXPECT_EQ(Run(to("gguf", gguf)).exit_code, 0);
  const std::string written = base::ReadFile(gguf).value();
  Refuses(to("gguf", gguf),
          AllOf(HasSubstr(gguf), HasSubstr("name a new file")),
          "ALREADY_EXISTS");
  Refuses(to("gguf", tests::NewTempDir()), HasSubstr("name a new file"),
          "ALREADY_EXISTS");
  Refuses(to("peft", gguf), HasSubstr("name a new folder"), "ALREADY_EXISTS");
  EXPECT_EQ(base::ReadFile(gguf).value(), written);
  // An empty folder is fine.
  EXPECT_EQ(Run(to("peft", tests::NewTempDir())).exit_code, 0);
}

}  // namespace
}  // namespace choir
