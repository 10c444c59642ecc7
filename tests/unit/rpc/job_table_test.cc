#include "coordinator/rpc/job_table.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>

#include "absl/strings/str_cat.h"

namespace choir::rpc {
namespace {

class JobTableTest : public testing::Test {
 protected:
  void Submit(const std::string& name) {
    v1::JournalRecord record;
    record.mutable_job_submitted()->mutable_config()->set_name(name);
    record.mutable_job_submitted()
        ->mutable_config()
        ->mutable_rounds()
        ->set_count(3);
    ASSERT_TRUE(jobs_.Apply(record).ok());
  }
  void Start(const std::string& name) {
    v1::JournalRecord record;
    v1::JobStarted* started = record.mutable_job_started();
    started->set_job(name);
    started->add_base_model()->mutable_blob()->set_digest("base");
    started->mutable_adapter()->set_digest("v0");
    started->mutable_adapter_config()->set_digest("settings");
    ASSERT_TRUE(jobs_.Apply(record).ok());
  }
  absl::Status Commit(const std::string& name, uint32_t round) {
    v1::JournalRecord record;
    v1::RoundCommitted* committed = record.mutable_round_committed();
    committed->set_job(name);
    committed->set_round(round);
    committed->mutable_adapter()->set_digest(absl::StrCat("v", round));
    return jobs_.Apply(record);
  }
  void Finish(const std::string& name, v1::JobFinished::State state) {
    v1::JournalRecord record;
    record.mutable_job_finished()->set_job(name);
    record.mutable_job_finished()->set_state(state);
    ASSERT_TRUE(jobs_.Apply(record).ok());
  }
  JobTable jobs_;
};

TEST_F(JobTableTest, JobsComeOneAfterAnother) {
  EXPECT_FALSE(jobs_.Next().has_value());
  Submit("b");
  Submit("a");
  EXPECT_EQ(jobs_.Next()->name(), "b");
  EXPECT_EQ(jobs_.Ahead("a"), 1u);
  Start("b");
  EXPECT_EQ(jobs_.Next()->name(), "b") << "running, not finished";
  Finish("b", v1::JobFinished::DONE);
  EXPECT_EQ(jobs_.Next()->name(), "a");
  EXPECT_EQ(jobs_.Ahead("a"), 0u);
  Finish("a", v1::JobFinished::STOPPED);
  EXPECT_FALSE(jobs_.Next().has_value());
  EXPECT_EQ(jobs_.Status("a")->state(), "stopped");
}

TEST_F(JobTableTest, VersionsAreFoundByNumber) {
  Submit("j");
  EXPECT_EQ(jobs_.Model("j", -1).status().code(),
            absl::StatusCode::kFailedPrecondition);
  Start("j");
  ASSERT_TRUE(Commit("j", 1).ok());
  ASSERT_TRUE(Commit("j", 2).ok());
  EXPECT_EQ(jobs_.Model("j", -1)->version(), 2u);
  const v1::GetModelResponse first = *jobs_.Model("j", 0);
  ASSERT_EQ(first.files_size(), 2);
  EXPECT_EQ(first.files(0).name(), "adapter_model.safetensors");
  EXPECT_EQ(first.files(0).blob().digest(), "v0");
  EXPECT_EQ(first.files(1).blob().digest(), "settings");
  EXPECT_EQ(jobs_.Model("j", 3).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(jobs_.Model("j", -2).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(jobs_.Model("k", 0).status().code(), absl::StatusCode::kNotFound);
  for (const char* blob : {"base", "v0", "v1", "v2", "settings"}) {
    EXPECT_TRUE(jobs_.IsModelBlob(blob)) << blob;
  }
  EXPECT_FALSE(jobs_.IsModelBlob("update of a client"));
}

TEST_F(JobTableTest, StatusSaysTheLastEvaluationsAccuracy) {
  Submit("j");
  Start("j");
  EXPECT_TRUE(std::isnan(jobs_.Status("j")->heldout_accuracy()));
  for (const uint64_t correct : {1, 3}) {
    v1::JournalRecord begin, one, end;
    begin.mutable_evaluation_started()->set_job("j");
    one.mutable_evaluation_accepted()->mutable_key()->set_job("j");
    one.mutable_evaluation_accepted()->mutable_report()->set_correct(correct);
    end.mutable_evaluation_finished()->set_job("j");
    end.mutable_evaluation_finished()->set_tokens(8);
    for (const auto& record : {begin, one, one, end}) {
      ASSERT_TRUE(jobs_.Apply(record).ok());
    }
    EXPECT_EQ(jobs_.Status("j")->heldout_accuracy(), 2.0 * correct / 8.0);
  }
}

TEST_F(JobTableTest, StatusSumsUpTheRecords) {
  Submit("j");
  Start("j");
  EXPECT_TRUE(std::isnan(jobs_.Status("j")->heldout_loss()));
  v1::JournalRecord record;
  record.mutable_evaluation_finished()->set_job("j");
  record.mutable_evaluation_finished()->set_loss_sum(6);
  record.mutable_evaluation_finished()->set_tokens(2);
  ASSERT_TRUE(jobs_.Apply(record).ok());
  ASSERT_TRUE(Commit("j", 1).ok());
  record.mutable_evaluation_finished()->set_version(1);
  record.mutable_evaluation_finished()->set_loss_sum(4);
  ASSERT_TRUE(jobs_.Apply(record).ok());
  v1::JournalRecord lost;
  lost.mutable_round_lost()->set_job("j");
  ASSERT_TRUE(jobs_.Apply(lost).ok());
  v1::JournalRecord update;
  update.mutable_update_accepted()->mutable_key()->set_job("j");
  v1::TrainReport* report = update.mutable_update_accepted()->mutable_report();
  report->mutable_update()->set_size(10);
  report->set_bytes_downloaded(7);
  ASSERT_TRUE(jobs_.Apply(update).ok());
  v1::JournalRecord evaluation;
  evaluation.mutable_evaluation_accepted()->mutable_key()->set_job("j");
  evaluation.mutable_evaluation_accepted()
      ->mutable_report()
      ->set_bytes_downloaded(UINT64_MAX - 1);
  ASSERT_TRUE(jobs_.Apply(evaluation).ok());
  const v1::JobStatus status = *jobs_.Status("j");
  EXPECT_EQ(status.heldout_loss_before(), 3.0);
  EXPECT_EQ(status.heldout_loss(), 2.0);
  EXPECT_EQ(status.rounds_committed(), 1u);
  EXPECT_EQ(status.rounds_lost(), 1u);
  EXPECT_EQ(status.rounds_total(), 3u);
  EXPECT_EQ(status.bytes_up(), 10u);
  EXPECT_EQ(status.bytes_down(), UINT64_MAX) << "no wrapping around";
  EXPECT_EQ(status.state(), "running");
  EXPECT_EQ(status.adapter_digest(), "v1");
}

TEST_F(JobTableTest, RecordsThatCannotFollowAreDataLoss) {
  EXPECT_EQ(Commit("nobody", 1).code(), absl::StatusCode::kDataLoss);
  Submit("j");
  Start("j");
  EXPECT_EQ(Commit("j", 2).code(), absl::StatusCode::kDataLoss);
  v1::JournalRecord again;
  again.mutable_job_submitted()->mutable_config()->set_name("j");
  EXPECT_EQ(jobs_.Apply(again).code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace choir::rpc
