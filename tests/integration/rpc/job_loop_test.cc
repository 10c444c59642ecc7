// Check-ins, long polls and jobs over a real TLS connection.
#include <gmock/gmock.h>

#include <functional>
#include <latch>
#include <memory>

#include "tests/integration/rpc/server_fixture.h"

namespace choir::rpc {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

class LoopTest : public ServerTest {
 protected:
  void SetUp() override { StartServer(); }

  // A check-in under way.
  struct Wait {
    std::unique_ptr<v1::Coordinator::Stub> stub;
    grpc::ClientContext context;
    v1::CheckInRequest request;
    v1::CheckInResponse response;
    grpc::Status status;
    std::latch ended{1};
  };
  std::unique_ptr<Wait> Begin(const std::string& name) {
    auto wait = std::make_unique<Wait>();
    wait->stub = AgentStub(Agent(name));
    wait->stub->async()->CheckIn(&wait->context, &wait->request,
                                 &wait->response,
                                 [w = wait.get()](grpc::Status status) {
                                   w->status = status;
                                   w->ended.count_down();
                                 });
    Await([this, name] { return server_->loop().Connected(name); });
    return wait;
  }
  void Await(const std::function<bool()>& condition) {
    for (bool met = false; !met;) OnLoop([&] { met = condition(); });
  }
};

TEST_F(LoopTest, AWaitingClientGetsItsTaskWhenAJobBegins) {
  auto wait = Begin("anna");
  EXPECT_FALSE(wait->ended.try_wait());
  OnLoop([&] { jobs_.plans["anna"].mutable_key()->set_job("j"); });
  ASSERT_TRUE(Submit("j").ok());
  wait->ended.wait();
  ASSERT_TRUE(wait->status.ok()) << wait->status.error_message();
  EXPECT_EQ(wait->response.task().key().job(), "j");
}

TEST_F(LoopTest, ALongPollEndsAndAbsenceCountsAsLeaving) {
  ASSERT_TRUE(Submit("j").ok());
  auto wait = Begin("anna");
  clock_.Advance(absl::Seconds(20));
  server_->loop().Wake();
  wait->ended.wait();
  ASSERT_TRUE(wait->status.ok());
  EXPECT_TRUE(wait->response.has_retry_after_ms());
  OnLoop([&] { EXPECT_TRUE(jobs_.left.empty()) << "it may come back"; });
  clock_.Advance(absl::Seconds(15));
  server_->loop().Wake();
  Await([&] { return !jobs_.left.empty(); });
  OnLoop([&] { EXPECT_THAT(jobs_.left, ElementsAre("anna")); });
}

TEST_F(LoopTest, AClientThatNeverComesBackFromItsTaskCountsAsGone) {
  ASSERT_TRUE(Submit("j").ok());
  OnLoop([&] {
    jobs_.plans["anna"].mutable_key()->set_job("j");
    jobs_.plans["anna"].set_deadline_ms(60000);
  });
  ASSERT_TRUE(CheckIn(Agent("anna")).ok());
  clock_.Advance(absl::Seconds(74));
  server_->loop().Wake();
  OnLoop([&] { EXPECT_TRUE(server_->loop().Connected("anna")) << "training"; });
  clock_.Advance(absl::Seconds(1));
  server_->loop().Wake();
  Await([&] { return !server_->loop().Connected("anna"); });
}

TEST_F(LoopTest, WhatAnAgentSaysOfItselfIsFitForATerminal) {
  const Credentials anna = Agent("anna");
  v1::CheckInRequest request;
  request.mutable_capabilities()->set_device("cpu\x1b[2Jroot");
  request.mutable_capabilities()->set_software_version(std::string(9999, 'v'));
  v1::CheckInResponse response;
  OnLoop([&] { jobs_.plans["anna"].mutable_key()->set_job("j"); });
  ASSERT_TRUE(Submit("j").ok());
  ASSERT_TRUE(
      AgentStub(anna)->CheckIn(Context().get(), request, &response).ok());
  v1::ListClientsResponse clients;
  ASSERT_TRUE(
      AdminStub(operator_)
          ->ListClients(Context().get(), v1::ListClientsRequest(), &clients)
          .ok());
  ASSERT_EQ(clients.clients_size(), 1);
  const v1::Capabilities& shown = clients.clients(0).capabilities();
  EXPECT_EQ(shown.device(), "cpu?[2Jroot");
  EXPECT_LE(shown.software_version().size(), 200u);
}

TEST_F(LoopTest, AClockSetBackDoesNotProlongAWait) {
  auto wait = Begin("anna");
  clock_.Advance(-absl::Hours(1));
  server_->loop().Wake();
  OnLoop([] {});
  EXPECT_FALSE(wait->ended.try_wait());
  clock_.Advance(absl::Seconds(20));
  server_->loop().Wake();
  wait->ended.wait();
  EXPECT_TRUE(wait->status.ok()) << wait->status.error_message();
}

TEST_F(LoopTest, AClientThatHangsUpHasLeft) {
  ASSERT_TRUE(Submit("j").ok());
  auto wait = Begin("anna");
  wait->context.TryCancel();
  wait->ended.wait();
  Await([&] { return !jobs_.left.empty(); });
  OnLoop([&] { EXPECT_FALSE(server_->loop().Connected("anna")); });
}

TEST_F(LoopTest, ASecondCheckInOfTheSameNameEndsTheFirst) {
  auto first = Begin("anna");
  auto second = Begin("anna");
  first->ended.wait();
  EXPECT_EQ(first->status.error_code(), grpc::StatusCode::ABORTED);
  second->context.TryCancel();
  second->ended.wait();
}

TEST_F(LoopTest, ShuttingDownSendsWaitingClientsAway) {
  auto wait = Begin("anna");
  server_->Shutdown(absl::Seconds(5));
  wait->ended.wait();
  EXPECT_EQ(wait->status.error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(LoopTest, JobsRunOneAfterAnotherAndSurviveARestart) {
  ASSERT_TRUE(Submit("one").ok());
  ASSERT_TRUE(Submit("two").ok());
  EXPECT_EQ(Submit("one").error_code(), grpc::StatusCode::ALREADY_EXISTS);
  OnLoop([&] { EXPECT_THAT(jobs_.started, ElementsAre("one")); });
  EXPECT_FALSE(server_->loop().idle());
  StopServer();
  jobs_.started.clear();
  StartServer();
  v1::StopJobRequest stop;
  stop.set_job("one");
  v1::JobStatus status;
  ASSERT_TRUE(
      AdminStub(operator_)->StopJob(Context().get(), stop, &status).ok());
  EXPECT_EQ(status.state(), "stopped");
  OnLoop([&] { EXPECT_THAT(jobs_.started, ElementsAre("one", "two")); });
  stop.set_job("two");
  ASSERT_TRUE(
      AdminStub(operator_)->StopJob(Context().get(), stop, &status).ok());
  OnLoop([] {});
  EXPECT_TRUE(server_->loop().idle());
  stop.set_job("three");
  EXPECT_EQ(AdminStub(operator_)
                ->StopJob(Context().get(), stop, &status)
                .error_code(),
            grpc::StatusCode::NOT_FOUND);
}

TEST_F(LoopTest, AJobThatCannotStartFailsForGoodAndTheNextOneRuns) {
  OnLoop([&] {
    jobs_.cannot_start["odd"] = absl::InvalidArgumentError("its base is odd");
  });
  ASSERT_TRUE(Submit("odd").ok());
  ASSERT_TRUE(Submit("next").ok());
  for (const bool again : {false, true}) {
    OnLoop([&] { EXPECT_THAT(jobs_.started, ElementsAre("next")); });
    v1::StopJobRequest stop;
    stop.set_job("odd");
    v1::JobStatus status;
    ASSERT_TRUE(
        AdminStub(operator_)->StopJob(Context().get(), stop, &status).ok());
    EXPECT_EQ(status.state(), "failed");
    EXPECT_EQ(status.reason(), "its base is odd");
    if (again) break;
    StopServer();
    jobs_.started.clear();
    StartServer();
  }
}

TEST_F(LoopTest, AJobWithoutSenseIsRefusedWithItsField) {
  v1::SubmitJobRequest request;
  request.mutable_job()->set_name("j");
  v1::SubmitJobResponse response;
  const grpc::Status status =
      AdminStub(operator_)->SubmitJob(Context().get(), request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("model.base"));
}

TEST_F(LoopTest, AJobWhoseBaseIsNotThereIsQueuedWithAWarning) {
  v1::SubmitJobRequest request;
  request.mutable_job()->set_name("early");
  request.mutable_job()->mutable_model()->set_base("/models/none");
  request.mutable_job()->mutable_rounds()->set_count(1);
  request.mutable_job()->mutable_rounds()->set_cohort_size(1);
  v1::SubmitJobResponse response;
  const grpc::Status status =
      AdminStub(operator_)->SubmitJob(Context().get(), request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.job(), "early");
  EXPECT_THAT(response.warning(), HasSubstr("/models/none/config.json"));
  EXPECT_THAT(response.warning(), Not(HasSubstr("evaluation")));
}

TEST_F(LoopTest, ASecureJobThatEvaluatesInTheOpenIsQueuedWithAWarning) {
  for (const bool evaluates : {false, true}) {
    v1::SubmitJobRequest request;
    v1::JobConfig& job = *request.mutable_job();
    job.set_name(evaluates ? "evaluates" : "does-not");
    job.mutable_model()->set_base("/models/none");
    job.mutable_rounds()->set_count(1);
    job.mutable_rounds()->set_cohort_size(8);
    job.mutable_secure_aggregation()->set_enabled(true);
    if (evaluates) job.mutable_evaluation()->set_every(1);
    v1::SubmitJobResponse response;
    const grpc::Status status =
        AdminStub(operator_)->SubmitJob(Context().get(), request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    const auto warns =
        AllOf(HasSubstr("/models/none/config.json"),
              HasSubstr("evaluations are not masked by secure aggregation"));
    if (evaluates) {
      EXPECT_THAT(response.warning(), warns);
    } else {
      EXPECT_THAT(response.warning(), Not(HasSubstr("evaluation")));
    }
  }
}

}  // namespace
}  // namespace choir::rpc
