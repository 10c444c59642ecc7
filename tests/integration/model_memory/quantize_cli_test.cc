// choir-model quantize, with the model that the repository ships.
#include <string>
#include <vector>

#include "base/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/golden.h"
#include "tests/support/process.h"

namespace choir::model {
namespace {

tests::CommandResult ChoirModel(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(),
                   base::JoinPath(tests::BinDir(), "choir-model"));
  arguments.push_back("--json");
  return tests::RunCommand(arguments, absl::Seconds(120));
}

double MeanNll(const std::string& folder, const std::string& precision) {
  const tests::CommandResult result =
      ChoirModel({"eval", "--model", folder, "--precision", precision, "--text",
                  base::JoinPath(tests::SourceDir(), "docs/small_devices.md")});
  EXPECT_EQ(result.exit_code, 0) << result.err << result.out;
  return nlohmann::json::parse(result.out)["mean_nll"].get<double>();
}

TEST(QuantizeCliTest, AQuantisedModelIsSmallAndNearlyAsGood) {
  const std::string base =
      base::JoinPath(tests::SourceDir(), "models/choir-tiny");
  const double dense = MeanNll(base, "stored");
  // The checkpoint is bfloat16 already.
  EXPECT_NEAR(MeanNll(base, "bf16"), dense, 1e-5);
  const struct {
    const char* format;
    double worse;  // nats per token
    double error;  // relative, of the weights
  } cases[] = {{"int8", 0.005, 0.01}, {"nf4", 0.1, 0.1}};
  for (const auto& c : cases) {
    const std::string out = base::JoinPath(tests::NewTempDir(), c.format);
    const tests::CommandResult made = ChoirModel(
        {"quantize", "--model", base, "--to", c.format, "--out", out});
    ASSERT_EQ(made.exit_code, 0) << made.err << made.out;
    const nlohmann::json report = nlohmann::json::parse(made.out);
    EXPECT_LT(report["bytes_after"].get<double>(),
              0.7 * report["bytes_before"].get<double>());
    EXPECT_LT(report["relative_error"].get<double>(), c.error);
    const nlohmann::json inspected =
        nlohmann::json::parse(ChoirModel({"inspect", "--model", out}).out);
    EXPECT_EQ(inspected["quantised"], c.format);
    EXPECT_EQ(inspected["parameters"], report["parameters"]);
    const double folder = MeanNll(out, "stored");
    EXPECT_NEAR(folder, dense, c.worse);
    EXPECT_NE(folder, dense);
    // Quantising while loading gives the same model.
    EXPECT_EQ(MeanNll(base, c.format), folder);
    const tests::CommandResult again = ChoirModel(
        {"quantize", "--model", base, "--to", c.format, "--out", out});
    EXPECT_EQ(again.exit_code, 2);
    EXPECT_EQ(nlohmann::json::parse(again.out)["error"]["code"],
              "ALREADY_EXISTS");
    // Nobody reads the weights as something else than they are.
    const std::string config =
        base::ReadFile(base::JoinPath(base, "config.json")).value();
    ASSERT_TRUE(
        base::WriteFileAtomic(base::JoinPath(out, "config.json"), config).ok());
    const tests::CommandResult lost =
        ChoirModel({"eval", "--model", out, "--text",
                    base::JoinPath(tests::SourceDir(), "README.md")});
    EXPECT_EQ(lost.exit_code, 2);
    EXPECT_THAT(lost.out, testing::HasSubstr("config.json does not say so"));
  }
  const tests::CommandResult unknown =
      ChoirModel({"quantize", "--model", base, "--to", "int3", "--out",
                  base::JoinPath(tests::NewTempDir(), "x")});
  EXPECT_EQ(unknown.exit_code, 2);
}

}  // namespace
}  // namespace choir::model
