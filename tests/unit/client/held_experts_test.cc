// Agents that hold a part of a mixture's experts.
#include "base/files.h"
#include "base/sha256.h"
#include "client/agent/task_runner.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/adapter/lora_layout.h"
#include "model/adapter/peft_folder.h"
#include "model/adapter/targets.h"
#include "proto/codec/flat_update.h"
#include "tests/unit/client/tiny_device.h"
#include "tests/unit/model/tiny_model.h"

namespace choir::client {
namespace {

using ::testing::HasSubstr;

// Most of it is experts.
model::ModelConfig Mixture() {
  model::ModelConfig config = tests::TinyConfig();
  config.family = model::Family::kMixtral;
  config.tie_word_embeddings = false;
  config.intermediate_size = 1024;
  config.moe.num_experts = 8;
  config.moe.experts_per_token = 2;
  config.moe.intermediate_size = config.intermediate_size;
  return config;
}

std::string Digest(const TaskResult& result) {
  return base::Sha256Hex(result.update_bytes);
}

class HeldExpertsTest : public testing::Test {
 protected:
  HeldExpertsTest() {
    training_.objective = config::Objective::kCausalLm;
    training_.batch_size = 4;
    plan_.mutable_key()->set_job("job");
    plan_.mutable_key()->set_kind(v1::TASK_KIND_TRAIN);
    plan_.set_seed(7);
    *plan_.mutable_training() = config::ToProto(training_);
    Use(Mixture(), {});
  }

  // A job that trains `targets` (none: the default) of such a model.
  void Use(const model::ModelConfig& model, std::vector<std::string> targets) {
    folder_ = tests::WriteTinyModel(model);
    config::AdapterOptions adapter;
    adapter.rank = 4;
    adapter.alpha = 8.0;
    adapter.target_modules = std::move(targets);
    adapter = model::WithTargets(model, adapter);
    layout_ = model::AdapterLayout(model, adapter).value();
    bytes_ =
        model::EncodeAdapterFile(layout_, model::InitialAdapter(layout_, 1));
    plan_.set_layout_digest(layout_.digest());
    *plan_.mutable_adapter_config() = config::ToProto(adapter);
  }

  TaskResult Run() {
    auto runner = LocalTaskRunner::Create(options_, clock_);
    EXPECT_TRUE(runner.ok()) << runner.status();
    auto result = (*runner)->Run(plan_, folder_, "digest", bytes_, nullptr);
    EXPECT_TRUE(result.ok()) << result.status();
    return *std::move(result);
  }
  std::string Refusal() {
    const TaskResult result = Run();
    EXPECT_TRUE(result.report.has_failure());
    return result.report.failure().reason();
  }

  std::string folder_;
  ClientOptions options_ = tests::TinyDevice();
  config::TrainingOptions training_;
  codec::Layout layout_;
  v1::TaskPlan plan_;
  std::string bytes_;
  base::ManualClock clock_;
};

TEST_F(HeldExpertsTest, AttentionIsTrainedWithAPartOfTheExperts) {
  const TaskResult all = Run();
  ASSERT_TRUE(all.report.has_train()) << all.report.failure().reason();
  options_.experts = {1, 4, 6};
  const TaskResult some = Run();
  ASSERT_TRUE(some.report.has_train()) << some.report.failure().reason();
  EXPECT_EQ(some.report.train().tokens(), all.report.train().tokens());
  // Another function: tokens go other ways.
  EXPECT_NE(some.report.train().mean_loss(), all.report.train().mean_loss());
  // Of the same shape, so that the federation can sum them.
  for (const TaskResult* result : {&all, &some}) {
    EXPECT_TRUE(
        codec::DecodeFlatUpdate(result->update_bytes, layout_, 128.0).ok());
  }
  // All of them by name are all of them.
  options_.experts = {0, 1, 2, 3, 4, 5, 6, 7};
  EXPECT_EQ(Digest(Run()), Digest(all));
}

// Weights of experts that are not held are never read: were they rubbish,
// nothing would change.
TEST_F(HeldExpertsTest, OtherExpertsHaveNoPart) {
  options_.experts = {2, 3};
  const TaskResult before = Run();
  ASSERT_TRUE(before.report.has_train());
  const model::ModelConfig config = Mixture();
  // Another model with the same held experts: all but those differ.
  std::string bytes =
      base::ReadFile(base::JoinPath(folder_, "model.safetensors")).value();
  const auto file = model::ParseSafetensors(bytes, "model");
  ASSERT_TRUE(file.ok());
  const model::TensorView* other =
      file->Find("model.layers.0.block_sparse_moe.experts.5.w2.weight");
  ASSERT_NE(other, nullptr);
  const size_t begin = static_cast<size_t>(other->bytes.data() - bytes.data());
  const size_t end = begin + other->bytes.size();
  for (size_t i = begin; i < end; ++i) bytes[i] = 0x3f;
  ASSERT_TRUE(
      base::WriteFileAtomic(base::JoinPath(folder_, "model.safetensors"), bytes)
          .ok());
  EXPECT_EQ(Digest(Run()), Digest(before));
  options_.experts.clear();
  EXPECT_NE(Digest(Run()), Digest(before));
}

TEST_F(HeldExpertsTest, AJobThatAdaptsExpertsIsGivenBackWithTheWayOut) {
  Use(Mixture(), {"all-linear"});
  EXPECT_TRUE(Run().report.has_train());
  options_.experts = {0, 3};
  const std::string reason = Refusal();
  EXPECT_THAT(reason, HasSubstr("[device] experts"));
  EXPECT_THAT(reason, HasSubstr("experts 0, 3 of 8"));
  EXPECT_THAT(reason, HasSubstr("w1, w2, w3"));
  EXPECT_THAT(reason, HasSubstr("hold every expert, or adapt attention"));
}

TEST_F(HeldExpertsTest, ExpertsThatTheModelDoesNotHaveAreNamed) {
  options_.experts = {0, 8};
  EXPECT_THAT(Refusal(), HasSubstr("expert 8 does not exist; the model has 8"));
  options_.experts = {5};
  EXPECT_THAT(Refusal(), HasSubstr("each token passes 2"));
  Use(tests::TinyConfig(), {});
  EXPECT_THAT(Refusal(), HasSubstr("the model has no experts"));
}

TEST_F(HeldExpertsTest, TooLittleMemoryForAllExpertsTakesSome) {
  model::ModelConfig config = Mixture();
  config.intermediate_size = config.moe.intermediate_size = 8192;
  Use(config, {});
  options_.memory_mib = 1;
  const std::string reason = Refusal();
  const std::string marker = "would do is ";
  const size_t at = reason.find(marker);
  ASSERT_NE(at, std::string::npos) << reason;
  EXPECT_THAT(reason, HasSubstr("2 experts of a block"));
  options_.memory_mib = std::stoll(reason.substr(at + marker.size()));
  const TaskResult planned = Run();
  ASSERT_TRUE(planned.report.has_train()) << planned.report.failure().reason();
  EXPECT_TRUE(
      codec::DecodeFlatUpdate(planned.update_bytes, layout_, 128.0).ok());
  // Named ones are a wish, and all of them too many.
  options_.experts = {0, 1, 2, 3, 4, 5, 6, 7};
  EXPECT_THAT(Refusal(), HasSubstr("smallest budget"));
  options_.experts = {0, 1};
  EXPECT_TRUE(Run().report.has_train());
}

}  // namespace
}  // namespace choir::client
