// Every objective as a job file that choir-sim runs.
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
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

  tests::CommandResult Run(const std::string& data,
                           const std::string& training) {
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
    return tests::RunCommand({Bin("choir-sim"), "run", path, "--out",
                              base::JoinPath(folder_, "out"), "--json"});
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
      base::ReadFile(
          base::JoinPath(folder_, "out/adapter/adapter_config.json"))
          .value();
  EXPECT_EQ(json::parse(config)["modules_to_save"], json::array({"score"}));
  EXPECT_EQ(json::parse(config)["task_type"], "SEQ_CLS");
  // choir-model reads such a folder: the adapter without the head.
  const tests::CommandResult eval = tests::RunCommand(
      {Bin("choir-model"), "generate", "--model", model_, "--adapter",
       base::JoinPath(folder_, "out/adapter"), "--prompt", "the",
       "--max-tokens", "2", "--json"});
  EXPECT_EQ(eval.exit_code, 0) << eval.out << eval.err;
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

}  // namespace
}  // namespace choir
