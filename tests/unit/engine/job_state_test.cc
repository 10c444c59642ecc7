// Records that cannot follow are refused, and change nothing.
#include "coordinator/engine/job_state.h"

#include "gtest/gtest.h"
#include "tests/property/engine/fake_world.h"

namespace choir::engine {
namespace {

class JobStateTest : public ::testing::Test {
 protected:
  JobStateTest() : state_(Options(), TestFacts(Options())) {}

  static config::JobOptions Options() {
    config::JobOptions options = TestJob(2, 2);
    options.evaluation.every = 0;
    return options;
  }
  static v1::JournalRecord Started(uint32_t round, uint32_t attempt,
                                   std::vector<std::string> cohort) {
    v1::JournalRecord record;
    v1::RoundStarted& started = *record.mutable_round_started();
    started.set_job("job");
    started.set_round(round);
    started.set_attempt(attempt);
    for (const std::string& name : cohort) started.add_cohort(name);
    return record;
  }
  static v1::JournalRecord Accepted(const std::string& client,
                                    uint32_t attempt = 1) {
    v1::JournalRecord record;
    v1::UpdateAccepted& accepted = *record.mutable_update_accepted();
    accepted.mutable_key()->set_job("job");
    accepted.mutable_key()->set_round(1);
    accepted.mutable_key()->set_attempt(attempt);
    accepted.mutable_key()->set_kind(v1::TASK_KIND_TRAIN);
    accepted.set_client(client);
    accepted.set_weight(1);
    return record;
  }
  void ExpectBroken(const v1::JournalRecord& record) {
    const uint64_t serial = state_.phase_serial();
    EXPECT_TRUE(absl::IsDataLoss(state_.Apply(record)))
        << record.ShortDebugString();
    EXPECT_EQ(state_.phase_serial(), serial);
  }

  JobState state_;
};

TEST_F(JobStateTest, RoundsStartInOrder) {
  ExpectBroken(Started(2, 1, {"a", "b"}));
  ExpectBroken(Started(1, 2, {"a", "b"}));
  ExpectBroken(Started(1, 1, {"b", "a"}));
  ExpectBroken(Started(1, 1, {"a", "a"}));
  EXPECT_TRUE(state_.Apply(Started(1, 1, {"a", "b"})).ok());
  ExpectBroken(Started(1, 1, {"a", "b"}));
}

TEST_F(JobStateTest, UpdatesAreCountedOnce) {
  ExpectBroken(Accepted("a"));
  ASSERT_TRUE(state_.Apply(Started(1, 1, {"a", "b"})).ok());
  ExpectBroken(Accepted("z"));
  ExpectBroken(Accepted("a", 2));
  EXPECT_TRUE(state_.Apply(Accepted("a")).ok());
  ExpectBroken(Accepted("a"));
  EXPECT_TRUE(state_.Apply(Accepted("b")).ok());
  EXPECT_TRUE(std::holds_alternative<Aggregating>(state_.phase()));
}

TEST_F(JobStateTest, ACommitMustFollowFromTheRound) {
  v1::JournalRecord record;
  v1::RoundCommitted& committed = *record.mutable_round_committed();
  committed.set_job("job");
  committed.set_round(1);
  committed.set_attempt(1);
  committed.add_survivors("a");
  committed.add_survivors("b");
  *committed.mutable_adapter_before() = TestFacts(Options()).adapter();
  committed.mutable_adapter()->set_digest("new");
  ASSERT_TRUE(state_.Apply(Started(1, 1, {"a", "b"})).ok());
  ASSERT_TRUE(state_.Apply(Accepted("a")).ok());
  ExpectBroken(record);
  ASSERT_TRUE(state_.Apply(Accepted("b")).ok());
  v1::JournalRecord wrong = record;
  wrong.mutable_round_committed()->mutable_adapter_before()->set_digest("x");
  ExpectBroken(wrong);
  wrong = record;
  wrong.mutable_round_committed()->clear_survivors();
  ExpectBroken(wrong);
  wrong = record;
  wrong.mutable_round_committed()->set_attempt(2);
  ExpectBroken(wrong);
  EXPECT_TRUE(state_.Apply(record).ok());
  EXPECT_EQ(state_.adapter().digest(), "new");
  ExpectBroken(record);
}

TEST_F(JobStateTest, OtherJobsAndOtherKindsAreIgnored) {
  const uint64_t serial = state_.phase_serial();
  v1::JournalRecord other = Started(9, 9, {"a"});
  other.mutable_round_started()->set_job("other");
  EXPECT_TRUE(state_.Apply(other).ok());
  v1::JournalRecord store;
  store.mutable_store_created();
  EXPECT_TRUE(state_.Apply(store).ok());
  EXPECT_TRUE(state_.Apply(v1::JournalRecord()).ok());
  EXPECT_EQ(state_.phase_serial(), serial);
}

TEST_F(JobStateTest, NothingFollowsTheEnd) {
  v1::JournalRecord record;
  record.mutable_job_finished()->set_job("job");
  record.mutable_job_finished()->set_state(v1::JobFinished::DONE);
  ExpectBroken(record);
  record.mutable_job_finished()->set_state(v1::JobFinished::STOPPED);
  EXPECT_TRUE(state_.Apply(record).ok());
  ExpectBroken(record);
  ExpectBroken(Started(1, 1, {"a"}));
}

}  // namespace
}  // namespace choir::engine
