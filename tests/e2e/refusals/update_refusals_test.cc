// Updates and chunks that are not what they should be, sent by a peer with a
// good certificate to a real coordinator.
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/codec/flat_update.h"
#include "tests/e2e/refusals/audited.h"
#include "tests/e2e/refusals/raw_peer.h"

namespace choir::tests {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

class UpdateRefusals : public AuditedTest {
 protected:
  // A job whose only client is the peer; losing rounds does not end it soon.
  static void SubmitJob(const std::string& name, bool evaluate) {
    cluster().Submit(absl::StrCat(
        MicroJob(name, 1, 1, "max_lost_in_a_row = 50\n"),
        "[aggregation]\nmax_examples_per_client = 1000\n[evaluation]\nevery = ",
        evaluate ? 1 : 0, "\n"));
  }
  // Does what an honest peer does, and sees the job end.
  static void FinishJob(RawPeer& peer, const std::string& job) {
    const v1::TaskPlan plan = peer.NextTask();
    ASSERT_EQ(plan.key().kind(), v1::TASK_KIND_TRAIN);
    const std::string update = ZeroUpdate(peer.LayoutOf(plan));
    const auto sent = peer.Upload(plan.key(), RefOf(update), update);
    ASSERT_TRUE(sent.ok()) << sent.status();
    const auto verdict =
        peer.transport().Report(RawPeer::Report(plan.key(), RefOf(update)));
    ASSERT_TRUE(verdict.ok()) << verdict.status();
    EXPECT_EQ(verdict->verdict(), v1::ReportResponse::ACCEPTED)
        << verdict->reason();
    const JobView view = cluster().AwaitJob(job, absl::Seconds(20));
    EXPECT_EQ(view.state, "done");
    EXPECT_EQ(view.rounds_committed, 1);
    // Nothing that was refused is in the sum.
    EXPECT_EQ(view.adapter_digest,
              absl::StrCat("sha256:", plan.adapter().digest()));
  }
};

// What a lying peer makes of an honest update and report.
struct Lie {
  std::string expected;  // part of the reason
  std::function<void(std::string* update, v1::TrainReport* report)> tell;
};

void SetElement(std::string* update, size_t index, float value) {
  std::memcpy(
      update->data() + codec::kFlatUpdateHeaderBytes + index * sizeof(float),
      &value, sizeof(value));
}

std::vector<Lie> Lies() {
  return {
      {"layout",
       [](std::string* update, v1::TrainReport*) {
         (*update)[4] ^= 1;  // the layout's digest
       }},
      {"updates have",
       [](std::string* update, v1::TrainReport*) { update->append(4, '\0'); }},
      {"CHU1",
       [](std::string* update, v1::TrainReport*) { (*update)[0] = 'X'; }},
      {"not finite",
       [](std::string* update, v1::TrainReport*) {
         SetElement(update, 7, std::numeric_limits<float>::quiet_NaN());
       }},
      {"not finite",
       [](std::string* update, v1::TrainReport*) {
         SetElement(update, 0, -kInfinity);
       }},
      {"128", [](std::string* update,
                 v1::TrainReport*) { SetElement(update, 3, 1e6f); }},
      {"claims 0 examples; 1 to 1000 are allowed",
       [](std::string*, v1::TrainReport* report) {
         report->set_num_examples(0);
       }},
      {"claims 1001 examples; 1 to 1000 are allowed "
       "(aggregation.max_examples_per_client)",
       [](std::string*, v1::TrainReport* report) {
         report->set_num_examples(1001);
       }},
      {"mean loss is not finite",
       [](std::string*, v1::TrainReport* report) {
         report->set_mean_loss(kNan);
       }},
      {"was not uploaded",
       [](std::string*, v1::TrainReport* report) {
         report->mutable_update()->set_digest(std::string(64, 'a'));
       }},
  };
}

TEST_F(UpdateRefusals, LiesAboutAnUpdate) {
  RawPeer peer(cluster(), "mallory");
  SubmitJob("lies", /*evaluate=*/false);
  std::vector<testing::Matcher<std::string>> expected;
  for (const Lie& lie : Lies()) {
    SCOPED_TRACE(lie.expected);
    const v1::TaskPlan plan = peer.NextTask();
    std::string update = ZeroUpdate(peer.LayoutOf(plan));
    v1::TrainReport unused;
    lie.tell(&update, &unused);
    const auto sent = peer.Upload(plan.key(), RefOf(update), update);
    ASSERT_TRUE(sent.ok()) << sent.status();
    v1::ReportRequest report = RawPeer::Report(plan.key(), RefOf(update));
    lie.tell(&update, report.mutable_train());
    const auto verdict = peer.transport().Report(report);
    ASSERT_TRUE(verdict.ok()) << verdict.status();
    EXPECT_EQ(verdict->verdict(), v1::ReportResponse::REFUSED);
    EXPECT_THAT(verdict->reason(), HasSubstr(lie.expected));
    expected.push_back(AllOf(StartsWith("mallory: "), HasSubstr(lie.expected)));
  }
  EXPECT_THAT(tests::UpdateRefusals(cluster()), ElementsAreArray(expected));
  FinishJob(peer, "lies");
}

TEST_F(UpdateRefusals, LiesAboutAnEvaluation) {
  RawPeer peer(cluster(), "nora");
  SubmitJob("evaluation", /*evaluate=*/true);
  const v1::TaskPlan plan = peer.NextTask();
  ASSERT_EQ(plan.key().kind(), v1::TASK_KIND_EVALUATE);
  v1::ReportRequest report;
  *report.mutable_key() = plan.key();
  report.mutable_evaluation()->set_loss_sum(kNan);
  report.mutable_evaluation()->set_tokens(10);
  const auto verdict = peer.transport().Report(report);
  ASSERT_TRUE(verdict.ok()) << verdict.status();
  EXPECT_EQ(verdict->verdict(), v1::ReportResponse::REFUSED);
  EXPECT_THAT(verdict->reason(), HasSubstr("negative or not finite"));
  EXPECT_THAT(tests::UpdateRefusals(cluster()),
              Contains(AllOf(StartsWith("nora: "),
                             HasSubstr("negative or not finite"))));
  ASSERT_EQ(cluster().Admin({"job", "stop", "evaluation"}).exit_code, 0);
}

TEST_F(UpdateRefusals, ChunksThatAreDamagedOrTooLarge) {
  RawPeer peer(cluster(), "olaf");
  SubmitJob("chunks", /*evaluate=*/false);
  const v1::TaskPlan plan = peer.NextTask();
  const std::string update = ZeroUpdate(peer.LayoutOf(plan));
  v1::UploadChunk first;
  *first.mutable_key() = plan.key();
  *first.mutable_blob() = RefOf(update);
  first.set_data(update.substr(0, 100));

  v1::UploadChunk damaged = first;
  damaged.set_data_sha256(std::string(32, 'x'));
  EXPECT_EQ(peer.Send(damaged).status(),
            absl::DataLossError("the chunk of 100 bytes at offset 0 does not "
                                "have the digest sent with it; send it again"));

  v1::UploadChunk large = first;
  large.set_data(std::string((1 << 20) + 1, 'x'));
  const absl::Status too_large = peer.Send(large).status();
  EXPECT_EQ(too_large.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(too_large.message()),
              AllOf(HasSubstr("a chunk of 1048577 bytes; this coordinator "
                              "takes at most "),
                    HasSubstr("(limits.chunk_kib)")));

  v1::UploadChunk gap = first;
  gap.set_offset(50);
  const auto refused = peer.Send(gap);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("begins at 50, but 0 bytes have arrived"));

  const std::vector<std::string> refusals = PeerRefusals(cluster());
  EXPECT_THAT(refusals,
              Contains(AllOf(StartsWith("olaf /choir.v1.Coordinator/Upload: "),
                             HasSubstr("does not have the digest"))));
  EXPECT_THAT(refusals,
              Contains(AllOf(StartsWith("olaf /choir.v1.Coordinator/Upload: "),
                             HasSubstr("(limits.chunk_kib)"))));
  FinishJob(peer, "chunks");
}

TEST_F(UpdateRefusals, PayloadsThatAreNotWhatWasAnnounced) {
  RawPeer peer(cluster(), "paul");
  SubmitJob("payloads", /*evaluate=*/false);
  const v1::TaskPlan plan = peer.NextTask();
  const std::string update = ZeroUpdate(peer.LayoutOf(plan));

  v1::BlobRef other = RefOf(update);
  other.set_digest(std::string(64, 'b'));
  const auto sent = peer.Upload(plan.key(), other, update);
  EXPECT_EQ(sent.status().code(), absl::StatusCode::kDataLoss) << sent.status();

  v1::BlobRef huge = RefOf(update);
  huge.set_size(uint64_t{2} << 30);
  const auto refused = peer.Upload(plan.key(), huge, update);
  EXPECT_EQ(refused.status(),
            absl::ResourceExhaustedError(
                "an update of 2147483648 bytes; this coordinator takes 1 to "
                "1073741824 bytes (limits.max_update_mib)"));

  const std::vector<std::string> refusals = PeerRefusals(cluster());
  EXPECT_THAT(refusals,
              Contains(AllOf(StartsWith("paul /choir.v1.Coordinator/Upload: "),
                             HasSubstr("digest"))));
  EXPECT_THAT(refusals,
              Contains(AllOf(StartsWith("paul /choir.v1.Coordinator/Upload: "),
                             HasSubstr("limits.max_update_mib"))));
  FinishJob(peer, "payloads");
}

}  // namespace
}  // namespace choir::tests
