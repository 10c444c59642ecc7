#include "proto/config/toml_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "choir/v1/config.pb.h"
#include "google/protobuf/util/message_differencer.h"

namespace choir::config {
namespace {

using ::testing::HasSubstr;

absl::Status Parse(absl::string_view text, v1::ExperimentConfig* config,
                   const std::vector<std::string>& overrides = {}) {
  return ParseToml(text, "test.toml", overrides, config);
}

TEST(ParseTomlTest, FillsEveryKindOfField) {
  v1::ExperimentConfig config;
  ASSERT_TRUE(Parse(R"(
[job]
name = "demo"
seed = 7
[job.adapter]
target_modules = ["q_proj", "v_proj"]
rank_stabilized = true
alpha = 16
[clients.data.where]
topic = "noun.food"
)",
                    &config)
                  .ok());
  EXPECT_EQ(config.job().name(), "demo");
  EXPECT_EQ(config.job().seed(), 7u);
  EXPECT_EQ(config.job().adapter().target_modules_size(), 2);
  EXPECT_TRUE(config.job().adapter().rank_stabilized());
  EXPECT_EQ(config.job().adapter().alpha(), 16.0);
  EXPECT_EQ(config.clients().data().where().at("topic"), "noun.food");
}

TEST(ParseTomlTest, AnUnknownFieldIsNamedWithItsPathAndTheNearestName) {
  v1::ExperimentConfig config;
  const absl::Status status = Parse("[job.rounds]\ncohortsize = 3\n", &config);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("'job.rounds.cohortsize'; did you mean 'cohort_size'"));
}

TEST(ParseTomlTest, AWrongTypeIsNamedWithPathAndValue) {
  for (const char* text :
       {"[job]\nseed = \"x\"", "[job]\nseed = -1", "[job]\nseed = 1.5",
        "[job]\nname = 3", "job = 3", "[job.adapter]\ntarget_modules = \"q\"",
        "[job.adapter]\nrank = 4294967296", "[job.adapter]\nalpha = \"x\"",
        "[job.adapter]\nrank_stabilized = 1"}) {
    v1::ExperimentConfig config;
    const absl::Status status = Parse(text, &config);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr("'job")) << text;
  }
}

TEST(ParseTomlTest, BrokenTomlIsNamedWithItsLine) {
  v1::ExperimentConfig config;
  const absl::Status status = Parse("[job]\nname = \n", &config);
  EXPECT_THAT(std::string(status.message()), HasSubstr("test.toml line"));
}

TEST(ParseTomlTest, OverridesComeLastAndMayMakeTables) {
  v1::ExperimentConfig config;
  ASSERT_TRUE(Parse("[job]\nseed = 1\n", &config,
                    {"job.seed=2", "job.name=demo", "job.rounds.count=5",
                     "job.adapter.target_modules=[\"q_proj\"]"})
                  .ok());
  EXPECT_EQ(config.job().seed(), 2u);
  EXPECT_EQ(config.job().name(), "demo");
  EXPECT_EQ(config.job().rounds().count(), 5u);
  EXPECT_EQ(config.job().adapter().target_modules(0), "q_proj");
}

TEST(ParseTomlTest, TakesAnyCharacterInDoubleQuotesAndComments) {
  v1::ExperimentConfig config;
  ASSERT_TRUE(Parse("# é\n[job]\nname = \"naïve \xF0\x9F\x8E\xB6 '\"\n",
                    &config, {"job.model.base=größe"})
                  .ok());
  EXPECT_EQ(config.job().name(), "naïve \xF0\x9F\x8E\xB6 '");
  EXPECT_EQ(config.job().model().base(), "größe");
}

TEST(ParseTomlTest, TakesFilesOfWindowsEditors) {
  v1::ExperimentConfig config;
  ASSERT_TRUE(Parse("\xEF\xBB\xBF[job]\r\nname = \"demo\"\r\n", &config).ok());
  EXPECT_EQ(config.job().name(), "demo");
}

TEST(ParseTomlTest, RefusesOtherCharactersElsewhereAndWhatIsNotUtf8) {
  for (const char* text :
       {"\xCD\x89"
        "3",
        "[jöb]", "name = 'é'", "name = \"\\é\"", "name = \"\xFF\"",
        "name = \"\xC0\x80\"", "# \xED\xA0\x80", "name = \"a\nö\""}) {
    v1::ExperimentConfig config;
    const absl::Status status = Parse(text, &config);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr("line")) << text;
  }
}

TEST(ParseTomlTest, RefusesBrokenOverrides) {
  for (const char* text : {"job.seed", "=3", "job.seed.x=1", "job.=1"}) {
    v1::ExperimentConfig config;
    EXPECT_FALSE(Parse("[job]\nseed = 1\n", &config, {text}).ok()) << text;
  }
}

TEST(ToTomlTest, IsReadBackTheSame) {
  v1::ExperimentConfig config;
  ASSERT_TRUE(Parse("[job]\nname = \"a\\\"b\\n\"\nseed = 3\n"
                    "[job.training]\nlearning_rate = 0.1\nepsilon = 1e-8\n"
                    "[job.adapter]\ntarget_modules = [\"q\", \"v\"]\n"
                    "[clients.data.where]\n\"odd key\" = \"v\"\n",
                    &config)
                  .ok());
  v1::ExperimentConfig again;
  ASSERT_TRUE(Parse(ToToml(config), &again).ok()) << ToToml(config);
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(config, again))
      << ToToml(config);
}

TEST(ParsePositiveDurationTest, TakesUnitsAndRefusesTheRest) {
  EXPECT_EQ(*ParsePositiveDuration("2m30s", "f"), absl::Seconds(150));
  for (const char* text : {"", "5", "-5s", "0s", "inf", "x"}) {
    EXPECT_FALSE(ParsePositiveDuration(text, "f").ok()) << text;
  }
}

}  // namespace
}  // namespace choir::config
