// choir-model with mixtures of experts: inspect, eval, upcycle, a part of the
// experts.
#include <cstdlib>
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

class MoeCliTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!base::FileExists(Arch("mixtral") + "/config.json")) {
      GTEST_SKIP() << Arch("mixtral") << " is not there";
    }
    expected_ =
        json::parse(base::ReadFile(Arch("mixtral") + "/expected.json").value());
    ids_ = base::JoinPath(tests::NewTempDir(), "ids.json");
    ASSERT_TRUE(base::WriteFileAtomic(ids_, expected_["ids"].dump()).ok());
  }
  static std::string Arch(const std::string& name) {
    return tests::GoldenDir() + "/arch/" + name;
  }
  static tests::CommandResult Run(std::vector<std::string> arguments) {
    const char* bin = std::getenv("CHOIR_BIN_DIR");
    arguments.insert(arguments.begin(),
                     std::string(bin == nullptr ? "." : bin) + "/choir-model");
    arguments.push_back("--json");
    return tests::RunCommand(arguments);
  }
  static json RunJson(std::vector<std::string> arguments) {
    const tests::CommandResult result = Run(std::move(arguments));
    EXPECT_EQ(result.exit_code, 0) << result.err << result.out;
    return json::parse(result.out, nullptr, false);
  }

  json expected_;
  std::string ids_;
};

TEST_F(MoeCliTest, InspectAndEvalKnowExperts) {
  const json shape = RunJson({"inspect", "--model", Arch("mixtral")});
  EXPECT_EQ(shape["family"], "mixtral");
  EXPECT_EQ(shape["experts"], 4);
  EXPECT_EQ(shape["experts_per_token"], 2);
  EXPECT_LT(shape["active_parameters"], shape["parameters"]);
  const json result = RunJson(
      {"eval", "--model", Arch("mixtral"), "--ids", ids_, "--logits", "last"});
  EXPECT_NEAR(result["mean_nll"].get<double>(),
              expected_["mean_nll"].get<double>(), 1e-4);
  EXPECT_NEAR(result["load_balancing_loss"].get<double>(),
              expected_["load_balancing_loss"].get<double>(), 1e-5);
  EXPECT_EQ(result["logits_last"].size(), expected_["ids"].size());
}

TEST_F(MoeCliTest, APartOfTheExpertsAnswersOtherwise) {
  const std::vector<std::string> eval = {"eval",  "--model", Arch("mixtral"),
                                         "--ids", ids_,      "--experts"};
  const auto with = [&](const std::string& experts) {
    std::vector<std::string> arguments = eval;
    arguments.push_back(experts);
    return arguments;
  };
  const json all = RunJson(with("3,2,1,0"));
  EXPECT_NEAR(all["mean_nll"].get<double>(),
              expected_["mean_nll"].get<double>(), 1e-4);
  const json two = RunJson(with("0,2"));
  EXPECT_NE(two["mean_nll"], all["mean_nll"]);
  const tests::CommandResult wrong = Run(with("0,7"));
  EXPECT_EQ(wrong.exit_code, 2);
  EXPECT_THAT(wrong.out, HasSubstr("expert 7 does not exist"));
}

TEST_F(MoeCliTest, PlansNameTheExpertsToHold) {
  const std::vector<std::string> plan = {"plan", "--model", Arch("mixtral"),
                                         "--budget-mib", "100000"};
  EXPECT_EQ(RunJson(plan)["experts"], json({0, 1, 2, 3}));
  const auto with = [&](const std::string& experts) {
    std::vector<std::string> arguments = plan;
    arguments.insert(arguments.end(), {"--experts", experts});
    return arguments;
  };
  EXPECT_EQ(RunJson(with("3,1"))["experts"], json({1, 3}));
  const tests::CommandResult few = Run(with("2"));
  EXPECT_EQ(few.exit_code, 2);
  EXPECT_THAT(few.out, HasSubstr("each token passes 2"));
}

TEST_F(MoeCliTest, AdaptersAreExportedIn16BitsAndReadBackExactly) {
  const std::string given = Arch("mixtral") + "/adapter";
  const auto exported = [&](const std::string& adapter,
                            const std::string& dtype) {
    const std::string out = base::JoinPath(tests::NewTempDir(), dtype);
    RunJson({"export", "--model", Arch("mixtral"), "--adapter", adapter,
             "--dtype", dtype, "--out", out});
    return out;
  };
  const auto loss = [&](const std::string& adapter) {
    return RunJson({"eval", "--model", Arch("mixtral"), "--ids", ids_,
                    "--adapter", adapter})["mean_nll"]
        .get<double>();
  };
  const auto bytes = [](const std::string& adapter) {
    return base::ReadFile(adapter + "/adapter_model.safetensors").value();
  };
  const double before = loss(given);
  for (const char* dtype : {"bf16", "f16"}) {
    const std::string small = exported(given, dtype);
    EXPECT_LT(bytes(small).size(), 0.7 * bytes(given).size());
    EXPECT_NE(loss(small), before);
    EXPECT_NEAR(loss(small), before, 0.01);
    const std::string wide = exported(small, "f32");
    EXPECT_EQ(loss(wide), loss(small));
    EXPECT_EQ(bytes(exported(wide, dtype)), bytes(small));
  }
}

TEST_F(MoeCliTest, UpcyclingKeepsWhatTheModelSays) {
  const std::string out = base::JoinPath(tests::NewTempDir(), "moe");
  const std::vector<std::string> upcycle = {
      "upcycle",   "--model", Arch("llama"),         "--out", out,
      "--experts", "5",       "--experts-per-token", "3"};
  const json made = RunJson(upcycle);
  EXPECT_EQ(made["experts"], 5);
  const json before =
      RunJson({"eval", "--model", Arch("llama"), "--ids", ids_});
  const json after = RunJson({"eval", "--model", out, "--ids", ids_});
  EXPECT_NEAR(before["mean_nll"].get<double>(), after["mean_nll"].get<double>(),
              1e-5);
  EXPECT_EQ(before["load_balancing_loss"], 0.0);
  EXPECT_GT(after["load_balancing_loss"].get<double>(), 2.9);
  EXPECT_EQ(Run(upcycle).exit_code, 2);  // it is there already
}

}  // namespace
}  // namespace choir
