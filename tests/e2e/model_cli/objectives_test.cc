// Every objective as a job file that choir-sim runs.
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/checkpoint/model_config.h"
#include "model/checkpoint/safetensors.h"
#include "nlohmann/json.hpp"
#include "tests/support/process.h"
#include "tests/unit/model/tiny_model.h"

namespace choir {
namespace {

using nlohmann::json;
using testing::HasSubstr;

class ObjectivesTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    model_ = tests::WriteTinyModel(tests::TinyConfig());
  }

  void SetUp() override { folder_ = tests::NewTempDir(); }

  static std::string Bin(const std::string& name) {
    const char* bin = std::getenv("CHOIR_BIN_DIR");
    return absl::StrCat(bin == nullptr ? "." : bin, "/", name);
  }

  // 40 lines: words of fruit and words of tools.
  std::string WriteData(const std::string& kind) {
    const std::string path = base::JoinPath(folder_, "data.jsonl");
    std::ofstream file(path);
    for (int i = 0; i < 40; ++i) {
      const bool fruit = i % 2 == 0;
      const std::string number = absl::StrCat(i);
      const json line =
          kind == "dpo"
              ? json{{"prompt", "number " + number + " is"},
                     {"chosen", "a tree"},
                     {"rejected", "xx q"}}
              : json{{"text", (fruit ? "the apple " : "xq zz ") + number},
                     {"label", fruit ? "fruit" : "tool"}};
      file << line.dump() << "\n";
    }
    return path;
  }

  tests::CommandResult Run(const std::string& data, const std::string& training,
                           const std::string& set = "") {
    const std::string path = base::JoinPath(folder_, "experiment.toml");
    std::ofstream(path) << "[job]\nname = \"tiny\"\n[job.model]\nbase = \""
                        << model_ << "\"\n[job.adapter]\nrank = 2\n"
                        << "[job.rounds]\ncount = 6\ncohort_size = 4\n"
                        << "[job.training]\nlocal_steps = 6\nbatch_size = 4\n"
                        << "max_sequence_length = 32\nlearning_rate = 0.02\n"
                        << training << "\n[clients]\ncount = 4\n"
                        << "[clients.data]\npath = \"" << data
                        << "\"\nholdout = 0.2\n[simulation.device]\n"
                        << "kind = \"cpu\"\n";
    std::vector<std::string> command = {
        Bin("choir-sim"), "run", path, "--out", base::JoinPath(folder_, "out"),
        "--json"};
    if (!set.empty()) command.insert(command.end(), {"--set", set});
    return tests::RunCommand(command);
  }

  json LastMetrics() const {
    std::ifstream file(base::JoinPath(folder_, "out/metrics.jsonl"));
    std::string line, last;
    while (std::getline(file, line)) last = line;
    return json::parse(last);
  }

  // What choir-audit says of the last round.
  json LastAuditedRound() const {
    const tests::CommandResult run =
        tests::RunCommand({Bin("choir-audit"), "rounds",
                           base::JoinPath(folder_, "out/store"), "--json"});
    EXPECT_EQ(run.exit_code, 0) << run.out << run.err;
    return json::parse(run.out)["rounds"].back();
  }

  // The model as a ...ForSequenceClassification whose head is zero.
  std::string WriteClassifier() const {
    const std::string folder = tests::NewTempDir();
    const std::vector<std::string> names = base::ListDirectory(model_).value();
    for (const std::string& name : names) {
      if (name == "config.json" || name == "model.safetensors") continue;
      EXPECT_TRUE(base::WriteFileAtomic(
                      base::JoinPath(folder, name),
                      base::ReadFile(base::JoinPath(model_, name)).value())
                      .ok());
    }
    model::ModelConfig config = tests::TinyConfig();
    config.num_labels = 2;
    config.labels = {"fruit", "tool"};
    EXPECT_TRUE(base::WriteFileAtomic(base::JoinPath(folder, "config.json"),
                                      model::ModelConfigJson(config))
                    .ok());
    const auto file = model::SafetensorsFile::Open(
        base::JoinPath(model_, "model.safetensors"));
    std::vector<model::TensorView> tensors;
    for (const model::TensorView& tensor : file->tensors()) {
      if (tensor.name != "lm_head.weight") tensors.push_back(tensor);
    }
    const std::string zeros(8 * config.hidden_size, '\0');
    model::TensorView score;
    score.name = "score.weight";
    score.shape = {2, config.hidden_size};
    score.bytes = zeros;
    tensors.push_back(score);
    EXPECT_TRUE(
        base::WriteFileAtomic(base::JoinPath(folder, "model.safetensors"),
                              model::EncodeSafetensors(std::move(tensors)))
            .ok());
    return folder;
  }

  static std::string model_;
  std::string folder_;
};

std::string ObjectivesTest::model_;

TEST_F(ObjectivesTest, DpoBeginsAtLog2AndLearnsThePreference) {
  const tests::CommandResult run = Run(
      WriteData("dpo"), "objective = \"dpo\"\n[job.training.dpo]\nbeta = 0.5");
  ASSERT_EQ(run.exit_code, 0) << run.out << run.err;
  const json result = json::parse(run.out);
  EXPECT_NEAR(result["heldout_loss_before"].get<double>(), std::log(2.0), 1e-6);
  EXPECT_LT(result["heldout_loss"].get<double>(), 0.4);
}

TEST_F(ObjectivesTest, ClassificationLearnsAndStoresItsHead) {
  const tests::CommandResult run =
      Run(WriteData("classification"),
          "objective = \"classification\"\nlabels = [\"fruit\", \"tool\"]");
  ASSERT_EQ(run.exit_code, 0) << run.out << run.err;
  const json result = json::parse(run.out);
  EXPECT_NEAR(result["heldout_loss_before"].get<double>(), std::log(2.0), 1e-6);
  EXPECT_LT(result["heldout_loss"].get<double>(), 0.4);
  const std::string config =
      base::ReadFile(base::JoinPath(folder_, "out/adapter/adapter_config.json"))
          .value();
  EXPECT_EQ(json::parse(config)["modules_to_save"], json::array({"score"}));
  EXPECT_EQ(json::parse(config)["task_type"], "SEQ_CLS");
  // Four of five held-out labels are right by then, and everyone says so.
  EXPECT_GE(result["heldout_accuracy"].get<double>(), 0.8);
  EXPECT_LT(result["heldout_accuracy_before"].get<double>(), 0.8);
  const json last = LastMetrics();
  EXPECT_EQ(last["heldout_accuracy"], result["heldout_accuracy"]);
  EXPECT_EQ(LastAuditedRound()["heldout_accuracy"], result["heldout_accuracy"]);
  // choir-model reads such a folder: the adapter without the head.
  const tests::CommandResult eval =
      tests::RunCommand({Bin("choir-model"), "generate", "--model", model_,
                         "--adapter", base::JoinPath(folder_, "out/adapter"),
                         "--prompt", "the", "--max-tokens", "2", "--json"});
  EXPECT_EQ(eval.exit_code, 0) << eval.out << eval.err;
}

TEST_F(ObjectivesTest, EvalSaysHowOftenAClassifierIsRight) {
  const std::string data = WriteData("classification");
  ASSERT_EQ(Run(data,
                "objective = \"classification\"\n"
                "labels = [\"fruit\", \"tool\"]")
                .exit_code,
            0);
  const std::string adapter = base::JoinPath(folder_, "out/adapter");
  const auto eval = [&](const std::string& model,
                        const std::vector<std::string>& more) {
    std::vector<std::string> command = {
        Bin("choir-model"), "eval", "--model", model, "--data", data, "--json"};
    command.insert(command.end(), more.begin(), more.end());
    return tests::RunCommand(command);
  };
  const tests::CommandResult run =
      eval(model_, {"--adapter", adapter, "--labels", "fruit,tool",
                    "--domain-field", "label"});
  ASSERT_EQ(run.exit_code, 0) << run.out << run.err;
  const json result = json::parse(run.out);
  EXPECT_EQ(result["examples"], 40);
  EXPECT_GE(result["accuracy"].get<double>(), 0.8);
  EXPECT_GE(result["macro_f1"].get<double>(), 0.7);
  EXPECT_LT(result["mean_nll"].get<double>(), 0.5);
  EXPECT_EQ(result["labels"][1]["label"], "tool");
  EXPECT_EQ(result["labels"][1]["examples"], 20);
  ASSERT_EQ(result["domains"].size(), 2u);
  EXPECT_EQ(result["domains"][0]["domain"], "fruit");
  EXPECT_EQ(result["domains"][0]["examples"], 20);

  const tests::CommandResult unnamed = eval(model_, {"--adapter", adapter});
  EXPECT_EQ(unnamed.exit_code, 2);
  EXPECT_THAT(unnamed.out, HasSubstr("--labels"));
  const tests::CommandResult three =
      eval(model_, {"--adapter", adapter, "--labels", "a,b,c"});
  EXPECT_THAT(three.out, HasSubstr("has 2 outputs"));
  EXPECT_THAT(eval(model_, {"--labels", "a,b"}).out,
              HasSubstr("neither model nor adapter"));

  // A checkpoint with a head of its own: zeros choose the first label.
  const std::string classifier = WriteClassifier();
  const tests::CommandResult alone = eval(classifier, {});
  ASSERT_EQ(alone.exit_code, 0) << alone.out << alone.err;
  const json zeros = json::parse(alone.out);
  EXPECT_NEAR(zeros["mean_nll"].get<double>(), std::log(2.0), 1e-6);
  EXPECT_EQ(zeros["accuracy"], 0.5);
  EXPECT_NEAR(zeros["macro_f1"].get<double>(), 1.0 / 3.0, 1e-9);
  const tests::CommandResult both =
      eval(classifier, {"--adapter", adapter, "--domain-field", "label"});
  ASSERT_EQ(both.exit_code, 0) << both.out << both.err;
  EXPECT_NEAR(json::parse(both.out)["mean_nll"].get<double>(),
              result["mean_nll"].get<double>(), 1e-9);
  // Merged, the classifier says by itself what both said together.
  const std::string merged = base::JoinPath(folder_, "merged");
  const tests::CommandResult merge =
      tests::RunCommand({Bin("choir-model"), "merge", "--model", classifier,
                         "--adapter", adapter, "--out", merged, "--json"});
  ASSERT_EQ(merge.exit_code, 0) << merge.out << merge.err;
  EXPECT_NEAR(json::parse(eval(merged, {}).out)["mean_nll"].get<double>(),
              result["mean_nll"].get<double>(), 1e-5);
  const tests::CommandResult text =
      tests::RunCommand({Bin("choir-model"), "generate", "--model", classifier,
                         "--prompt", "x", "--json"});
  EXPECT_EQ(text.exit_code, 2);
  EXPECT_THAT(text.out, HasSubstr("is a classifier"));
}

TEST_F(ObjectivesTest, SparsityAndBlockwiseAttentionTrainATextModel) {
  const tests::CommandResult run =
      Run(WriteData("classification"),
          "objective = \"causal_lm\"\nattention = \"blockwise\"\n"
          "[job.training.sparsity]\nmax_rate = 0.5");
  ASSERT_EQ(run.exit_code, 0) << run.out << run.err;
  const json result = json::parse(run.out);
  EXPECT_LT(result["heldout_loss"].get<double>(),
            result["heldout_loss_before"].get<double>() - 0.5);
  EXPECT_FALSE(result.contains("heldout_accuracy"));
  // Of so few channels measuring takes what leaving out saves; all say how
  // much is left.
  const double saved = result["flops_saved"].get<double>();
  EXPECT_NE(saved, 0.0);
  EXPECT_LT(std::fabs(saved), 0.25);
  EXPECT_EQ(LastAuditedRound()["flops_saved"], LastMetrics()["flops_saved"]);
}

TEST_F(ObjectivesTest, TrainingThatTheBaseCannotTakeIsRefusedBeforeARound) {
  const std::string data = WriteData("classification");
  const auto refusal = [&](const std::string& training,
                           const std::string& set) {
    const tests::CommandResult run =
        Run(data, "objective = \"causal_lm\"\n" + training, set);
    EXPECT_EQ(run.exit_code, 2) << run.out;
    EXPECT_FALSE(base::FileExists(base::JoinPath(folder_, "out")));
    return json::parse(run.out)["error"]["message"].get<std::string>();
  };
  const std::string sparsity = "[job.training.sparsity]\nmax_rate = 0.5";
  EXPECT_THAT(refusal("[job.training.router]\naux_loss = 0.5", ""),
              HasSubstr("training.router.aux_loss is 0.5"));
  EXPECT_THAT(refusal(sparsity, "job.adapter.kind=dora"),
              HasSubstr("adapter.kind is \"dora\""));
  EXPECT_THAT(refusal(sparsity, "simulation.device.precision=nf4"),
              HasSubstr("packed"));
}

TEST_F(ObjectivesTest, DataThatTheObjectiveCannotUseIsRefusedBeforeARound) {
  const tests::CommandResult run =
      Run(WriteData("classification"), "objective = \"dpo\"");
  EXPECT_EQ(run.exit_code, 2) << run.out;
  EXPECT_THAT(run.out, HasSubstr("\\\"dpo\\\""));
  EXPECT_THAT(run.out, HasSubstr("chosen"));
  const tests::CommandResult label =
      Run(WriteData("classification"),
          "objective = \"classification\"\nlabels = [\"fruit\", \"other\"]");
  EXPECT_EQ(label.exit_code, 2) << label.out;
  EXPECT_THAT(label.out, HasSubstr("training.labels"));
}

TEST_F(ObjectivesTest, AJobWithoutTargetsAdaptsWhatItsFamilyHas) {
  const char* const gpt2 = R"({"architectures":["GPT2LMHeadModel"],
      "model_type":"gpt2","vocab_size":300,"n_embd":24,"n_layer":2,"n_head":4,
      "n_positions":64,"activation_function":"gelu_new"})";
  const std::string before = model_;
  model_ =
      tests::WriteTinyModel(model::ParseModelConfig(gpt2, "gpt2").value(), 0.2);
  const tests::CommandResult run =
      Run(WriteData("classification"), "objective = \"causal_lm\"");
  model_ = before;
  ASSERT_EQ(run.exit_code, 0) << run.out << run.err;
  const json adapter = json::parse(
      base::ReadFile(base::JoinPath(folder_, "out/adapter/adapter_config.json"))
          .value());
  EXPECT_EQ(adapter["target_modules"], json({"c_attn", "c_fc", "c_proj"}));
  EXPECT_EQ(adapter["fan_in_fan_out"], true);
  // The journal names them, too.
  const tests::CommandResult audit =
      tests::RunCommand({Bin("choir-audit"), "show",
                         base::JoinPath(folder_, "out/store"), "--json"});
  ASSERT_EQ(audit.exit_code, 0) << audit.out;
  EXPECT_THAT(audit.out, HasSubstr("\"target_modules\":[\"c_attn\",\"c_fc\""));
}

}  // namespace
}  // namespace choir
