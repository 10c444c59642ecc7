// The course of a job: phases, deadlines, lost rounds, evaluation.
#include <cmath>
#include <string>
#include <vector>

#include "base/sim_random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/property/engine/fake_world.h"

namespace choir::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

config::JobOptions WithoutEvaluation(int rounds, int cohort_size) {
  config::JobOptions options = TestJob(rounds, cohort_size);
  options.evaluation.every = 0;
  return options;
}

template <typename Has>
int Count(const FakeWorld& world, Has has) {
  int count = 0;
  for (const v1::JournalRecord& record : world.journal()) count += has(record);
  return count;
}

const v1::JournalRecord& Last(const FakeWorld& world) {
  return world.journal().back();
}

TEST(EngineTest, WaitsForEnoughClientsAndThenStartsTheRound) {
  FakeWorld world(WithoutEvaluation(1, 3));
  world.Arrive("a");
  world.Arrive("b");
  world.Arrive("b");
  EXPECT_THAT(world.journal(), IsEmpty());
  EXPECT_EQ(world.engine().progress().waiting_for, "2 of 3 clients available");
  world.Arrive("c");
  ASSERT_THAT(world.journal(), SizeIs(1));
  const v1::RoundStarted& started = world.journal()[0].round_started();
  EXPECT_THAT(started.cohort(), ElementsAre("a", "b", "c"));
  EXPECT_EQ(started.round(), 1u);
  EXPECT_EQ(started.attempt(), 1u);
  EXPECT_EQ(started.available(), 3u);
  EXPECT_EQ(started.seed(), base::DeriveSeed(7, {"select", "1", "1"}));
  EXPECT_THAT(world.tasks(), SizeIs(3));
  EXPECT_EQ(world.engine().progress().waiting_for, "0 updates of 3");
  ASSERT_TRUE(world.timer().has_value());
  EXPECT_EQ(world.timer()->at, absl::UnixEpoch() + absl::Seconds(600));
}

TEST(EngineTest, AClientThatLeftIsNotSelected) {
  FakeWorld world(WithoutEvaluation(1, 2));
  world.Arrive("a");
  world.Post(ClientLeft{"a"});
  world.Arrive("b");
  EXPECT_THAT(world.journal(), IsEmpty());
  world.Arrive("c");
  EXPECT_THAT(Last(world).round_started().cohort(), ElementsAre("b", "c"));
}

TEST(EngineTest, APlanIsResolvedAndDependsOnRoundAndClient) {
  config::JobOptions options = WithoutEvaluation(2, 2);
  FakeWorld world(options);
  world.ArriveAll({"a", "b"});
  const v1::TaskPlan plan = world.tasks().at("a");
  EXPECT_EQ(plan.seed(), base::DeriveSeed(7, {"train", "1", "a"}));
  EXPECT_NE(plan.seed(), world.tasks().at("b").seed());
  EXPECT_EQ(plan.adapter().digest(), TestFacts(options).adapter().digest());
  EXPECT_EQ(plan.layout_digest(), TestFacts(options).layout_digest());
  EXPECT_TRUE(plan.training().has_learning_rate());
  EXPECT_TRUE(plan.adapter_config().has_rank());
  EXPECT_TRUE(plan.aggregation().has_fixed_point_bits());
}

TEST(EngineTest, FullRunEvaluatesCommitsAndFinishes) {
  config::JobOptions options = TestJob(5, 2);
  options.evaluation.every = 2;
  FakeWorld world(options);
  ASSERT_TRUE(world.RunToEnd({"a", "b"}));
  std::vector<uint32_t> versions;
  for (const v1::JournalRecord& record : world.journal()) {
    if (record.has_evaluation_finished()) {
      versions.push_back(record.evaluation_finished().version());
      EXPECT_EQ(record.evaluation_finished().clients(), 2u);
      EXPECT_EQ(record.evaluation_finished().tokens(), 20u);
    }
  }
  EXPECT_THAT(versions, ElementsAre(0u, 2u, 4u, 5u));
  const Progress progress = world.engine().progress();
  EXPECT_EQ(progress.rounds_committed, 5u);
  EXPECT_EQ(progress.version, 5u);
  EXPECT_DOUBLE_EQ(progress.heldout_loss_before, 2.0);
  EXPECT_DOUBLE_EQ(progress.heldout_loss, 1.5);
  EXPECT_EQ(progress.result.state(), v1::JobFinished::DONE);
  EXPECT_EQ(progress.adapter.digest(),
            CommittedAdapters(world.journal()).back());
  EXPECT_GT(progress.bytes_up, 0u);
  EXPECT_EQ(progress.bytes_down, 5u * 2u * 5u);
  EXPECT_THAT(world.discarded(), SizeIs(10));
  EXPECT_FALSE(world.timer().has_value());
}

TEST(EngineTest, OverSelectionCommitsWithTheFirstAndTellsTheRest) {
  config::JobOptions options = WithoutEvaluation(2, 2);
  options.rounds.over_selection = 2.0;
  options.rounds.min_available = 4;
  FakeWorld world(options);
  world.ArriveAll({"a", "b", "c", "d"});
  EXPECT_THAT(world.tasks(), SizeIs(4));
  world.DoTask("d");
  world.DoTask("b");
  ASSERT_TRUE(Last(world).has_round_committed());
  EXPECT_THAT(Last(world).round_committed().survivors(), ElementsAre("b", "d"));
  EXPECT_TRUE(world.DoTask("a"));
  EXPECT_EQ(world.RepeatReport("a").verdict(), v1::ReportResponse::TOO_LATE);
  EXPECT_EQ(world.RepeatReport("d").verdict(), v1::ReportResponse::ACCEPTED);
}

TEST(EngineTest, DeadlineWithEnoughSurvivorsCommits) {
  config::JobOptions options = WithoutEvaluation(1, 3);
  options.rounds.min_survivors = 2;
  FakeWorld world(options);
  world.ArriveAll({"a", "b", "c"});
  world.DoTask("a");
  world.DoTask("c");
  EXPECT_EQ(Count(world, [](auto& r) { return r.has_round_committed(); }), 0);
  ASSERT_TRUE(world.FireTimer());
  EXPECT_EQ(Count(world, [](auto& r) { return r.has_client_lost(); }), 1);
  EXPECT_EQ(Count(world, [](auto& r) { return r.has_round_committed(); }), 1);
  EXPECT_TRUE(world.finished());
}

TEST(EngineTest, DeadlineWithTooFewLosesTheRoundAndTriesAgain) {
  FakeWorld world(WithoutEvaluation(1, 3));
  world.ArriveAll({"a", "b", "c"});
  const uint64_t seed = world.tasks().at("a").seed();
  world.DoTask("a");
  ASSERT_TRUE(world.FireTimer());
  ASSERT_TRUE(Last(world).has_round_lost());
  EXPECT_THAT(Last(world).round_lost().reason(), HasSubstr("only 1 of the 3"));
  EXPECT_THAT(world.discarded(), SizeIs(1));
  world.ArriveAll({"a", "b", "c"});
  ASSERT_TRUE(Last(world).has_round_started());
  EXPECT_EQ(Last(world).round_started().attempt(), 2u);
  EXPECT_EQ(world.tasks().at("a").seed(), seed) << "trains the same again";
  EXPECT_EQ(world.engine().progress().rounds_lost, 1u);
}

TEST(EngineTest, RoundIsLostAsSoonAsItCannotSucceed) {
  FakeWorld world(WithoutEvaluation(1, 3));
  world.ArriveAll({"a", "b", "c"});
  const v1::TaskKey key = world.tasks().at("b").key();
  EXPECT_EQ(world.Post(TaskFailed{"b", key, "battery", false}).verdict(),
            v1::ReportResponse::ACCEPTED);
  EXPECT_TRUE(Last(world).has_round_lost());
  EXPECT_EQ(world.now(), absl::UnixEpoch()) << "without waiting";
}

TEST(EngineTest, TooManyLostRoundsFailTheJob) {
  config::JobOptions options = WithoutEvaluation(2, 1);
  options.rounds.max_lost_in_a_row = 3;
  FakeWorld world(options);
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE(world.finished());
    world.Arrive("a");
    world.FireTimer();
  }
  ASSERT_TRUE(world.finished());
  EXPECT_EQ(world.engine().progress().result.state(), v1::JobFinished::FAILED);
  EXPECT_THAT(world.engine().progress().result.reason(),
              AllOf(HasSubstr("max_lost_in_a_row"),
                    HasSubstr("'a': no report within")));
  EXPECT_EQ(world.engine().progress().rounds_lost, 3u);
}

TEST(EngineTest, AJobThatLostTooManyRoundsEndsWithWhatClientsSaid) {
  config::JobOptions options = WithoutEvaluation(2, 2);
  options.rounds.max_lost_in_a_row = 2;
  FakeWorld world(options);
  // Said of a round that was committed: forgotten with it.
  world.ArriveAll({"a", "b"});
  v1::TaskKey key = world.tasks().at("a").key();
  world.Post(TaskFailed{"a", key, "battery", false});
  world.ArriveAll({"a", "b"});
  world.DoTask("a");
  world.DoTask("b");
  ASSERT_EQ(world.engine().progress().rounds_committed, 1u);
  for (const char* reason : {"no memory", "training.sparsity cannot be"}) {
    EXPECT_FALSE(world.finished());
    world.ArriveAll({"a", "b"});
    key = world.tasks().at("b").key();
    world.Post(TaskFailed{"b", key, reason, false});
    // Too late to be of the round.
    world.Post(TaskFailed{"a", key, "late", true});
  }
  ASSERT_TRUE(world.finished());
  const std::string reason = world.engine().progress().result.reason();
  EXPECT_EQ(reason,
            "round 2 was lost 2 times in a row, the limit of "
            "rounds.max_lost_in_a_row; the last time because only 1 of the 2 "
            "updates needed can still arrive; the last client to drop out, "
            "'b': training.sparsity cannot be");
}

TEST(EngineTest, ACommittedRoundForgivesLostOnes) {
  config::JobOptions options = WithoutEvaluation(3, 1);
  options.rounds.max_lost_in_a_row = 2;
  FakeWorld world(options);
  for (int i = 0; i < 3; ++i) {
    world.Arrive("a");
    world.FireTimer();  // lost
    world.Arrive("a");
    world.DoTask("a");
  }
  EXPECT_EQ(world.engine().progress().result.state(), v1::JobFinished::DONE);
  EXPECT_EQ(world.engine().progress().rounds_lost, 3u);
}

TEST(EngineTest, AnEmptyPoissonDrawIsALostRound) {
  config::JobOptions options = WithoutEvaluation(1, 1);
  options.rounds.selection = config::Selection::kPoisson;
  options.rounds.sampling_rate = 1e-9;
  options.rounds.max_lost_in_a_row = 4;
  FakeWorld world(options);
  world.Arrive("a");
  EXPECT_TRUE(world.finished());
  EXPECT_EQ(Count(world, [](auto& r) { return r.has_round_lost(); }), 4);
  EXPECT_EQ(world.journal()[1].round_lost().reason(),
            "the draw selected no client");
}

TEST(EngineTest, AFailedSumIsALostRound) {
  config::JobOptions options = WithoutEvaluation(1, 1);
  FakeWorld world(options);
  world.fail_aggregations = true;
  world.Arrive("a");
  world.DoTask("a");
  ASSERT_TRUE(Last(world).has_round_lost());
  EXPECT_EQ(Last(world).round_lost().reason(), "the sum failed: no luck");
  world.fail_aggregations = false;
  EXPECT_TRUE(world.RunToEnd({"a"}));
}

TEST(EngineTest, TheNextPhaseWaitsForThoseWhoJustReported) {
  config::JobOptions options = TestJob(1, 2);
  FakeWorld world(options);
  world.ArriveAll({"a", "b"});
  world.DoTask("a");
  world.DoTask("b");  // evaluation of version 0 is done
  world.Arrive("a");
  EXPECT_TRUE(Last(world).has_evaluation_finished());
  world.Arrive("b");
  ASSERT_TRUE(Last(world).has_round_started());
  world.DoTask("a");
  world.DoTask("b");
  ASSERT_TRUE(Last(world).has_round_committed());
  world.Arrive("b");
  EXPECT_TRUE(Last(world).has_round_committed()) << "a is not back yet";
  EXPECT_EQ(world.engine().progress().waiting_for, "1 clients to come back");
  ASSERT_TRUE(world.FireTimer());
  EXPECT_EQ(world.now(), absl::UnixEpoch() + absl::Seconds(30));
  ASSERT_TRUE(Last(world).has_evaluation_started());
  EXPECT_THAT(Last(world).evaluation_started().cohort(), ElementsAre("b"));
}

TEST(EngineTest, EvaluationTakesWhatCameByTheDeadline) {
  FakeWorld world(TestJob(1, 2));
  world.ArriveAll({"a", "b"});
  world.DoTask("b");
  ASSERT_TRUE(world.FireTimer());
  ASSERT_TRUE(Last(world).has_evaluation_finished());
  EXPECT_EQ(Last(world).evaluation_finished().clients(), 1u);
  EXPECT_EQ(Last(world).evaluation_finished().tokens(), 10u);
}

TEST(EngineTest, EvaluationOfNobodyIsRecordedAndChangesNoLoss) {
  FakeWorld world(TestJob(1, 1));
  world.Arrive("a");
  world.FireTimer();  // version 0: nobody reports
  ASSERT_TRUE(Last(world).has_evaluation_finished());
  EXPECT_EQ(Last(world).evaluation_finished().tokens(), 0u);
  EXPECT_TRUE(std::isnan(world.engine().progress().heldout_loss));
  world.Arrive("a");
  world.DoTask("a");
  ASSERT_TRUE(Last(world).has_round_committed());
  world.Post(ClientLeft{"a"});
  ASSERT_TRUE(world.FireTimer());  // nobody is there for version 1
  EXPECT_TRUE(world.finished());
  EXPECT_TRUE(std::isnan(world.engine().progress().heldout_loss));
}

TEST(EngineTest, EvaluationCohortIsDrawnBySeed) {
  config::JobOptions options = TestJob(1, 8);
  options.evaluation.cohort_size = 3;
  FakeWorld world(options);
  world.ArriveAll(ClientNames(8));
  EXPECT_THAT(world.journal()[0].evaluation_started().cohort(), SizeIs(3));
  FakeWorld again(options);
  again.ArriveAll(ClientNames(8));
  EXPECT_EQ(again.journal()[0].SerializeAsString(),
            world.journal()[0].SerializeAsString());
}

TEST(EngineTest, StopEndsTheJobInAnyPhase) {
  for (int phase = 0; phase < 4; ++phase) {
    FakeWorld world(TestJob(2, 2));
    world.manual_aggregation = true;
    if (phase >= 1) world.ArriveAll({"a", "b"});
    if (phase >= 2) {
      world.DoTask("a");
      world.DoTask("b");
      world.ArriveAll({"a", "b"});
      world.DoTask("a");
    }
    if (phase >= 3) world.DoTask("b");
    world.Post(StopRequested{"enough"});
    EXPECT_TRUE(world.finished()) << phase;
    EXPECT_EQ(Last(world).job_finished().state(), v1::JobFinished::STOPPED);
    EXPECT_EQ(Last(world).job_finished().reason(), "enough");
    EXPECT_EQ(world.discarded().size(), phase < 2 ? 0u : phase - 1u);
    const size_t records = world.journal().size();
    world.RunAggregation();
    world.Post(StopRequested{"again"});
    world.ArriveAll({"a", "b", "c"});
    world.FireTimer();
    EXPECT_EQ(world.journal().size(), records) << phase;
  }
}

TEST(EngineTest, AStaleTimerDoesNothing) {
  FakeWorld world(WithoutEvaluation(1, 2));
  world.ArriveAll({"a", "b"});
  const size_t records = world.journal().size();
  world.Post(TimerFired{world.timer()->timer + 1});
  world.Post(TimerFired{0});
  EXPECT_EQ(world.journal().size(), records);
}

TEST(EngineTest, ResumeSaysAgainWhatIsToBeDone) {
  FakeWorld world(WithoutEvaluation(1, 2));
  world.manual_aggregation = true;
  world.ArriveAll({"a", "b"});
  world.DoTask("a");
  world.Crash(world.journal().size());
  EXPECT_THAT(world.tasks(), SizeIs(1));
  EXPECT_EQ(world.tasks().count("b"), 1u);
  ASSERT_TRUE(world.timer().has_value());
  world.DoTask("b");
  world.Crash(world.journal().size());  // while the sum is made
  world.RunAggregation();
  EXPECT_TRUE(world.finished());
  world.Crash(world.journal().size());
  EXPECT_TRUE(world.finished());
  EXPECT_EQ(Count(world, [](auto& r) { return r.has_job_finished(); }), 1);
}

// The most that a configuration may ask for must not look like an endless loop.
TEST(EngineTest, AJobWhoseDrawsAreAllEmptyFailsHoweverPatientItIs) {
  config::JobOptions options = TestJob(1, 1);
  options.rounds.selection = config::Selection::kPoisson;
  options.rounds.sampling_rate = 1e-12;
  options.rounds.min_survivors = 1;
  options.rounds.min_available = 1;
  options.rounds.max_lost_in_a_row = 100000;
  options.evaluation.every = 0;
  FakeWorld world(options);
  world.ArriveAll({"a"});
  EXPECT_TRUE(world.engine().progress().finished);
  EXPECT_EQ(world.engine().progress().result.state(), v1::JobFinished::FAILED);
  EXPECT_EQ(world.engine().progress().rounds_lost, 100000u);
}

}  // namespace
}  // namespace choir::engine
