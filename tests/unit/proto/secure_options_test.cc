#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "google/protobuf/util/message_differencer.h"
#include "proto/config/job_options.h"
#include "proto/config/toml_config.h"

namespace choir::config {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<JobOptions> Resolve(const std::vector<std::string>& overrides) {
  constexpr const char* kJob = R"(
    name = "demo"
    model.base = "models/choir-tiny"
    rounds.count = 3
    rounds.cohort_size = 24
    rounds.min_survivors = 16
    secure_aggregation.enabled = true
  )";
  v1::JobConfig config;
  const absl::Status parsed = ParseToml(kJob, "t", overrides, &config);
  if (!parsed.ok()) return parsed;
  return ResolveJob(config);
}

TEST(SecureOptionsTest, FillsDefaults) {
  const auto options = Resolve({});
  ASSERT_TRUE(options.ok()) << options.status();
  const SecureAggregationOptions& secure = options->secure_aggregation;
  EXPECT_TRUE(secure.enabled);
  EXPECT_EQ(secure.adversary, SecureAdversary::kSemiMalicious);
  EXPECT_EQ(secure.min_clients, 8);
  EXPECT_EQ(secure.value_bits, 32);
  EXPECT_EQ(secure.group_rule, GroupRule::kMean);
  EXPECT_EQ(secure.phase_deadline, absl::Seconds(60));
  EXPECT_EQ(secure.min_survivors(), 8);
}

TEST(SecureOptionsTest, ToProtoIsAFixedPoint) {
  const auto options = Resolve(
      {"secure_aggregation.group_size=8", "secure_aggregation.min_clients=4",
       "secure_aggregation.rounding=\"stochastic\"",
       "secure_aggregation.rotate=true", "secure_aggregation.value_bits=16",
       "secure_aggregation.phase_deadline=\"90s\""});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->secure_aggregation.group_rule, GroupRule::kMedian);
  EXPECT_EQ(options->secure_aggregation.min_survivors(), 12);
  const v1::JobConfig full = ToProto(*options);
  const auto again = ResolveJob(full);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(
      full, ToProto(*again)));
  EXPECT_EQ(again->secure_aggregation.phase_deadline, absl::Seconds(90));
}

TEST(SecureOptionsTest, AJobWithoutItHasNoTable) {
  const auto options = Resolve({"secure_aggregation.enabled=false"});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_FALSE(ToProto(*options).has_secure_aggregation());
}

TEST(SecureOptionsTest, OpenEvaluationIsToBeAskedFor) {
  const auto every = [](const std::vector<std::string>& overrides) {
    const auto options = Resolve(overrides);
    EXPECT_TRUE(options.ok()) << options.status();
    // The journal has the resolved job: resolved again it is the same.
    EXPECT_EQ(ResolveJob(ToProto(*options))->evaluation.every,
              options->evaluation.every);
    return options->evaluation.every;
  };
  EXPECT_EQ(every({"secure_aggregation.enabled=false"}), 1);
  EXPECT_EQ(every({}), 0);
  EXPECT_EQ(every({"evaluation.cohort_size=5"}), 0);
  EXPECT_EQ(every({"evaluation.every=2"}), 2);
  EXPECT_EQ(every({"secure_aggregation.enabled=false", "evaluation.every=0"}),
            0);
}

TEST(SecureOptionsTest, WarnsOfOpenEvaluation) {
  const auto warning = [](const std::vector<std::string>& overrides) {
    const auto options = Resolve(overrides);
    EXPECT_TRUE(options.ok()) << options.status();
    return OpenEvaluationWarning(*options);
  };
  EXPECT_EQ(warning({}), "");
  EXPECT_EQ(warning({"secure_aggregation.enabled=false"}), "");
  EXPECT_THAT(warning({"evaluation.every=2"}),
              testing::AllOf(HasSubstr("'job.evaluation.every' is 2"),
                             HasSubstr("open_evaluation")));
}

TEST(SecureOptionsTest, PoissonCohortsNeedAsManyAsTheGroupsDo) {
  const auto options =
      Resolve({"rounds={count=1, selection=\"poisson\", sampling_rate=0.5}",
               "secure_aggregation.group_size=10"});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->rounds.min_survivors, 24);
  EXPECT_EQ(options->rounds.min_available, 24);
}

TEST(SecureOptionsTest, TheModulusIsThatOfWhoIsSummedTogether) {
  // Half as many as 8 would be fine.
  const std::vector<std::string> half = {
      "aggregation.max_examples_per_client=500000000",
      "rounds={count=1, selection=\"poisson\", sampling_rate=0.5}"};
  EXPECT_TRUE(Resolve(half).ok()) << Resolve(half).status();
  // 24 in one would take 66 bits; the groups have 7 at most.
  const std::vector<std::string> groups = {
      "aggregation.max_examples_per_client=500000000",
      "secure_aggregation.group_size=4", "secure_aggregation.min_clients=4"};
  EXPECT_TRUE(Resolve(groups).ok()) << Resolve(groups).status();
}

struct BadCase {
  std::vector<std::string> overrides;
  std::vector<const char*> said;
};

class RefusedSecureTest : public ::testing::TestWithParam<BadCase> {};

TEST_P(RefusedSecureTest, NamesTheFieldAndTheWayOut) {
  const auto options = Resolve(GetParam().overrides);
  ASSERT_EQ(options.status().code(), absl::StatusCode::kInvalidArgument)
      << options.status();
  for (const char* text : GetParam().said) {
    EXPECT_THAT(std::string(options.status().message()), HasSubstr(text));
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, RefusedSecureTest,
    ::testing::Values(
        BadCase{{"secure_aggregation.adversary=\"malicious\""},
                {"adversary", "malicious", "curious"}},
        BadCase{{"secure_aggregation.rounding=\"up\""}, {"rounding", "up"}},
        BadCase{{"secure_aggregation.corrupt_fraction=0.9"},
                {"corrupt_fraction"}},
        BadCase{{"secure_aggregation.corrupt_fraction=nan"},
                {"corrupt_fraction"}},
        BadCase{{"secure_aggregation.dropout_fraction=-0.1"},
                {"dropout_fraction"}},
        BadCase{{"secure_aggregation.corrupt_fraction=0.4",
                 "secure_aggregation.dropout_fraction=0.3"},
                {"0.4", "0.3", "semi-malicious", "lower one"}},
        BadCase{{"secure_aggregation.min_clients=2"}, {"min_clients", "3 to"}},
        BadCase{{"secure_aggregation.value_bits=3"}, {"value_bits", "4 to 32"}},
        BadCase{{"secure_aggregation.value_bits=33"}, {"value_bits"}},
        BadCase{{"secure_aggregation.phase_deadline=\"0s\""},
                {"phase_deadline"}},
        BadCase{{"secure_aggregation.min_clients=25"},
                {"cohort_size' is 24", "min_clients' = 25", "lower"}},
        BadCase{{"rounds.min_survivors=7"}, {"min_survivors' is 7", "8"}},
        BadCase{{"secure_aggregation.group_rule=\"median\""},
                {"group_rule", "median", "group_size", "sums of groups"}},
        BadCase{{"secure_aggregation.group_size=6"},
                {"group_size' is 6", "min_clients = 8"}},
        BadCase{{"secure_aggregation.group_size=30"},
                {"group_size' is 30", "cohort_size' = 24"}},
        BadCase{{"secure_aggregation.group_size=12"},
                {"median", "needs 3", "only 2"}},
        BadCase{{"secure_aggregation.group_size=8",
                 "secure_aggregation.group_rule=\"trimmed_mean\""},
                {"trimmed_mean", "needs 4", "only 3", "\"mean\""}},
        BadCase{{"secure_aggregation.group_size=8"},
                {"min_survivors' is 16", "3 groups of min_clients = 8"}},
        BadCase{{"aggregation.max_examples_per_client=1000000000"},
                {"67 bits", "limit is 64", "value_bits",
                 "max_examples_per_client", "cohort_size"}},
        // Even the smallest of cohorts that are drawn is too large.
        BadCase{{"rounds={count=1, selection=\"poisson\", sampling_rate=0.5}",
                 "aggregation.max_examples_per_client=1000000000"},
                {"8 clients, the fewest that a round can have", "65 bits",
                 "limit is 64", "min_clients"}},
        // The largest of two groups of 8 has 15.
        BadCase{{"aggregation.max_examples_per_client=1000000000",
                 "secure_aggregation.group_size=8",
                 "secure_aggregation.group_rule=\"mean\""},
                {"15 clients", "66 bits", "group_size"}}));

}  // namespace
}  // namespace choir::config
