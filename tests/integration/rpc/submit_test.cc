// Jobs that their base model cannot take are refused when they are submitted.
#include <gmock/gmock.h>

#include "base/files.h"
#include "model/checkpoint/model_config.h"
#include "tests/integration/rpc/server_fixture.h"
#include "tests/support/golden.h"

namespace choir::rpc {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class SubmitTest : public ServerTest {
 protected:
  void SetUp() override {
    StartServer();
    model::ModelConfig config;
    config.vocab_size = 40;
    config.hidden_size = 16;
    config.intermediate_size = 24;
    config.num_layers = 2;
    config.num_heads = config.num_kv_heads = 4;
    config.head_dim = 4;
    config.max_positions = 32;
    base_ = tests::NewTempDir();
    ASSERT_TRUE(base::WriteFileAtomic(base::JoinPath(base_, "config.json"),
                                      model::ModelConfigJson(config))
                    .ok());
    job_.set_name("j");
    job_.mutable_model()->set_base(base_);
    job_.mutable_rounds()->set_count(1);
    job_.mutable_rounds()->set_cohort_size(1);
  }

  grpc::Status SubmitIt(const v1::JobConfig& job) {
    v1::SubmitJobRequest request;
    *request.mutable_job() = job;
    v1::SubmitJobResponse response;
    return AdminStub(operator_)->SubmitJob(Context().get(), request, &response);
  }
  std::string Refusal(const v1::JobConfig& job) {
    const grpc::Status status = SubmitIt(job);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT)
        << status.error_message();
    return status.error_message();
  }

  std::string base_;
  v1::JobConfig job_;
};

TEST_F(SubmitTest, TrainingThatTheBaseCannotTakeIsRefused) {
  v1::JobConfig job = job_;
  job.mutable_training()->mutable_router()->set_aux_loss(0.5);
  EXPECT_THAT(Refusal(job), AllOf(HasSubstr("training.router.aux_loss is 0.5"),
                                  HasSubstr("no routers")));
  job = job_;
  job.mutable_training()->mutable_sparsity()->set_max_rate(0.5);
  job.mutable_adapter()->set_kind("dora");
  EXPECT_THAT(Refusal(job),
              AllOf(HasSubstr("training.sparsity.max_rate is 0.5"),
                    HasSubstr("adapter.kind is \"dora\"")));
  // Nothing was queued: the name is still free for the job without them.
  job.mutable_training()->clear_sparsity();
  EXPECT_TRUE(SubmitIt(job).ok());
}

TEST_F(SubmitTest, LayersThatTheBaseDoesNotHaveAreRefused) {
  v1::JobConfig job = job_;
  job.mutable_adapter()->add_target_modules("c_attn");
  EXPECT_THAT(Refusal(job), HasSubstr("'c_attn'"));
}

}  // namespace
}  // namespace choir::rpc
