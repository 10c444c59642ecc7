#include "client/agent/client_options.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace choir::client {
namespace {

using ::testing::HasSubstr;

v1::ClientConfig GoodConfig() {
  v1::ClientConfig config;
  config.set_name("alice");
  config.set_coordinator("localhost:7443");
  config.set_state("/s");
  config.set_ca_certificate("/ca.pem");
  config.mutable_data()->set_path("/d.jsonl");
  return config;
}

TEST(ClientOptionsTest, FillsDefaultsAndNamesTheField) {
  const auto options = ResolveClient(GoodConfig());
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->holdout, 0.1);
  EXPECT_EQ(options->threads, 1);
  EXPECT_EQ(options->cache_bytes, 16384ull << 20);
  const auto refusal = [](auto&& change) {
    v1::ClientConfig config = GoodConfig();
    change(config);
    return std::string(ResolveClient(config).status().message());
  };
  using C = v1::ClientConfig;
  EXPECT_THAT(refusal([](C& c) { c.clear_name(); }), HasSubstr("name"));
  EXPECT_THAT(refusal([](C& c) { c.set_name("a/b"); }), HasSubstr("a/b"));
  EXPECT_THAT(refusal([](C& c) { c.set_coordinator("host"); }),
              HasSubstr("host:port"));
  EXPECT_THAT(refusal([](C& c) { c.set_coordinator("h:0"); }),
              HasSubstr("host:port"));
  EXPECT_THAT(refusal([](C& c) { c.mutable_data()->set_holdout(0.95); }),
              HasSubstr("data.holdout"));
  EXPECT_THAT(refusal([](C& c) { c.mutable_data()->set_holdout(NAN); }),
              HasSubstr("data.holdout"));
  EXPECT_THAT(refusal([](C& c) { c.mutable_device()->set_threads(0); }),
              HasSubstr("device.threads"));
  EXPECT_THAT(refusal([](C& c) { c.mutable_device()->set_kind("tpu"); }),
              HasSubstr("device.kind"));
  EXPECT_THAT(refusal([](C& c) { c.set_cache_mib(0); }),
              HasSubstr("cache_mib"));
  for (const double fraction : {-0.1, 0.91, static_cast<double>(NAN)}) {
    EXPECT_THAT(
        refusal([=](C& c) {
          c.mutable_secure_aggregation()->set_min_corrupt_fraction(fraction);
        }),
        HasSubstr("secure_aggregation.min_corrupt_fraction"));
  }
}

TEST(ClientOptionsTest, TakesThePolicyOfSecureRounds) {
  v1::ClientConfig config = GoodConfig();
  EXPECT_EQ(ResolveClient(config)->secure.min_corrupt_fraction, 0.0);
  EXPECT_TRUE(
      WithDefaults(config).secure_aggregation().has_min_corrupt_fraction());
  config.mutable_secure_aggregation()->set_min_corrupt_fraction(0.2);
  EXPECT_EQ(ResolveClient(config)->secure.min_corrupt_fraction, 0.2);
}

TEST(ClientOptionsTest, WhoHandsOverInSecretAloneDoesNotEvaluate) {
  const auto evaluates = [](absl::optional<bool> required,
                            absl::optional<bool> open) {
    v1::ClientConfig config = GoodConfig();
    v1::SecurePolicyConfig& secure = *config.mutable_secure_aggregation();
    if (required.has_value()) secure.set_required(*required);
    if (open.has_value()) secure.set_open_evaluation(*open);
    const bool shown =
        WithDefaults(config).secure_aggregation().open_evaluation();
    EXPECT_EQ(ResolveClient(config)->secure.evaluates(), shown);
    return shown;
  };
  EXPECT_TRUE(evaluates(absl::nullopt, absl::nullopt));
  EXPECT_TRUE(evaluates(false, absl::nullopt));
  EXPECT_FALSE(evaluates(true, absl::nullopt));
  EXPECT_TRUE(evaluates(true, true));
  EXPECT_FALSE(evaluates(true, false));
  EXPECT_FALSE(evaluates(false, false));
  // What code sets without a file is no laxer.
  SecurePolicy policy;
  EXPECT_TRUE(policy.evaluates());
  policy.required = true;
  EXPECT_FALSE(policy.evaluates());
}

TEST(ClientOptionsTest, ListsTheExpertsToHoldOnce) {
  v1::ClientConfig config = GoodConfig();
  EXPECT_TRUE(ResolveClient(config)->experts.empty());
  for (const uint32_t expert : {3u, 0u, 5u}) {
    config.mutable_device()->add_experts(expert);
  }
  EXPECT_THAT(ResolveClient(config)->experts, testing::ElementsAre(0, 3, 5));
  config.mutable_device()->add_experts(0);
  const absl::Status refused = ResolveClient(config).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("device.experts names 0 twice"));
}

}  // namespace
}  // namespace choir::client
