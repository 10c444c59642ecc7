// The runner with a real, tiny model: what the device's memory allows.
#include "client/agent/task_runner.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/adapter/lora_layout.h"
#include "model/adapter/peft_folder.h"
#include "model/planner.h"
#include "tests/unit/client/tiny_device.h"
#include "tests/unit/model/tiny_model.h"

namespace choir::client {
namespace {

using ::testing::HasSubstr;

class TaskRunnerTest : public testing::Test {
 protected:
  TaskRunnerTest() : folder_(tests::WriteTinyModel(tests::TinyConfig())) {
    adapter_.rank = 4;
    adapter_.alpha = 8.0;
    adapter_.target_modules = model::LinearKinds(tests::TinyConfig());
    training_.objective = config::Objective::kCausalLm;
    training_.batch_size = 8;
    const codec::Layout layout =
        model::AdapterLayout(tests::TinyConfig(), adapter_).value();
    bytes_ = model::EncodeAdapterFile(layout, model::InitialAdapter(layout, 1));
    plan_.mutable_key()->set_job("job");
    plan_.mutable_key()->set_kind(v1::TASK_KIND_TRAIN);
    plan_.set_seed(7);
    plan_.set_layout_digest(layout.digest());
    *plan_.mutable_adapter_config() = config::ToProto(adapter_);
    *plan_.mutable_training() = config::ToProto(training_);
  }

  v1::ReportRequest Run() {
    auto runner = LocalTaskRunner::Create(options_, clock_);
    EXPECT_TRUE(runner.ok()) << runner.status();
    const auto result =
        (*runner)->Run(plan_, folder_, "digest", bytes_, nullptr);
    EXPECT_TRUE(result.ok()) << result.status();
    return result->report;
  }

  // The least that the runner accepts: the agent's own part included.
  int64_t Smallest() {
    options_.memory_mib = 1;
    const std::string reason = Run().failure().reason();
    const std::string marker = "would do is ";
    const size_t at = reason.find(marker);
    EXPECT_NE(at, std::string::npos) << reason;
    return std::stoll(reason.substr(at + marker.size()));
  }

  const std::string folder_;
  ClientOptions options_ = tests::TinyDevice();
  config::AdapterOptions adapter_;
  config::TrainingOptions training_;
  v1::TaskPlan plan_;
  std::string bytes_;
  base::ManualClock clock_;
};

TEST_F(TaskRunnerTest, RefusesATaskThatDoesNotFitAndSaysWhatWould) {
  const int64_t smallest = Smallest();
  options_.memory_mib = smallest - 1;
  EXPECT_THAT(Run().failure().reason(), HasSubstr("smallest budget"));
  options_.memory_mib = smallest;
  const v1::ReportRequest report = Run();
  ASSERT_TRUE(report.has_train()) << report.failure().reason();
  EXPECT_EQ(report.train().num_examples(), 12u);
}

TEST_F(TaskRunnerTest, LessMemoryTakesTheSameSteps) {
  const v1::ReportRequest plenty = Run();
  ASSERT_TRUE(plenty.has_train()) << plenty.failure().reason();
  options_.memory_mib = Smallest();
  const v1::ReportRequest little = Run();
  ASSERT_TRUE(little.has_train()) << little.failure().reason();
  EXPECT_EQ(little.train().steps(), plenty.train().steps());
  EXPECT_EQ(little.train().tokens(), plenty.train().tokens());
  // Weights in fewer bits: nearly the same loss, not the same.
  EXPECT_NE(little.train().mean_loss(), plenty.train().mean_loss());
  EXPECT_NEAR(little.train().mean_loss(), plenty.train().mean_loss(), 0.2);
}

// In a secure round the number of examples is nobody's business.
TEST_F(TaskRunnerTest, DataThatDoNotFitAreCountedInOpenRoundsAlone) {
  plan_.mutable_training()->set_objective("dpo");
  const std::string open = Run().failure().reason();
  EXPECT_THAT(open, HasSubstr("of 12 examples"));
  plan_.mutable_secure_session();
  const std::string secure = Run().failure().reason();
  EXPECT_THAT(secure, HasSubstr("training.objective"));
  EXPECT_THAT(secure, testing::Not(testing::ContainsRegex("[0-9]")));
}

TEST_F(TaskRunnerTest, SaysWhetherTheDeviceEvaluates) {
  const auto evaluates = [this] {
    const auto runner = LocalTaskRunner::Create(options_, clock_);
    EXPECT_TRUE(runner.ok()) << runner.status();
    return (*runner)->capabilities().evaluates();
  };
  options_.holdout = 0.5;
  EXPECT_TRUE(evaluates());
  options_.secure.required = true;
  EXPECT_FALSE(evaluates());
  options_.secure.open_evaluation = true;
  EXPECT_TRUE(evaluates());
  options_.holdout = 0.0;
  EXPECT_FALSE(evaluates());
}

TEST_F(TaskRunnerTest, HoldsTheBaseInThePrecisionOfTheDevice) {
  const double stored = Run().train().mean_loss();
  options_.precision = model::WeightFormat::kInt8;
  const double int8 = Run().train().mean_loss();
  EXPECT_NE(stored, int8);
  EXPECT_NEAR(stored, int8, 0.02);
}

}  // namespace
}  // namespace choir::client
