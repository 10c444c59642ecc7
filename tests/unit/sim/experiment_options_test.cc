#include "sim/experiment/experiment_options.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/config/toml_config.h"

namespace choir::sim {
namespace {

constexpr char kMinimal[] = R"(
[job]
name = "t"
[job.model]
base = "m"
[job.rounds]
count = 2
cohort_size = 3
[clients]
count = 5
[clients.data]
path = "d.jsonl"
)";

absl::StatusOr<ExperimentOptions> Resolve(
    const std::vector<std::string>& overrides) {
  v1::ExperimentConfig config;
  const absl::Status parsed =
      config::ParseToml(kMinimal, "t.toml", overrides, &config);
  if (!parsed.ok()) return parsed;
  return ResolveExperiment(config);
}

TEST(ExperimentOptionsTest, FillsDefaults) {
  const auto options = Resolve({});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->clients.partition.kind, PartitionKind::kIid);
  EXPECT_EQ(options->clients.partition.num_clients, 5);
  EXPECT_EQ(options->clients.holdout, 0.1);
  EXPECT_EQ(options->dropout_rate, 0.0);
  EXPECT_GE(options->workers, 1);
  EXPECT_FALSE(options->keep_updates);
}

TEST(ExperimentOptionsTest, ResolvedFileReadsBackAsTheSame) {
  const auto options =
      Resolve({"clients.partition=dirichlet", "clients.field=topic",
               "clients.data.where.lang=en", "simulation.dropout_rate=0.25"});
  ASSERT_TRUE(options.ok()) << options.status();
  v1::ExperimentConfig again;
  ASSERT_TRUE(
      config::ParseToml(config::ToToml(ToProto(*options)), "r", {}, &again)
          .ok());
  EXPECT_TRUE(CheckResumable(ToProto(*options), again).ok());
  const auto resolved = ResolveExperiment(again);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(ToProto(*resolved).SerializeAsString(),
            ToProto(*options).SerializeAsString());
}

TEST(ExperimentOptionsTest, RefusesValuesOutOfRangeNamingTheField) {
  const struct {
    std::string set, field;
  } cases[] = {
      {"simulation.dropout_rate=1.0", "simulation.dropout_rate"},
      {"simulation.dropout_rate=-0.1", "simulation.dropout_rate"},
      {"simulation.dropout_rate=nan", "simulation.dropout_rate"},
      {"simulation.workers=0", "simulation.workers"},
      {"simulation.clients_per_pass=0", "simulation.clients_per_pass"},
      {"simulation.clients_per_pass=257", "simulation.clients_per_pass"},
      {"simulation.device.kind=tpu", "simulation.device.kind"},
      {"simulation.device.memory_mib=100", "simulation.device.memory_mib"},
      {"simulation.device.experts=[0,1]", "simulation.device.experts"},
      {"clients.partition=heap", "clients.partition"},
      {"clients.partition=natural", "clients.field"},
      {"clients.count=0", "clients.count"},
      {"clients.concentration=0.0", "clients.concentration"},
      {"clients.concentration=inf", "clients.concentration"},
      {"clients.shards_per_client=0", "clients.shards_per_client"},
      {"clients.min_examples=0", "clients.min_examples"},
      {"clients.data.holdout=0.95", "clients.data.holdout"},
      {"clients.data.path=", "clients.data.path"},
  };
  for (const auto& c : cases) {
    const absl::Status status = Resolve({c.set}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.set;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(c.field))
        << c.set;
  }
}

TEST(ExperimentOptionsTest, APartOfTheExpertsIsRefusedWithoutANumber) {
  EXPECT_EQ(Resolve({"simulation.device.experts=[0,1]"}).status().message(),
            "simulation.device.experts is set, but only choir-client holds a "
            "part of the experts; leave it out");
}

TEST(ExperimentOptionsTest, OnlyWorkersAndThreadsMayChangeOnResume) {
  const auto options = Resolve({});
  ASSERT_TRUE(options.ok());
  const v1::ExperimentConfig before = ToProto(*options);
  v1::ExperimentConfig now = before;
  now.mutable_simulation()->set_workers(77);
  now.mutable_simulation()->mutable_device()->set_threads(3);
  EXPECT_TRUE(CheckResumable(before, now).ok());
  now.mutable_job()->set_seed(99);
  const absl::Status status = CheckResumable(before, now);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("[job]"));
}

}  // namespace
}  // namespace choir::sim
