// Chunks: downloads and uploads over a real TLS connection.
#include <gmock/gmock.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "tests/integration/rpc/server_fixture.h"

namespace choir::rpc {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string Bytes(size_t size, unsigned seed) {
  std::string bytes(size, '\0');
  uint32_t x = seed * 2654435761u + 1;
  for (char& c : bytes) {
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    c = static_cast<char>(x);
  }
  return bytes;
}

std::string DigestBytes(const std::string& data) {
  const base::Sha256Digest digest = base::Sha256Of(data);
  return std::string(digest.begin(), digest.end());
}

class TransferTest : public ServerTest {
 protected:
  void SetUp() override { StartServer(); }

  struct Upload {
    grpc::Status status;
    uint64_t received = 0;
  };
  // Sends data[from, to) in chunks of `chunk` bytes.
  Upload Send(const Credentials& who, const v1::TaskKey& key,
              const std::string& data, size_t from, size_t to,
              size_t chunk = 100000, bool broken_digest = false) {
    auto stub = AgentStub(who);
    auto context = Context();
    v1::UploadStatusResponse response;
    auto writer = stub->Upload(context.get(), &response);
    for (size_t at = from; at < to; at += chunk) {
      v1::UploadChunk part;
      if (at == from) {
        *part.mutable_key() = key;
        part.mutable_blob()->set_digest(base::Sha256Hex(data));
        part.mutable_blob()->set_size(data.size());
      }
      part.set_offset(at);
      part.set_data(data.substr(at, std::min(chunk, to - at)));
      part.set_data_sha256(
          DigestBytes(broken_digest && at > from ? "x" : part.data()));
      if (!writer->Write(part)) break;
    }
    writer->WritesDone();
    Upload out;
    out.status = writer->Finish();
    out.received = response.received_bytes();
    return out;
  }
  uint64_t Received(const Credentials& who, const v1::TaskKey& key,
                    const std::string& data) {
    v1::UploadStatusRequest request;
    *request.mutable_key() = key;
    request.mutable_blob()->set_digest(base::Sha256Hex(data));
    request.mutable_blob()->set_size(data.size());
    v1::UploadStatusResponse response;
    const grpc::Status status =
        AgentStub(who)->GetUploadStatus(Context().get(), request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.received_bytes();
  }
  grpc::Status Fetch(const Credentials& who, const std::string& digest,
                     uint64_t offset, std::string* out) {
    auto stub = AgentStub(who);
    auto context = Context();
    v1::DownloadRequest request;
    request.set_digest(digest);
    request.set_offset(offset);
    auto reader = stub->Download(context.get(), request);
    v1::DownloadChunk chunk;
    while (reader->Read(&chunk)) {
      EXPECT_EQ(chunk.offset(), offset + out->size());
      out->append(chunk.data());
    }
    return reader->Finish();
  }
};

TEST_F(TransferTest, ADownloadBeginsAtItsOffset) {
  const std::string data = Bytes(1000000, 1);
  const v1::BlobRef blob = *store_->blobs().Put(data);
  const Credentials anna = Agent("anna");
  GiveTask(anna, "anna", {blob});
  for (const size_t offset :
       {size_t{0}, size_t{1}, size_t{777777}, data.size()}) {
    std::string got;
    const grpc::Status status = Fetch(anna, blob.digest(), offset, &got);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_TRUE(got == data.substr(offset)) << "offset " << offset;
  }
  std::string got;
  EXPECT_EQ(Fetch(anna, blob.digest(), data.size() + 1, &got).error_code(),
            grpc::StatusCode::OUT_OF_RANGE);
}

TEST_F(TransferTest, AgentsFetchWhatTheirTaskNamesAndNothingElse) {
  const v1::BlobRef mine = *store_->blobs().Put("the model");
  const v1::BlobRef secret = *store_->blobs().Put("another client's update");
  const Credentials anna = Agent("anna");
  GiveTask(anna, "anna", {mine});
  std::string got;
  EXPECT_TRUE(Fetch(anna, mine.digest(), 0, &got).ok());
  EXPECT_EQ(got, "the model");
  std::string nothing;
  EXPECT_EQ(Fetch(anna, secret.digest(), 0, &nothing).error_code(),
            grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(Fetch(Agent("berta"), mine.digest(), 0, &nothing).error_code(),
            grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(nothing, "");
}

uint64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  uint64_t pages = 0;
  uint64_t resident = 0;
  statm >> pages >> resident;
  return resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

TEST_F(TransferTest, EightDownloadsAtOnceTakeLittleMemory) {
#if defined(CHOIR_TSAN) || defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "the sanitizer's own memory would be measured";
#endif
  const std::string path = folder_ + "/big";
  constexpr size_t kSize = 64u << 20;
  {
    std::ofstream file(path, std::ios::binary);
    for (unsigned i = 0; i < 64; ++i) file << Bytes(1u << 20, i + 1);
  }
  const v1::BlobRef blob = *store_->blobs().PutFile(path);
  ASSERT_EQ(blob.size(), kSize);
  const Credentials anna = Agent("anna");
  GiveTask(anna, "anna", {blob});
  const uint64_t before = ResidentBytes();
  std::vector<std::thread> threads;
  std::atomic<uint64_t> highest{0};
  std::atomic<uint64_t> received{0};
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      auto stub = AgentStub(anna);
      grpc::ClientContext context;
      v1::DownloadRequest request;
      request.set_digest(blob.digest());
      auto reader = stub->Download(&context, request);
      v1::DownloadChunk chunk;
      while (reader->Read(&chunk)) {
        received += chunk.data().size();
        const uint64_t now = ResidentBytes();
        uint64_t seen = highest;
        while (now > seen && !highest.compare_exchange_weak(seen, now)) {
        }
      }
      EXPECT_TRUE(reader->Finish().ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(received, 8 * kSize);
  // Not even one copy of the file, and readers' windows are among it.
  EXPECT_LT(highest - std::min<uint64_t>(before, highest), kSize);
}

TEST_F(TransferTest, AnUploadArrivesWhole) {
  const Credentials anna = Agent("anna");
  const v1::TaskKey key = GiveTask(anna, "anna", {});
  const std::string data = Bytes(1000001, 3);
  EXPECT_EQ(Received(anna, key, data), 0u);
  const Upload upload = Send(anna, key, data, 0, data.size());
  ASSERT_TRUE(upload.status.ok()) << upload.status.error_message();
  EXPECT_EQ(upload.received, data.size());
  EXPECT_EQ(*store_->blobs().Read(base::Sha256Hex(data)), data);
  EXPECT_EQ(Received(anna, key, data), data.size());
}

TEST_F(TransferTest, AnUploadIsResumedAlsoAfterARestart) {
  const Credentials anna = Agent("anna");
  v1::TaskKey key = GiveTask(anna, "anna", {});
  const std::string data = Bytes(1000000, 4);
  EXPECT_TRUE(Send(anna, key, data, 0, 300000).status.ok());
  EXPECT_EQ(Received(anna, key, data), 300000u);
  StopServer();
  StartServer();
  key = GiveTask(anna, "anna", {});
  const uint64_t received = Received(anna, key, data);
  EXPECT_EQ(received, 300000u);
  const Upload rest = Send(anna, key, data, received, data.size());
  ASSERT_TRUE(rest.status.ok()) << rest.status.error_message();
  EXPECT_EQ(*store_->blobs().Read(base::Sha256Hex(data)), data);
}

TEST_F(TransferTest, AGapOrAnOverlapIsRefusedWithTheRightOffset) {
  const Credentials anna = Agent("anna");
  const v1::TaskKey key = GiveTask(anna, "anna", {});
  const std::string data = Bytes(500000, 5);
  EXPECT_TRUE(Send(anna, key, data, 0, 200000).status.ok());
  for (const size_t from : {size_t{0}, size_t{300000}}) {
    const Upload upload = Send(anna, key, data, from, data.size());
    EXPECT_EQ(upload.status.error_code(), grpc::StatusCode::OUT_OF_RANGE);
    EXPECT_THAT(upload.status.error_message(), HasSubstr("200000"));
  }
  EXPECT_EQ(Received(anna, key, data), 200000u);
}

TEST_F(TransferTest, AChunkWithAWrongDigestIsRefusedAndRecorded) {
  const Credentials anna = Agent("anna");
  const v1::TaskKey key = GiveTask(anna, "anna", {});
  const std::string data = Bytes(500000, 6);
  const Upload upload =
      Send(anna, key, data, 0, data.size(), 100000, /*broken_digest=*/true);
  EXPECT_EQ(upload.status.error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_THAT(upload.status.error_message(), HasSubstr("offset 100000"));
  EXPECT_THAT(Refusals(),
              ElementsAre(HasSubstr("anna /choir.v1.Coordinator/Upload")));
  EXPECT_EQ(Received(anna, key, data), 100000u) << "the good chunk stays";
}

TEST_F(TransferTest, ABlobThatIsNotWhatWasAnnouncedIsDropped) {
  const Credentials anna = Agent("anna");
  const v1::TaskKey key = GiveTask(anna, "anna", {});
  const std::string data = Bytes(300000, 7);
  std::string lie = data;
  lie[12345] = static_cast<char>(lie[12345] ^ 1);
  auto stub = AgentStub(anna);
  auto context = Context();
  v1::UploadStatusResponse response;
  auto writer = stub->Upload(context.get(), &response);
  v1::UploadChunk chunk;
  *chunk.mutable_key() = key;
  chunk.mutable_blob()->set_digest(base::Sha256Hex(data));
  chunk.mutable_blob()->set_size(data.size());
  for (size_t at = 0; at < lie.size(); at += 100000) {
    chunk.set_offset(at);
    chunk.set_data(lie.substr(at, 100000));
    chunk.set_data_sha256(DigestBytes(chunk.data()));
    ASSERT_TRUE(writer->Write(chunk));
  }
  writer->WritesDone();
  EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_FALSE(store_->blobs().Contains(base::Sha256Hex(data)));
  EXPECT_FALSE(store_->blobs().Contains(base::Sha256Hex(lie)));
  EXPECT_EQ(Received(anna, key, data), 0u);
  EXPECT_EQ(Refusals().size(), 1u);
}

TEST_F(TransferTest, OversizedChunksAndUpdatesAreRefusedAndRecorded) {
  const Credentials anna = Agent("anna");
  const v1::TaskKey key = GiveTask(anna, "anna", {});
  const std::string data = Bytes(600000, 8);
  const Upload upload = Send(anna, key, data, 0, data.size(), 300000);
  EXPECT_EQ(upload.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(upload.status.error_message(), HasSubstr("at most 262144"));
  EXPECT_EQ(Refusals().size(), 1u);
  clock_.Advance(absl::Minutes(2));
  v1::UploadStatusRequest request;
  *request.mutable_key() = key;
  request.mutable_blob()->set_digest(base::Sha256Hex(data));
  request.mutable_blob()->set_size((64u << 20) + 1);
  v1::UploadStatusResponse response;
  const grpc::Status status =
      AgentStub(anna)->GetUploadStatus(Context().get(), request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("max_update_mib"));
  EXPECT_EQ(Refusals().size(), 2u);
}

TEST_F(TransferTest, OnlyAClientWithTheTaskMayUpload) {
  const Credentials anna = Agent("anna");
  v1::TaskKey key = GiveTask(anna, "anna", {});
  const std::string data = Bytes(1000, 9);
  EXPECT_EQ(Send(Agent("berta"), key, data, 0, 1000).status.error_code(),
            grpc::StatusCode::ABORTED);
  key.set_round(2);
  EXPECT_EQ(Send(anna, key, data, 0, 1000).status.error_code(),
            grpc::StatusCode::ABORTED);
  EXPECT_FALSE(store_->blobs().Contains(base::Sha256Hex(data)));
}

TEST_F(TransferTest, AnUpdateThatIsNeverReportedDoesNotOutliveItsJob) {
  const v1::BlobRef model = *store_->blobs().Put("the model");
  const Credentials anna = Agent("anna");
  const v1::TaskKey key = GiveTask(anna, "anna", {model});
  const std::string before = "CHU1" + Bytes(1000, 10);
  const std::string after = "CHU1" + Bytes(1000, 11);
  ASSERT_TRUE(Send(anna, key, before, 0, before.size()).status.ok());
  StopServer();
  StartServer();
  GiveTask(anna, "anna", {model});
  ASSERT_TRUE(Send(anna, key, after, 0, after.size()).status.ok());
  EXPECT_TRUE(store_->blobs().Contains(base::Sha256Hex(before)))
      << "it may still be reported";
  v1::StopJobRequest stop;
  stop.set_job("j");
  v1::JobStatus stopped;
  ASSERT_TRUE(
      AdminStub(operator_)->StopJob(Context().get(), stop, &stopped).ok());
  OnLoop([] {});
  EXPECT_FALSE(store_->blobs().Contains(base::Sha256Hex(before)));
  EXPECT_FALSE(store_->blobs().Contains(base::Sha256Hex(after)));
  EXPECT_TRUE(store_->blobs().Contains(model.digest()));
}

TEST_F(TransferTest, ATaskTakesAFewDifferentUpdatesAndNoMore) {
  const Credentials anna = Agent("anna");
  const v1::TaskKey key = GiveTask(anna, "anna", {});
  for (unsigned i = 0; i < 4; ++i) {
    const std::string data = Bytes(1000, 20 + i);
    EXPECT_TRUE(Send(anna, key, data, 0, data.size()).status.ok());
    GiveTask(anna, "anna", {});  // asking for the task again is no new task
  }
  const std::string more = Bytes(1000, 30);
  const Upload refused = Send(anna, key, more, 0, more.size());
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.status.error_message(),
              HasSubstr("4 different updates for job j, round 1"));
  EXPECT_FALSE(store_->blobs().Contains(base::Sha256Hex(more)));
  EXPECT_THAT(Refusals(), ElementsAre(HasSubstr("different updates")));
  const std::string first = Bytes(1000, 20);
  EXPECT_EQ(Received(anna, key, first), first.size()) << "repeated";
}

TEST_F(TransferTest, AnAbandonedUploadTakesNoSpace) {
  const Credentials anna = Agent("anna");
  const v1::TaskKey key = GiveTask(anna, "anna", {});
  const std::string abandoned = Bytes(1000, 40);
  const std::string other = Bytes(1000, 41);
  EXPECT_EQ(Send(anna, key, abandoned, 0, 600).received, 600u);
  EXPECT_EQ(Send(anna, key, other, 0, 300).received, 300u);
  EXPECT_EQ(Received(anna, key, other), 300u);
  EXPECT_EQ(Received(anna, key, abandoned), 0u) << "dropped for the other";
}

TEST_F(TransferTest, ABlobThatIsNoUpdateIsNotRemovedForAnUpload) {
  const v1::BlobRef sum = *store_->blobs().Put("CHS1 a round's sum");
  const Credentials anna = Agent("anna");
  const v1::TaskKey key = GiveTask(anna, "anna", {});
  // It is there already, and so the upload counts as complete.
  EXPECT_EQ(Received(anna, key, "CHS1 a round's sum"), sum.size());
  v1::StopJobRequest stop;
  stop.set_job("j");
  v1::JobStatus stopped;
  ASSERT_TRUE(
      AdminStub(operator_)->StopJob(Context().get(), stop, &stopped).ok());
  OnLoop([] {});
  EXPECT_TRUE(store_->blobs().Contains(sum.digest()));
}

TEST_F(TransferTest, ARevokedClientsTaskIsLostAtOnce) {
  const Credentials anna = Agent("anna");
  GiveTask(anna, "anna", {});
  v1::RevokeClientRequest revoke;
  revoke.set_name("anna");
  v1::ClientStatus revoked;
  ASSERT_TRUE(AdminStub(operator_)
                  ->RevokeClient(Context().get(), revoke, &revoked)
                  .ok());
  EXPECT_FALSE(revoked.connected());
  OnLoop([&] { EXPECT_THAT(jobs_.lost, ElementsAre("anna")); });
}

TEST_F(TransferTest, ACrashAtAJobsEndLeavesNoUpdatesBehind) {
  ASSERT_TRUE(Submit("j").ok());
  OnLoop([] {});
  const v1::BlobRef update = *store_->blobs().Put("CHU1 anna's update");
  v1::JournalRecord round;
  round.mutable_round_started()->set_job("j");
  v1::JournalRecord accepted;
  accepted.mutable_update_accepted()->mutable_key()->set_job("j");
  *accepted.mutable_update_accepted()->mutable_report()->mutable_update() =
      update;
  ASSERT_TRUE(store_->journal().Append({round, accepted}).ok());
  StopServer();
  StartServer();
  OnLoop([] {});
  EXPECT_TRUE(store_->blobs().Contains(update.digest())) << "to be summed yet";
  v1::JournalRecord finished;
  finished.mutable_job_finished()->set_job("j");
  finished.mutable_job_finished()->set_state(v1::JobFinished::STOPPED);
  ASSERT_TRUE(store_->journal().Append({finished}).ok());
  StopServer();
  StartServer();
  OnLoop([] {});
  EXPECT_FALSE(store_->blobs().Contains(update.digest()));
}

TEST_F(TransferTest, AReportReachesTheJob) {
  const Credentials anna = Agent("anna");
  v1::ReportRequest request;
  *request.mutable_key() = GiveTask(anna, "anna", {});
  request.mutable_train()->set_num_examples(7);
  v1::ReportResponse response;
  ASSERT_TRUE(
      AgentStub(anna)->Report(Context().get(), request, &response).ok());
  EXPECT_EQ(response.verdict(), v1::ReportResponse::ACCEPTED);
  OnLoop([&] { ASSERT_EQ(jobs_.updates.size(), 1u); });
  request.mutable_key()->set_job("another");
  ASSERT_TRUE(
      AgentStub(anna)->Report(Context().get(), request, &response).ok());
  EXPECT_EQ(response.verdict(), v1::ReportResponse::TOO_LATE);
  request.mutable_key()->set_job("j");
  request.mutable_evaluation();
  EXPECT_EQ(
      AgentStub(anna)->Report(Context().get(), request, &response).error_code(),
      grpc::StatusCode::INVALID_ARGUMENT);
}

}  // namespace
}  // namespace choir::rpc
