// What becomes of reports: accepted once, late, repeated, refused.
#include <limits>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/property/engine/fake_world.h"

namespace choir::engine {
namespace {

using ::testing::HasSubstr;
using Verdict = v1::ReportResponse;

class EngineReportsTest : public ::testing::Test {
 protected:
  EngineReportsTest() : world_(Options()) {
    world_.manual_aggregation = true;
    world_.ArriveAll({"a", "b", "c"});
    key_ = world_.tasks().at("a").key();
  }

  static config::JobOptions Options() {
    config::JobOptions options = TestJob(2, 3);
    options.rounds.min_survivors = 1;
    options.evaluation.every = 0;
    options.aggregation.max_examples_per_client = 50;
    return options;
  }

  v1::TrainReport Report(const std::string& client) {
    return TrainFor(world_.tasks().at(client), client);
  }
  v1::ReportResponse Send(const std::string& client, const v1::TaskKey& key,
                          const v1::TrainReport& report) {
    return world_.Post(UpdateReceived{client, key, report});
  }
  const v1::JournalRecord& Last() { return world_.journal().back(); }

  FakeWorld world_;
  v1::TaskKey key_;
};

TEST_F(EngineReportsTest, AnAcceptedUpdateIsJournaledOnceWithItsWeight) {
  const v1::TrainReport report = Report("a");
  EXPECT_TRUE(world_.engine().Wants("a", key_));
  EXPECT_EQ(Send("a", key_, report).verdict(), Verdict::ACCEPTED);
  EXPECT_EQ(Last().update_accepted().weight(), report.num_examples());
  const size_t records = world_.journal().size();
  EXPECT_FALSE(world_.engine().Wants("a", key_));
  EXPECT_EQ(Send("a", key_, report).verdict(), Verdict::ACCEPTED);
  EXPECT_EQ(world_.journal().size(), records);
}

TEST_F(EngineReportsTest, ARepetitionIsAcceptedAfterTheRoundIsCommitted) {
  const v1::TrainReport report = Report("a");
  for (const char* client : {"a", "b", "c"}) world_.DoTask(client);
  EXPECT_EQ(Send("a", key_, report).verdict(), Verdict::ACCEPTED);
  world_.RunAggregation();
  ASSERT_TRUE(Last().has_round_committed());
  EXPECT_EQ(Send("a", key_, report).verdict(), Verdict::ACCEPTED);
  EXPECT_EQ(Send("z", key_, report).verdict(), Verdict::TOO_LATE);
  world_.Crash(world_.journal().size());
  EXPECT_EQ(Send("a", key_, report).verdict(), Verdict::ACCEPTED);
  EXPECT_TRUE(Last().has_round_committed());
}

TEST_F(EngineReportsTest, AStrangerIsRefusedAndJournaledOnce) {
  const v1::TrainReport report = Report("a");
  EXPECT_EQ(Send("z", key_, report).verdict(), Verdict::REFUSED);
  ASSERT_TRUE(Last().has_update_refused());
  EXPECT_EQ(Last().update_refused().client(), "z");
  EXPECT_THAT(Last().update_refused().reason(), HasSubstr("not in the cohort"));
  const size_t records = world_.journal().size();
  EXPECT_EQ(Send("z", key_, report).verdict(), Verdict::REFUSED);
  EXPECT_EQ(world_.journal().size(), records);
  EXPECT_EQ(world_.engine().progress().waiting_for, "0 updates of 3");
}

TEST_F(EngineReportsTest, ATaskThatWasNeverGivenIsRefused) {
  v1::TaskKey key = key_;
  key.set_round(2);
  EXPECT_EQ(Send("a", key, Report("a")).verdict(), Verdict::REFUSED);
  key = key_;
  key.set_attempt(2);
  EXPECT_EQ(Send("a", key, Report("a")).verdict(), Verdict::REFUSED);
  key = key_;
  key.set_kind(v1::TASK_KIND_UNSPECIFIED);
  EXPECT_EQ(Send("a", key, Report("a")).verdict(), Verdict::REFUSED);
  EXPECT_TRUE(world_.engine().Wants("a", key_)) << "a is still in the round";
}

TEST_F(EngineReportsTest, RepeatedLiesDoNotFillTheJournal) {
  const v1::TrainReport report = Report("a");
  v1::TaskKey key = key_;
  const size_t before = world_.journal().size();
  for (uint32_t round = 2; round < 100; ++round) {
    key.set_round(round);
    EXPECT_EQ(Send("a", key, report).verdict(), Verdict::REFUSED);
    EXPECT_EQ(Send("z", key, report).verdict(), Verdict::REFUSED);
  }
  EXPECT_EQ(world_.journal().size(), before + 2) << "one record each";
  EXPECT_TRUE(world_.engine().Wants("a", key_)) << "a is still in the round";
}

TEST_F(EngineReportsTest, AnotherJobsReportIsTooLate) {
  v1::TaskKey key = key_;
  key.set_job("other");
  const size_t records = world_.journal().size();
  EXPECT_EQ(Send("a", key, Report("a")).verdict(), Verdict::TOO_LATE);
  EXPECT_EQ(world_.journal().size(), records);
}

TEST_F(EngineReportsTest, ClaimedExamplesMustBeInRange) {
  v1::TrainReport report = Report("a");
  report.set_num_examples(0);
  EXPECT_EQ(Send("a", key_, report).verdict(), Verdict::REFUSED);
  report.set_num_examples(51);
  const v1::ReportResponse response = Send("b", key_, report);
  EXPECT_EQ(response.verdict(), Verdict::REFUSED);
  EXPECT_THAT(response.reason(), HasSubstr("claims 51 examples"));
  EXPECT_TRUE(Last().has_update_refused());
  report.set_num_examples(50);
  EXPECT_EQ(Send("c", key_, report).verdict(), Verdict::ACCEPTED);
  // Out means out.
  EXPECT_EQ(Send("a", key_, report).verdict(), Verdict::REFUSED);
  world_.RunAggregation();
  EXPECT_EQ(Last().round_committed().survivors_size(), 1);
}

TEST_F(EngineReportsTest, ALossThatIsNotFiniteIsRefused) {
  v1::TrainReport report = Report("a");
  report.set_mean_loss(std::numeric_limits<double>::quiet_NaN());
  EXPECT_EQ(Send("a", key_, report).verdict(), Verdict::REFUSED);
  report.set_mean_loss(std::numeric_limits<double>::infinity());
  EXPECT_EQ(Send("b", key_, report).verdict(), Verdict::REFUSED);
}

TEST_F(EngineReportsTest, FlopsThatCannotBeAreRefused) {
  v1::TrainReport report = Report("a");
  report.set_dense_flops(-1.0);
  EXPECT_EQ(Send("a", key_, report).verdict(), Verdict::REFUSED);
  report = Report("b");
  report.set_done_flops(std::numeric_limits<double>::infinity());
  EXPECT_EQ(Send("b", key_, report).verdict(), Verdict::REFUSED);
}

TEST_F(EngineReportsTest, AClientThatGaveUpIsLostAndComesTooLate) {
  const v1::TrainReport report = Report("a");
  EXPECT_EQ(world_.Post(TaskFailed{"a", key_, "no power", false}).verdict(),
            Verdict::ACCEPTED);
  EXPECT_EQ(Last().client_lost().reason(), "no power");
  EXPECT_EQ(Send("a", key_, report).verdict(), Verdict::TOO_LATE);
}

TEST_F(EngineReportsTest, ARefusedUpdateAfterAnAcceptedOneChangesNothing) {
  Send("a", key_, Report("a"));
  const size_t records = world_.journal().size();
  EXPECT_EQ(world_.Post(TaskFailed{"a", key_, "broken", true}).verdict(),
            Verdict::ACCEPTED);
  EXPECT_EQ(world_.journal().size(), records);
}

TEST_F(EngineReportsTest, AClientThatComesBackGetsItsTaskAgain) {
  const size_t sent = world_.tasks_sent();
  const std::string plan = world_.tasks().at("a").SerializeAsString();
  world_.Arrive("a");
  EXPECT_EQ(world_.tasks_sent(), sent + 1);
  EXPECT_EQ(world_.tasks().at("a").SerializeAsString(), plan);
  Send("a", key_, Report("a"));
  world_.Arrive("a");
  EXPECT_EQ(world_.tasks_sent(), sent + 1) << "it has done its part";
}

TEST_F(EngineReportsTest, UniformWeightingCountsEachOnce) {
  config::JobOptions options = Options();
  options.aggregation.weighting = config::Weighting::kUniform;
  FakeWorld world(options);
  world.ArriveAll({"a", "b", "c"});
  for (const char* client : {"a", "b", "c"}) world.DoTask(client);
  EXPECT_EQ(world.journal().back().round_committed().total_weight(), 3u);
}

TEST_F(EngineReportsTest, ClaimsOfBytesDoNotWrap) {
  v1::TrainReport report = Report("a");
  report.set_bytes_downloaded(std::numeric_limits<uint64_t>::max());
  Send("a", key_, report);
  Send("b", key_, report);
  EXPECT_EQ(world_.engine().progress().bytes_down,
            std::numeric_limits<uint64_t>::max());
}

TEST_F(EngineReportsTest, AnEvaluationForATrainingTaskIsNotAccepted) {
  v1::EvaluationReport evaluation;
  world_.Post(EvaluationReceived{"a", key_, evaluation});
  EXPECT_TRUE(world_.engine().Wants("a", key_));
}

TEST(EngineEvaluationReportsTest, ImpossibleFiguresAreRefused) {
  FakeWorld world(TestJob(1, 4));
  world.ArriveAll({"a", "b", "c", "d"});
  const v1::TaskKey key = world.tasks().at("a").key();
  ASSERT_EQ(key.kind(), v1::TASK_KIND_EVALUATE);
  const auto verdict = [&](const char* client, double loss, uint64_t tokens) {
    v1::EvaluationReport report;
    report.set_loss_sum(loss);
    report.set_tokens(tokens);
    return world.Post(EvaluationReceived{client, key, report}).verdict();
  };
  EXPECT_EQ(verdict("a", -1.0, 5), Verdict::REFUSED);
  EXPECT_EQ(verdict("b", std::numeric_limits<double>::quiet_NaN(), 5),
            Verdict::REFUSED);
  EXPECT_EQ(verdict("c", 1.0, 0), Verdict::REFUSED);
  EXPECT_EQ(verdict("d", 1.0, uint64_t{1} << 60), Verdict::REFUSED);
  EXPECT_TRUE(world.journal().back().has_evaluation_finished());
}

TEST(EngineEvaluationReportsTest, MoreRightLabelsThanExamplesAreRefused) {
  FakeWorld world(TestJob(1, 2));
  world.ArriveAll({"a", "b"});
  const v1::TaskKey key = world.tasks().at("a").key();
  v1::EvaluationReport report;
  report.set_loss_sum(1.0);
  report.set_tokens(3);
  report.set_correct(4);
  EXPECT_EQ(world.Post(EvaluationReceived{"a", key, report}).verdict(),
            Verdict::REFUSED);
  report.set_correct(3);
  EXPECT_EQ(world.Post(EvaluationReceived{"b", key, report}).verdict(),
            Verdict::ACCEPTED);
}

TEST(EngineEvaluationReportsTest, RepeatedAndLateEvaluationsAreAnswered) {
  FakeWorld world(TestJob(1, 2));
  world.ArriveAll({"a", "b"});
  const v1::TaskKey key = world.tasks().at("a").key();
  world.DoTask("a");
  EXPECT_EQ(world.RepeatReport("a").verdict(), Verdict::ACCEPTED);
  world.FireTimer();  // b is late
  EXPECT_EQ(world.RepeatReport("a").verdict(), Verdict::ACCEPTED);
  v1::EvaluationReport report;
  EXPECT_EQ(world.Post(EvaluationReceived{"b", key, report}).verdict(),
            Verdict::TOO_LATE);
}

}  // namespace
}  // namespace choir::engine
