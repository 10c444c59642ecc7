#include "proto/codec/plan_digest.h"

#include <gtest/gtest.h>

#include "base/sha256.h"

namespace choir::codec {
namespace {

v1::TaskPlan Plan() {
  v1::TaskPlan plan;
  plan.mutable_key()->set_job("demo");
  plan.mutable_key()->set_round(2);
  plan.mutable_key()->set_attempt(1);
  plan.mutable_key()->set_kind(v1::TASK_KIND_TRAIN);
  plan.set_seed(7);
  v1::ModelFile& file = *plan.add_base_model();
  file.set_name("config.json");
  file.mutable_blob()->set_digest("aa");
  file.mutable_blob()->set_size(10);
  plan.mutable_adapter()->set_digest("bb");
  plan.mutable_adapter()->set_size(20);
  plan.set_layout_digest("cc");
  plan.mutable_adapter_config()->set_rank(8);
  plan.mutable_adapter_config()->add_target_modules("q_proj");
  plan.mutable_training()->set_learning_rate(0.5);
  plan.mutable_aggregation()->set_fixed_point_bits(24);
  plan.mutable_secure_aggregation()->set_enabled(true);
  return plan;
}

TEST(PlanDigestTest, TheTextIsTheDocumentedOne) {
  EXPECT_EQ(ModelDigest(Plan()),
            base::Sha256Hex("choir model 1\n"
                            "base_model[0].name=11:config.json\n"
                            "base_model[0].blob.digest=2:aa\n"
                            "base_model[0].blob.size=10\n"
                            "adapter.digest=2:bb\n"
                            "adapter.size=20\n"
                            "layout_digest=2:cc\n"));
  EXPECT_EQ(ConfigDigest(Plan()),
            base::Sha256Hex("choir settings 1\n"
                            "key.kind=1\n"
                            "adapter_config.rank=8\n"
                            "adapter_config.target_modules[0]=6:q_proj\n"
                            "training.learning_rate=3fe0000000000000\n"
                            "aggregation.fixed_point_bits=24\n"
                            "secure_aggregation.enabled=1\n"));
}

TEST(PlanDigestTest, WhatIsOneClientsOwnDoesNotMatter) {
  v1::TaskPlan other = Plan();
  other.set_seed(8);
  other.set_deadline_ms(1000);
  other.mutable_key()->set_attempt(2);
  EXPECT_EQ(ModelDigest(other), ModelDigest(Plan()));
  EXPECT_EQ(ConfigDigest(other), ConfigDigest(Plan()));
}

TEST(PlanDigestTest, EverythingElseDoes) {
  v1::TaskPlan model = Plan();
  model.mutable_base_model(0)->mutable_blob()->set_digest("ab");
  EXPECT_NE(ModelDigest(model), ModelDigest(Plan()));
  EXPECT_EQ(ConfigDigest(model), ConfigDigest(Plan()));
  v1::TaskPlan adapter = Plan();
  adapter.mutable_adapter()->set_digest("bc");
  EXPECT_NE(ModelDigest(adapter), ModelDigest(Plan()));
  v1::TaskPlan training = Plan();
  training.mutable_training()->set_learning_rate(0.25);
  EXPECT_NE(ConfigDigest(training), ConfigDigest(Plan()));
  EXPECT_EQ(ModelDigest(training), ModelDigest(Plan()));
  v1::TaskPlan secure = Plan();
  secure.mutable_secure_aggregation()->set_min_clients(3);
  EXPECT_NE(ConfigDigest(secure), ConfigDigest(Plan()));
}

TEST(PlanDigestTest, FieldsCannotRunIntoOneAnother) {
  v1::TaskPlan one = Plan();
  one.mutable_base_model(0)->set_name("a\nbase_model[0].blob.size=3");
  v1::TaskPlan two = Plan();
  two.mutable_base_model(0)->set_name("a");
  two.mutable_base_model(0)->mutable_blob()->set_size(3);
  EXPECT_NE(ModelDigest(one), ModelDigest(two));
}

}  // namespace
}  // namespace choir::codec
