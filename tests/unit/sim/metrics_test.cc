#include "sim/experiment/metrics.h"

#include <cmath>
#include <string>
#include <vector>

#include "base/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/golden.h"

namespace choir::sim {
namespace {

v1::JournalRecord Started(uint32_t round, uint32_t attempt, int cohort) {
  v1::JournalRecord record;
  record.mutable_round_started()->set_round(round);
  record.mutable_round_started()->set_attempt(attempt);
  for (int i = 0; i < cohort; ++i) {
    record.mutable_round_started()->add_cohort(std::string(1, 'a' + i));
  }
  return record;
}

v1::JournalRecord Committed(uint32_t round, int survivors, double loss) {
  v1::JournalRecord record;
  v1::RoundCommitted& committed = *record.mutable_round_committed();
  committed.set_round(round);
  for (int i = 0; i < survivors; ++i) {
    committed.add_survivors(std::string(1, 'a' + i));
  }
  committed.set_mean_train_loss(loss);
  committed.set_bytes_up(10);
  committed.set_bytes_down(20);
  return record;
}

v1::JournalRecord Evaluated(uint32_t version, double loss_sum,
                            uint64_t tokens) {
  v1::JournalRecord record;
  record.mutable_evaluation_finished()->set_version(version);
  record.mutable_evaluation_finished()->set_loss_sum(loss_sum);
  record.mutable_evaluation_finished()->set_tokens(tokens);
  return record;
}

class MetricsTest : public testing::Test {
 protected:
  void SetUp() override {
    path_ = base::JoinPath(tests::NewTempDir(), "metrics.jsonl");
    auto log = MetricsLog::Create(
        path_, [this](const RoundMetrics& r) { seen_.push_back(r.round); });
    ASSERT_TRUE(log.ok()) << log.status();
    log_ = *std::move(log);
  }
  void Add(const v1::JournalRecord& record, int second) {
    log_->Add(record, absl::FromUnixSeconds(second));
  }

  std::string path_;
  std::unique_ptr<MetricsLog> log_;
  std::vector<uint32_t> seen_;
};

TEST_F(MetricsTest, WritesALinePerRoundOnceItsEvaluationIsOver) {
  Add(Evaluated(0, 8.0, 2), 0);
  Add(Started(1, 1, 3), 10);
  Add(Committed(1, 2, 3.5), 14);
  EXPECT_TRUE(seen_.empty());
  Add(Evaluated(1, 6.0, 2), 15);
  EXPECT_THAT(seen_, testing::ElementsAre(1));
  const auto rounds = ReadMetrics(path_);
  ASSERT_TRUE(rounds.ok()) << rounds.status();
  ASSERT_EQ(rounds->size(), 1u);
  const RoundMetrics& round = (*rounds)[0];
  EXPECT_EQ(round.train_loss, 3.5);
  EXPECT_EQ(round.heldout_loss, 3.0);
  EXPECT_EQ(round.selected, 3u);
  EXPECT_EQ(round.survivors, 2u);
  EXPECT_EQ(round.bytes, 30u);
  EXPECT_EQ(round.seconds, 4.0);
  EXPECT_EQ(round.clients_per_second, 0.5);
}

v1::JournalRecord Accepted(double dense, double done) {
  v1::JournalRecord record;
  v1::TrainReport& report = *record.mutable_update_accepted()->mutable_report();
  report.set_dense_flops(dense);
  report.set_done_flops(done);
  return record;
}

v1::JournalRecord Judged(uint64_t correct) {
  v1::JournalRecord record;
  record.mutable_evaluation_accepted()->mutable_report()->set_correct(correct);
  return record;
}

TEST_F(MetricsTest, SumsRightLabelsAndSavedFlopsOfARoundsReports) {
  v1::JournalRecord begin;
  begin.mutable_evaluation_started();
  Add(begin, 0);
  Add(Judged(1), 0);
  Add(Evaluated(0, 8.0, 4), 0);
  Add(Started(1, 1, 3), 1);
  Add(Accepted(100.0, 60.0), 2);
  Add(Accepted(300.0, 240.0), 3);
  Add(Committed(1, 2, 3.5), 4);
  Add(begin, 5);
  Add(Judged(1), 5);
  Add(Judged(2), 6);
  Add(Evaluated(1, 6.0, 4), 7);
  const auto rounds = ReadMetrics(path_);
  ASSERT_TRUE(rounds.ok()) << rounds.status();
  EXPECT_DOUBLE_EQ((*rounds)[0].flops_saved, 0.25);
  EXPECT_DOUBLE_EQ((*rounds)[0].heldout_accuracy, 0.75);
  EXPECT_DOUBLE_EQ(log_->heldout_accuracy_before(), 0.25);
  EXPECT_DOUBLE_EQ(log_->heldout_accuracy(), 0.75);
  EXPECT_DOUBLE_EQ(log_->flops_saved(), 0.25);
}

TEST_F(MetricsTest, ARoundWithoutEvaluationIsWrittenWithNullWhenTheNextBegins) {
  Add(Started(1, 1, 1), 0);
  Add(Committed(1, 1, 2.0), 1);
  Add(Started(2, 3, 1), 2);
  EXPECT_THAT(seen_, testing::ElementsAre(1));
  Add(Committed(2, 1, 1.0), 3);
  ASSERT_TRUE(log_->Finish().ok());
  const auto rounds = ReadMetrics(path_);
  ASSERT_TRUE(rounds.ok()) << rounds.status();
  ASSERT_EQ(rounds->size(), 2u);
  EXPECT_TRUE(std::isnan((*rounds)[0].heldout_loss));
  EXPECT_EQ((*rounds)[1].attempts, 3u);
  EXPECT_EQ(log_->clients_trained(), 2u);
  EXPECT_EQ(log_->training_seconds(), 2.0);
}

TEST_F(MetricsTest, ABrokenLineIsDataLoss) {
  for (const char* text : {"{\"round\":1", "[]", "{\"round\":0}", "{}"}) {
    ASSERT_TRUE(base::WriteFileAtomic(path_, text).ok());
    EXPECT_EQ(ReadMetrics(path_).status().code(), absl::StatusCode::kDataLoss)
        << text;
  }
}

}  // namespace
}  // namespace choir::sim
