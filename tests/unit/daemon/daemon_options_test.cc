#include "coordinator/main/daemon.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace choir::coordinator {
namespace {

using testing::HasSubstr;

v1::CoordinatorConfig Config() {
  v1::CoordinatorConfig config;
  config.set_store("store");
  config.mutable_tls()->set_ca_certificate("ca.crt");
  config.mutable_tls()->set_certificate("c.crt");
  config.mutable_tls()->set_private_key("c.key");
  return config;
}

std::string Refusal(const v1::CoordinatorConfig& config) {
  const auto options = ResolveCoordinator(config);
  EXPECT_TRUE(absl::IsInvalidArgument(options.status())) << options.status();
  return std::string(options.status().message());
}

TEST(DaemonOptionsTest, WhatWasResolvedResolvesToTheSame) {
  v1::CoordinatorConfig config = Config();
  config.set_keep_updates(true);
  config.mutable_limits()->set_long_poll("30s");
  config.mutable_enrolment()->set_require_approval(true);
  const auto options = ResolveCoordinator(config);
  ASSERT_TRUE(options.ok()) << options.status();
  const v1::CoordinatorConfig resolved = ToProto(*options);
  const auto again = ResolveCoordinator(resolved);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(ToProto(*again).SerializeAsString(), resolved.SerializeAsString());
  EXPECT_TRUE(again->keep_updates);
  EXPECT_EQ(again->long_poll, absl::Seconds(30));
}

TEST(DaemonOptionsTest, RequiredFieldsAreNamed) {
  v1::CoordinatorConfig config = Config();
  config.clear_store();
  EXPECT_THAT(Refusal(config), HasSubstr("store"));
  config = Config();
  config.mutable_tls()->clear_private_key();
  EXPECT_THAT(Refusal(config), HasSubstr("tls.private_key"));
  config = Config();
  config.set_listen("7443");
  EXPECT_THAT(Refusal(config), HasSubstr("host:port"));
}

// Otherwise every check-in would end in the agent's own timeout.
TEST(DaemonOptionsTest, ALongPollEndsBeforeAnAgentGivesUp) {
  v1::CoordinatorConfig config = Config();
  config.mutable_limits()->set_long_poll("4m");
  EXPECT_TRUE(ResolveCoordinator(config).ok());
  config.mutable_limits()->set_long_poll("241s");
  EXPECT_THAT(Refusal(config), HasSubstr("limits.long_poll"));
  config.mutable_limits()->set_long_poll("0s");
  EXPECT_THAT(Refusal(config), HasSubstr("limits.long_poll"));
}

// An agent takes messages of 8 MiB and sends chunks of 256 KiB.
TEST(DaemonOptionsTest, AgentsCanTakeAndSendTheChunks) {
  v1::CoordinatorConfig config = Config();
  for (const uint32_t kib : {256u, 4096u}) {
    config.mutable_limits()->set_chunk_kib(kib);
    const auto options = ResolveCoordinator(config);
    ASSERT_TRUE(options.ok()) << options.status();
    EXPECT_EQ(options->chunk_bytes, uint64_t{kib} << 10);
  }
  for (const uint32_t kib : {0u, 255u, 4097u}) {
    config.mutable_limits()->set_chunk_kib(kib);
    EXPECT_THAT(Refusal(config), HasSubstr("limits.chunk_kib"));
  }
}

}  // namespace
}  // namespace choir::coordinator
