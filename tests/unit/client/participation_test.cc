#include "client/session/participation.h"

#include <cmath>
#include <limits>

#include "absl/strings/match.h"
#include "base/sha256.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/adapter/peft_folder.h"
#include "proto/codec/flat_update.h"

namespace choir::client {
namespace {

using ::testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

codec::Layout TestLayout() {
  return *codec::Layout::Create(
      {{"a.lora_A.weight", {2, 3}}, {"a.lora_B.weight", {3, 2}}});
}

// Adds a constant to each parameter and remembers what it was asked.
class FakeTrainer final : public model::Trainer {
 public:
  const codec::Layout& layout() const override { return layout_; }

  absl::StatusOr<model::TrainResult> Train(
      absl::Span<float> parameters, absl::Span<const model::Example> examples,
      const config::TrainingOptions& options, uint64_t seed,
      const model::ProgressFn& progress) override {
    seen_seed = seed;
    seen_rate = options.learning_rate;
    if (const absl::Status status = progress(1, 2); !status.ok()) return status;
    for (float& value : parameters) value += add;
    model::TrainResult result;
    result.steps = 2;
    result.tokens = 40;
    result.mean_loss = loss;
    result.examples_seen = 99;
    return result;
  }
  absl::StatusOr<std::vector<model::TrainResult>> TrainBank(
      absl::Span<const model::BankMember> members,
      const config::TrainingOptions& options,
      const model::ProgressFn& progress) override {
    return absl::UnimplementedError("participations train alone");
  }
  absl::StatusOr<model::EvalResult> Evaluate(
      absl::Span<const float> parameters,
      absl::Span<const model::Example> examples,
      const config::TrainingOptions& options,
      const model::ProgressFn& progress) override {
    ++evaluations;
    model::EvalResult result;
    result.loss_sum = loss;
    result.tokens = 17;
    result.num_examples = examples.size();
    return result;
  }

  codec::Layout layout_ = TestLayout();
  float add = 0.5f;
  double loss = 1.25;
  uint64_t seen_seed = 0;
  double seen_rate = 0;
  int evaluations = 0;
};

class ParticipationTest : public testing::Test {
 protected:
  ParticipationTest() {
    const codec::Layout layout = TestLayout();
    adapter_ = model::EncodeAdapterFile(
        layout, std::vector<float>(layout.num_elements(), 0.25f));
    plan_.mutable_key()->set_job("job");
    plan_.mutable_key()->set_round(3);
    plan_.mutable_key()->set_attempt(2);
    plan_.mutable_key()->set_kind(v1::TASK_KIND_TRAIN);
    plan_.set_seed(42);
    plan_.set_layout_digest(layout.digest());
    plan_.mutable_training()->set_learning_rate(0.125);
    data_.train.resize(4);
    data_.heldout.resize(3);
  }
  absl::StatusOr<TaskResult> Run() {
    return RunTask(plan_, trainer_, adapter_, data_, clock_, nullptr);
  }
  std::string Failure() {
    const auto result = Run();
    if (!result.ok() || !result->report.has_failure()) return "no failure";
    EXPECT_EQ(result->update_bytes, "");
    EXPECT_EQ(result->report.key().round(), 3u);
    return result->report.failure().reason();
  }

  v1::TaskPlan plan_;
  std::string adapter_;
  FakeTrainer trainer_;
  LocalData data_;
  base::ManualClock clock_;
};

TEST_F(ParticipationTest, SendsTheDifference) {
  const auto result = Run();
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_TRUE(result->report.has_train());
  const v1::TrainReport& report = result->report.train();
  EXPECT_EQ(result->report.key().SerializeAsString(),
            plan_.key().SerializeAsString());
  EXPECT_EQ(report.update().size(), result->update_bytes.size());
  EXPECT_EQ(report.update().digest(), base::Sha256Hex(result->update_bytes));
  const auto update =
      codec::DecodeFlatUpdate(result->update_bytes, trainer_.layout(), 128);
  ASSERT_TRUE(update.ok()) << update.status();
  EXPECT_THAT(*update, testing::Each(0.5f));
  // Weighting is by the size of the data, not by how often it was drawn.
  EXPECT_EQ(report.num_examples(), 4u);
  EXPECT_EQ(report.steps(), 2u);
  EXPECT_EQ(report.tokens(), 40u);
  EXPECT_EQ(report.mean_loss(), 1.25);
  EXPECT_FALSE(report.clipped());
  EXPECT_NEAR(report.update_norm_l2(), 0.5 * std::sqrt(12.0), 1e-12);
  EXPECT_EQ(trainer_.seen_seed, 42u);
  EXPECT_EQ(trainer_.seen_rate, 0.125);
}

TEST_F(ParticipationTest, TwiceIsTheSameBytes) {
  const auto first = Run();
  const auto second = Run();
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->update_bytes, second->update_bytes);
  EXPECT_EQ(first->report.SerializeAsString(),
            second->report.SerializeAsString());
}

TEST_F(ParticipationTest, ClipsToTheNorm) {
  plan_.mutable_aggregation()->set_clip_norm_l2(0.75);
  const auto result = Run();
  ASSERT_TRUE(result.ok() && result->report.has_train());
  EXPECT_TRUE(result->report.train().clipped());
  EXPECT_NEAR(result->report.train().update_norm_l2(), 0.5 * std::sqrt(12.0),
              1e-12);
  const auto update =
      codec::DecodeFlatUpdate(result->update_bytes, trainer_.layout(), 128);
  double sum = 0;
  for (const float value : *update) sum += double{value} * value;
  EXPECT_NEAR(std::sqrt(sum), 0.75, 1e-6);
}

TEST_F(ParticipationTest, ReportsWhatItCannotDo) {
  plan_.set_layout_digest(std::string(64, '0'));
  EXPECT_THAT(Failure(), HasSubstr("adapter layout"));
  plan_.set_layout_digest(trainer_.layout().digest());
  EXPECT_EQ(Failure(), "no failure");

  const std::string good = adapter_;
  adapter_ = good.substr(0, good.size() - 1);
  EXPECT_THAT(Failure(), HasSubstr("adapter_model.safetensors"));
  adapter_ = good;

  trainer_.add = kNan;
  EXPECT_THAT(Failure(), HasSubstr("not finite"));
  trainer_.add = std::numeric_limits<float>::infinity();
  EXPECT_THAT(Failure(), HasSubstr("not finite"));
  trainer_.add = 200.0f;  // the grid of 24 bits ends at 128
  EXPECT_THAT(Failure(), HasSubstr("128"));
  trainer_.add = 0.5f;
  trainer_.loss = kNan;
  EXPECT_THAT(Failure(), HasSubstr("loss is not finite"));
  trainer_.loss = 1.0;
  plan_.mutable_training()->set_learning_rate(-1);
  EXPECT_THAT(Failure(), HasSubstr("learning_rate"));
  plan_.mutable_training()->set_learning_rate(0.1);
  data_.train.clear();
  EXPECT_THAT(Failure(), HasSubstr("no training examples"));
  plan_.mutable_key()->set_kind(v1::TASK_KIND_UNSPECIFIED);
  EXPECT_THAT(Failure(), HasSubstr("unknown kind"));
}

TEST_F(ParticipationTest, ReturnsTheStatusThatStoppedIt) {
  const auto result =
      RunTask(plan_, trainer_, adapter_, data_, clock_,
              [](int, int) { return absl::CancelledError("enough"); });
  EXPECT_EQ(result.status(), absl::CancelledError("enough"));
}

TEST_F(ParticipationTest, EvaluatesTheHeldOutExamples) {
  plan_.mutable_key()->set_kind(v1::TASK_KIND_EVALUATE);
  auto result = Run();
  ASSERT_TRUE(result.ok() && result->report.has_evaluation());
  EXPECT_EQ(result->report.evaluation().loss_sum(), 1.25);
  EXPECT_EQ(result->report.evaluation().tokens(), 17u);
  // What the mean does not need is not told.
  EXPECT_EQ(result->report.evaluation().num_examples(), 0u);
  EXPECT_EQ(result->report.evaluation().seconds(), 0.0);
  EXPECT_FALSE(result->report.evaluation().has_correct());
  EXPECT_EQ(result->update_bytes, "");
  trainer_.loss = kNan;
  EXPECT_THAT(Failure(), HasSubstr("loss is not finite"));
  data_.heldout.clear();
  trainer_.evaluations = 0;
  result = Run();
  ASSERT_TRUE(result.ok() && result->report.has_evaluation());
  EXPECT_EQ(result->report.evaluation().tokens(), 0u);
  EXPECT_EQ(trainer_.evaluations, 0);
}

TEST(ClipL2Test, KeepsShortAndZeroVectors) {
  std::vector<float> values = {0.6f, 0.8f};
  auto report = ClipL2(absl::MakeSpan(values), 2.0);
  ASSERT_TRUE(report.ok());
  EXPECT_FALSE(report->clipped);
  EXPECT_EQ(values, (std::vector<float>{0.6f, 0.8f}));
  values = {0, 0};
  report = ClipL2(absl::MakeSpan(values), 0.1);
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->norm_l2, 0.0);
  EXPECT_EQ(values, (std::vector<float>{0, 0}));
}

TEST(ClipL2Test, SurvivesHugeValuesAndRefusesNonFinite) {
  std::vector<float> values = {3e38f, -3e38f};
  const auto report = ClipL2(absl::MakeSpan(values), 1.0);
  ASSERT_TRUE(report.ok());
  EXPECT_NEAR(values[0], std::sqrt(0.5), 1e-6);
  for (const float bad : {kNan, std::numeric_limits<float>::infinity()}) {
    values = {1.0f, bad};
    EXPECT_EQ(ClipL2(absl::MakeSpan(values), 0.5).status().code(),
              absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(values[0], 1.0f);
  }
}

TEST(MakeFailureReportTest, CutsBetweenCharacters) {
  const v1::ReportRequest report =
      MakeFailureReport({}, std::string(499, 'a') + "\xC3\xA4");
  EXPECT_EQ(report.failure().reason(), std::string(499, 'a'));
}

}  // namespace
}  // namespace choir::client
