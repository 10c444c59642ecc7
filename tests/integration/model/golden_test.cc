// Models, an adapter and a training run of another implementation (Hugging Face
// transformers and PEFT), reproduced.
#include "tests/support/golden.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "gtest/gtest.h"
#include "model/adapter/peft_folder.h"
#include "model/generate.h"
#include "model/loaded_model.h"
#include "model/objective/packing.h"
#include "nlohmann/json.hpp"

namespace choir::model {
namespace {

nlohmann::json ReadJson(const std::string& path) {
  auto text = base::ReadFile(path);
  EXPECT_TRUE(text.ok()) << text.status();
  return nlohmann::json::parse(*text);
}

void ExpectNear(const at::Tensor& row, const nlohmann::json& expected,
                double tolerance) {
  const at::Tensor flat = row.reshape({-1}).contiguous();
  ASSERT_EQ(static_cast<size_t>(flat.numel()), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(flat.data_ptr<float>()[i], expected[i].get<double>(), tolerance)
        << "logit " << i;
  }
}

double MeanLoss(const Decoder& decoder, const LoraBank* lora,
                const nlohmann::json& rows) {
  std::vector<Example> examples;
  for (const auto& row : rows) {
    examples.push_back({row.get<std::vector<int32_t>>(), 1});
  }
  std::vector<const Example*> pointers;
  for (const Example& example : examples) pointers.push_back(&example);
  const PackedBatch batch = PackExamples(pointers, 1 << 20, at::kCPU);
  ForwardOptions options;
  options.lora = lora;
  return decoder.Loss(batch, options, 1.0).item<double>() /
         static_cast<double>(batch.predictions);
}

TEST(StoriesGoldenTest, TokensLogitsLossAndGreedyText) {
  CHOIR_SKIP_WITHOUT_GOLDEN("stories260k");
  const std::string folder = base::JoinPath(tests::GoldenDir(), "stories260k");
  const auto model = LoadedModel::LoadFolder(folder, DeviceKind::kCpu, true);
  ASSERT_TRUE(model.ok()) << model.status();
  const Decoder& decoder = (*model)->decoder();
  const Tokenizer& tokenizer = (*model)->tokenizer();
  const nlohmann::json expected =
      ReadJson(base::JoinPath(folder, "expected.json"));
  for (const auto& prompt : expected["prompts"]) {
    const auto ids = prompt["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer.Encode(prompt["text"].get<std::string>(), true), ids);
    const at::Tensor logits = decoder.Logits(PackWhole(ids, at::kCPU), {});
    ExpectNear(logits[-1], prompt["last_logits"], 1e-4);
  }
  for (const auto& greedy : expected["greedy"]) {
    const auto ids = greedy["ids"].get<std::vector<int32_t>>();
    std::vector<int32_t> prompt(
        ids.begin(), ids.begin() + greedy["prompt_tokens"].get<int>());
    GenerateOptions options;
    options.max_tokens = static_cast<int>(ids.size() - prompt.size());
    const auto made = Generate(decoder, nullptr, prompt, options);
    ASSERT_TRUE(made.ok()) << made.status();
    EXPECT_EQ(*made, ids);
  }
  for (const auto& text : expected["mean_loss"]) {
    EXPECT_NEAR(
        MeanLoss(decoder, nullptr, nlohmann::json::array({text["ids"]})),
        text["mean_nll_nats_per_token"].get<double>(), 1e-4);
  }
}

struct Output {
  int code = -1;
  std::string text;
};

// Runs choir-model; `input` becomes its stdin.
Output RunModel(const std::string& arguments, const std::string& input = "") {
  const std::string file = base::JoinPath(tests::NewTempDir(), "in");
  EXPECT_TRUE(base::WriteFileAtomic(file, input).ok());
  const std::string command =
      absl::StrCat(tests::BinDir(), "/choir-model ", arguments, " < ", file,
                   " 2> /dev/null");
  Output output;
  FILE* pipe = popen(command.c_str(), "r");
  char buffer[4096];
  while (const size_t n = fread(buffer, 1, sizeof(buffer), pipe)) {
    output.text.append(buffer, n);
  }
  output.code = WEXITSTATUS(pclose(pipe));
  return output;
}

TEST(ChoirModelTest, DocumentsHaveTheirPromisedShape) {
  CHOIR_SKIP_WITHOUT_GOLDEN("stories260k");
  const std::string folder = base::JoinPath(tests::GoldenDir(), "stories260k");
  const std::string model = absl::StrCat(" --json --model ", folder);
  const nlohmann::json expected =
      ReadJson(base::JoinPath(folder, "expected.json"));
  const auto& prompt = expected["prompts"][0];
  const std::string text = prompt["text"];
  auto json = nlohmann::json::parse(RunModel("tokenize" + model, text).text);
  EXPECT_EQ(json["ids"], prompt["ids"]);
  json = nlohmann::json::parse(
      RunModel("tokenize --decode" + model, prompt["ids"].dump()).text);
  EXPECT_EQ(json["text"], text);
  json = nlohmann::json::parse(
      RunModel("tokenize --decode" + model,
               nlohmann::json{{"ids", prompt["ids"]}}.dump() + "\n")
          .text);
  EXPECT_EQ(json["text"], text);
  json = nlohmann::json::parse(
      RunModel("tokenize --no-special" + model, text).text);
  EXPECT_EQ(json["ids"].size() + 1, prompt["ids"].size());

  const std::string ids = base::JoinPath(tests::NewTempDir(), "ids.json");
  ASSERT_TRUE(
      base::WriteFileAtomic(ids, nlohmann::json::array({prompt["ids"]}).dump())
          .ok());
  json = nlohmann::json::parse(
      RunModel("eval --logits last --ids " + ids + model).text);
  EXPECT_EQ(json["tokens"], prompt["ids"].size() - 1);
  EXPECT_EQ(json["logits_last"][0].size(), 512u);
  EXPECT_TRUE(json["mean_nll"].is_number());

  json = nlohmann::json::parse(
      RunModel("generate --prompt 'Once upon a time' --max-tokens 20 "
               "--temperature 0" +
               model)
          .text);
  const auto& greedy = expected["greedy"][0]["ids"];
  EXPECT_TRUE(
      std::equal(json["ids"].begin(), json["ids"].end(), greedy.begin()));
  EXPECT_GT(json["tokens_per_second"].get<double>(), 0.0);

  json = nlohmann::json::parse(RunModel("inspect" + model).text);
  EXPECT_EQ(json["family"], "llama");
  EXPECT_EQ(json["parameters"], 260032);
  EXPECT_EQ(json["layers"], 5);
  EXPECT_EQ(json["experts"], 0);
}

TEST(ChoirModelTest, MistakesGiveOneErrorAndTheirExitCode) {
  const auto error = [](const std::string& arguments, int code) {
    const Output output = RunModel(arguments + " --json", "x");
    EXPECT_EQ(output.code, code) << arguments << output.text;
    const auto json = nlohmann::json::parse(output.text, nullptr, false);
    EXPECT_TRUE(json.is_object() && json.contains("error")) << output.text;
  };
  error("tokenize", 2);
  error("nonsense", 2);
  error("inspect --model /nonexistent", 1);
  error("tokenize --model /nonexistent", 1);
  error("generate --model /nonexistent --prompt a --max-tokens many", 2);
  error("pretrain --corpus /nonexistent --out /tmp/none --tokens 1 --heads 5",
        2);
  EXPECT_EQ(RunModel("--help").code, 0);
  EXPECT_EQ(RunModel("--version").code, 0);
}

TEST(ChoirModelTest, PretrainingIsReproducibleAndResumes) {
  const std::string folder = tests::NewTempDir();
  const std::string corpus = base::JoinPath(folder, "corpus.txt");
  std::string text;
  for (int i = 0; i < 400; ++i) {
    absl::StrAppend(&text, "number ", i, " follows number ", i - 1,
                    " and comes before number ", i + 1, "\n\n");
  }
  ASSERT_TRUE(base::WriteFileAtomic(corpus, text).ok());
  const auto run = [&](const std::string& name, int tokens,
                       const std::string& more) {
    const Output output = RunModel(absl::StrCat(
        "pretrain --json --corpus ", corpus, " --out ", folder, "/", name,
        " --vocab-size 300 --hidden 16 --layers 1 --heads 2 --kv-heads 1"
        " --intermediate 32 --context 32 --batch 8 --holdout 0.1 --tokens ",
        tokens, " ", more));
    EXPECT_EQ(output.code, 0) << output.text;
    return nlohmann::json::parse(output.text, nullptr, false);
  };
  const auto one = run("one", 20000, "");
  const auto two = run("two", 20000, "");
  EXPECT_LT(one["heldout_loss"].get<double>(), 5.0);
  const auto weights = [&](const std::string& name) {
    return base::ReadFile(folder + "/" + name + "/model.safetensors").value();
  };
  EXPECT_EQ(weights("one"), weights("two"));
  const Output again = RunModel(
      absl::StrCat("pretrain --json --corpus ", corpus, " --out ", folder,
                   "/one --hidden 16 --heads 2 --kv-heads 1 --tokens 9"));
  EXPECT_EQ(again.code, 2) << again.text;
  EXPECT_EQ(weights("one"), weights("two"));
  const auto resumed = run("one", 40000, "--resume");
  EXPECT_GE(resumed["tokens"].get<int64_t>(), 40000);
  EXPECT_LT(resumed["heldout_loss"].get<double>(),
            one["heldout_loss"].get<double>());
  const Output inspected =
      RunModel("inspect --json --model " + folder + "/one");
  EXPECT_EQ(inspected.code, 0) << inspected.text;
}

}  // namespace
}  // namespace choir::model
