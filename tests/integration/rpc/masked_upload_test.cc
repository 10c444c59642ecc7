// Masked vectors that are not summed: gone from the disk as soon as nobody will
// add them any more.
#include <gmock/gmock.h>

#include <filesystem>
#include <iterator>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "coordinator/engine/secure_events.h"
#include "tests/integration/rpc/server_fixture.h"

namespace choir::rpc {
namespace {

using Writer = grpc::ClientWriter<v1::UploadChunk>;

class MaskedUploadTest : public ServerTest {
 protected:
  void SetUp() override {
    StartServer();
    key_ = GiveTask(anna_, "anna", {});
    GiveSecureTask();
  }

  // The task again, as one of a round that is summed in secret.
  void GiveSecureTask() {
    OnLoop([this] {
      v1::TaskPlan& plan = jobs_.plans["anna"];
      *plan.mutable_key() = key_;
      plan.mutable_secure_session()->set_session_id("s");
    });
    v1::CheckInResponse response;
    ASSERT_TRUE(CheckIn(anna_, &response).ok());
    ASSERT_TRUE(response.has_task());
  }

  struct Stream {
    std::unique_ptr<v1::Coordinator::Stub> stub;
    std::unique_ptr<grpc::ClientContext> context;
    v1::UploadStatusResponse response;
    std::unique_ptr<Writer> writer;
  };
  // Sends the first `bytes` of `data`.
  std::unique_ptr<Stream> Begin(const std::string& data, size_t bytes) {
    auto stream = std::make_unique<Stream>();
    stream->stub = AgentStub(anna_);
    stream->context = Context();
    stream->writer =
        stream->stub->Upload(stream->context.get(), &stream->response);
    v1::UploadChunk chunk;
    *chunk.mutable_key() = key_;
    chunk.mutable_blob()->set_digest(base::Sha256Hex(data));
    chunk.mutable_blob()->set_size(data.size());
    Write(*stream, chunk, data.substr(0, bytes));
    return stream;
  }
  static void Write(Stream& stream, v1::UploadChunk chunk,
                    const std::string& data) {
    chunk.set_data(data);
    const base::Sha256Digest digest = base::Sha256Of(data);
    chunk.set_data_sha256(std::string(digest.begin(), digest.end()));
    stream.writer->Write(chunk);
  }
  grpc::Status Upload(const std::string& data) {
    auto stream = Begin(data, data.size());
    stream->writer->WritesDone();
    return stream->writer->Finish();
  }
  grpc::Status Report(const std::string& data) {
    v1::SecureExchangeRequest request;
    *request.mutable_key() = key_;
    v1::MaskedInput& masked = *request.mutable_message()->mutable_masked();
    masked.set_digest(base::Sha256Hex(data));
    masked.set_size(data.size());
    v1::SecureExchangeResponse response;
    return AgentStub(anna_)->SecureExchange(Context().get(), request,
                                            &response);
  }

  bool Present(const std::string& data) {
    return store_->blobs().Contains(base::Sha256Hex(data));
  }
  auto Incoming() const {
    return std::distance(
        std::filesystem::directory_iterator(folder_ + "/store/incoming"), {});
  }
  void Close(absl::string_view phase) {
    v1::JournalRecord record;
    v1::SecurePhaseClosed& closed = *record.mutable_secure_phase_closed();
    *closed.mutable_key() = key_;
    closed.set_phase(std::string(phase));
    OnLoop([&] { jobs_.hooks.on_record(record); });
  }
  void Lose() {
    v1::JournalRecord record;
    record.mutable_round_lost()->set_job(key_.job());
    record.mutable_round_lost()->set_round(key_.round());
    record.mutable_round_lost()->set_attempt(key_.attempt());
    OnLoop([&] { jobs_.hooks.on_record(record); });
  }

  const Credentials anna_ = Agent("anna");
  const std::string vector_ = absl::StrCat("CHV1", std::string(5000, 'm'));
  v1::TaskKey key_;
};

TEST_F(MaskedUploadTest, OneThatIsNeverReportedGoesWithThePhase) {
  ASSERT_TRUE(Upload(vector_).ok());
  Close(engine::kShareKeys);
  EXPECT_TRUE(Present(vector_)) << "its phase comes yet";
  Close(engine::kMaskedInput);
  EXPECT_FALSE(Present(vector_));
  EXPECT_EQ(Upload(vector_).error_code(), grpc::StatusCode::ABORTED);
  // Asking for the task again does not open it.
  GiveSecureTask();
  EXPECT_EQ(Upload(vector_).error_code(), grpc::StatusCode::ABORTED);
  EXPECT_FALSE(Present(vector_));
  EXPECT_EQ(Incoming(), 0);
}

TEST_F(MaskedUploadTest, OneThatIsNeverReportedGoesWithTheAttempt) {
  ASSERT_TRUE(Upload(vector_).ok());
  Lose();
  EXPECT_FALSE(Present(vector_));
}

TEST_F(MaskedUploadTest, OneThatIsReportedTooLateGoesWithTheAnswer) {
  ASSERT_TRUE(Upload(vector_).ok());
  OnLoop([this] {
    jobs_.say_secure = [] { return absl::AbortedError("too late"); };
  });
  EXPECT_EQ(Report(vector_).error_code(), grpc::StatusCode::ABORTED);
  OnLoop([] {});
  EXPECT_FALSE(Present(vector_));
}

TEST_F(MaskedUploadTest, OneThatIsRefusedGoesWithThePhase) {
  ASSERT_TRUE(Upload(vector_).ok());
  OnLoop([this] {
    jobs_.say_secure = [] { return absl::InvalidArgumentError("wrong"); };
  });
  EXPECT_EQ(Report(vector_).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  Close(engine::kMaskedInput);
  EXPECT_FALSE(Present(vector_));
}

TEST_F(MaskedUploadTest, OneThatWasNotTakenForLackOfSpaceStaysForTheNextTry) {
  ASSERT_TRUE(Upload(vector_).ok());
  OnLoop([this] {
    jobs_.say_secure = [] { return absl::UnavailableError("disk full"); };
  });
  EXPECT_EQ(Report(vector_).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(Present(vector_));
  Close(engine::kMaskedInput);
  EXPECT_FALSE(Present(vector_));
}

TEST_F(MaskedUploadTest, OneOfAClientThatIsGoneGoesWithItsTask) {
  ASSERT_TRUE(Upload(vector_).ok());
  v1::RevokeClientRequest revoke;
  revoke.set_name("anna");
  v1::ClientStatus revoked;
  ASSERT_TRUE(AdminStub(operator_)
                  ->RevokeClient(Context().get(), revoke, &revoked)
                  .ok());
  OnLoop([] {});
  EXPECT_FALSE(Present(vector_));
}

TEST_F(MaskedUploadTest, OneThatStillArrivesWhenThePhaseClosesIsDropped) {
  auto stream = Begin(vector_, 3000);
  while (Incoming() == 0) OnLoop([] {});
  Close(engine::kMaskedInput);
  EXPECT_EQ(Incoming(), 0);
  v1::UploadChunk rest;
  rest.set_offset(3000);
  Write(*stream, rest, vector_.substr(3000));
  stream->writer->WritesDone();
  EXPECT_EQ(stream->writer->Finish().error_code(), grpc::StatusCode::ABORTED);
  EXPECT_FALSE(Present(vector_));
  EXPECT_EQ(Incoming(), 0);
}

TEST_F(MaskedUploadTest, OneThatHasArrivedInPartGoesWithTheAttempt) {
  auto stream = Begin(vector_, 3000);
  stream->writer->WritesDone();
  ASSERT_TRUE(stream->writer->Finish().ok());
  EXPECT_EQ(Incoming(), 1);
  Lose();
  EXPECT_EQ(Incoming(), 0);
}

TEST_F(MaskedUploadTest, OneThatHasArrivedInPartGoesWithTheProcess) {
  auto stream = Begin(vector_, 3000);
  stream->writer->WritesDone();
  ASSERT_TRUE(stream->writer->Finish().ok());
  StopServer();
  EXPECT_EQ(Incoming(), 1);
  StartServer();
  EXPECT_EQ(Incoming(), 0);
}

TEST_F(MaskedUploadTest, WhatIsNoMaskedVectorStays) {
  const std::string sum = "CHS1 a round's sum";
  ASSERT_TRUE(store_->blobs().Put(sum).ok());
  ASSERT_TRUE(Upload(sum).ok() || Present(sum));
  Close(engine::kMaskedInput);
  Lose();
  EXPECT_TRUE(Present(sum));
}

// Between the last byte and the blob's name, the phase is closed: whoever gives
// it the name removes it.
TEST_F(MaskedUploadTest, OneThatGetsItsNameAfterThePhaseIsRemoved) {
  registry::Registry registry;
  RefusalLog refusals(clock_, [](v1::PeerRefused) {});
  auto gate = *Gate::Create({ca_.certificate_pem(), folder_ + "/crl.pem"},
                            registry, clock_, refusals);
  WorkBoard board;
  Uploads uploads(TransferOptions(), store_->blobs(), board, *gate);
  v1::TaskPlan plan;
  *plan.mutable_key() = key_;
  plan.mutable_secure_session();
  EXPECT_TRUE(board.Give("anna", plan).clients.empty());
  PeerIdentity anna;
  anna.name = "anna";
  v1::BlobRef blob;
  blob.set_digest(base::Sha256Hex(vector_));
  blob.set_size(vector_.size());
  ASSERT_TRUE(uploads.Check(anna, key_, blob).ok());
  auto slot = uploads.Slot(anna, blob);
  const auto turn = uploads.Begin(anna, key_, *slot);
  ASSERT_TRUE(turn.ok()) << turn.status();
  ASSERT_TRUE(slot->Append(*turn, 0, vector_).ok());
  const WorkBoard::Remains remains = board.Close("j", 1, 1);
  EXPECT_THAT(remains.clients, testing::ElementsAre("anna"));
  EXPECT_THAT(remains.payloads, testing::IsEmpty());
  EXPECT_TRUE(
      absl::IsAborted(uploads.Finish(anna, key_, *slot, *turn).status()));
  EXPECT_FALSE(Present(vector_));
  // Between the check and the slot: nothing is begun.
  EXPECT_TRUE(absl::IsAborted(uploads.Begin(anna, key_, *slot).status()));
  EXPECT_EQ(Incoming(), 0);
}

}  // namespace
}  // namespace choir::rpc
