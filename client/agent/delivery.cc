// The part of the agent that hands finished work over.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "client/agent/agent.h"
#include "client/agent/retry.h"

namespace choir::client {
namespace {

constexpr uint64_t kChunkBytes = 256u << 10;
constexpr int kMaxDamaged = 3;

// Streams a blob from an offset on, in chunks with digests.
class BlobSource {
 public:
  BlobSource(const v1::TaskKey& key, const v1::BlobRef& blob,
             const BlobReader& read, uint64_t offset, uint64_t* sent)
      : key_(key), blob_(blob), read_(read), offset_(offset), sent_(sent) {}

  absl::StatusOr<bool> operator()(v1::UploadChunk* chunk) {
    const uint64_t left = blob_.size() - offset_;
    // An empty chunk still names the blob.
    if (left == 0 && !first_) return false;
    chunk->Clear();
    if (first_) {
      *chunk->mutable_key() = key_;
      *chunk->mutable_blob() = blob_;
      first_ = false;
    }
    std::string& data = *chunk->mutable_data();
    data.resize(std::min(left, kChunkBytes));
    CHOIR_RETURN_IF_ERROR(read_(offset_, data.size(), data.data()));
    const base::Sha256Digest digest = base::Sha256Of(data);
    chunk->set_data_sha256(digest.data(), digest.size());
    chunk->set_offset(offset_);
    offset_ += data.size();
    *sent_ += data.size();
    return true;
  }

 private:
  const v1::TaskKey& key_;
  const v1::BlobRef& blob_;
  const BlobReader& read_;
  uint64_t offset_;
  uint64_t* sent_;
  bool first_ = true;
};

}  // namespace

absl::Status Agent::UploadUpdate(const v1::ReportRequest& report) {
  CHOIR_ASSIGN_OR_RETURN(const auto file,
                         base::RandomAccessFile::Open(state_->update_path()));
  return UploadBlob(report.key(), report.train().update(),
                    [&file](uint64_t offset, uint64_t bytes, char* out) {
                      return file->ReadAt(offset, bytes, out);
                    });
}

absl::Status Agent::UploadBlob(const v1::TaskKey& key, const v1::BlobRef& blob,
                               const BlobReader& read) {
  v1::UploadStatusRequest request;
  *request.mutable_key() = key;
  *request.mutable_blob() = blob;
  CHOIR_ASSIGN_OR_RETURN(const v1::UploadStatusResponse before,
                         deps_.transport.GetUploadStatus(request));
  if (before.received_bytes() == blob.size()) return absl::OkStatus();
  if (before.received_bytes() > blob.size()) {
    return absl::OutOfRangeError(
        absl::StrCat("the coordinator has ", before.received_bytes(),
                     " bytes of an update of ", blob.size()));
  }
  CHOIR_ASSIGN_OR_RETURN(
      const v1::UploadStatusResponse after,
      deps_.transport.Upload(BlobSource(
          key, blob, read, before.received_bytes(), &summary_.bytes_up)));
  if (after.received_bytes() != blob.size()) {
    return absl::UnavailableError(absl::StrCat("the upload ended after ",
                                               after.received_bytes(), " of ",
                                               blob.size(), " bytes"));
  }
  base::LogInfo(Label(key), ": uploaded ", blob.size(), " bytes");
  return absl::OkStatus();
}

absl::StatusOr<bool> Agent::StillWanted(const v1::TaskKey& key) {
  v1::CheckInRequest request;
  *request.mutable_capabilities() = deps_.runner.capabilities();
  const absl::StatusOr<v1::CheckInResponse> response =
      deps_.transport.CheckIn(request);
  if (absl::IsAborted(response.status())) {
    return absl::UnavailableError(response.status().message());
  }
  CHOIR_RETURN_IF_ERROR(response.status());
  const v1::TaskKey& now = response->task().key();
  return response->has_task() && now.job() == key.job() &&
         now.round() == key.round() && now.attempt() == key.attempt() &&
         now.kind() == key.kind();
}

absl::StatusOr<v1::ReportResponse> Agent::DeliverOnce() {
  const v1::ReportRequest report = *state_->pending();
  if (report.has_train()) {
    const absl::Status status = UploadUpdate(report);
    if (absl::IsAborted(status) && !uploaded_) {
      // Either the round is over, perhaps because an earlier report was
      // accepted and its answer lost, and the report itself tells; or the
      // coordinator began anew, and a check-in makes it take the upload.
      // Reporting what it has not received would be refused for good.
      CHOIR_ASSIGN_OR_RETURN(const bool wanted, StillWanted(report.key()));
      if (wanted) {
        const absl::Status again = UploadUpdate(report);
        if (absl::IsAborted(again)) {
          return absl::UnavailableError(again.message());
        }
        CHOIR_RETURN_IF_ERROR(again);
      }
    } else if (!absl::IsAborted(status)) {
      CHOIR_RETURN_IF_ERROR(status);
    }
    uploaded_ = true;
  }
  return deps_.transport.Report(report);
}

absl::Status Agent::Deliver() {
  damaged_uploads_ = 0;
  uploaded_ = false;
  while (!deps_.sleeper.stopping() && state_->pending().has_value()) {
    const std::string label = Label(state_->pending()->key());
    const absl::StatusOr<v1::ReportResponse> response = DeliverOnce();
    if (deps_.sleeper.stopping()) break;
    if (response.ok()) {
      Count(*state_->pending(), *response);
      backoff_.Reset();
      const bool failed = state_->pending()->has_failure() ||
                          response->verdict() == v1::ReportResponse::REFUSED;
      const bool declined =
          state_->pending()->key().kind() == v1::TASK_KIND_EVALUATE &&
          !options_.secure.evaluates();
      CHOIR_RETURN_IF_ERROR(ForgetPending());
      // The next round waits for this client, and nothing has gone wrong.
      if (declined) return absl::OkStatus();
      // What went wrong now would go wrong in the next round at once.
      if (failed) deps_.sleeper.Sleep(task_backoff_.Next());
      if (!failed) task_backoff_.Reset();
      return absl::OkStatus();
    }
    bool again = true;
    if (KindOf(response.status()) == ErrorKind::kTask) {
      CHOIR_ASSIGN_OR_RETURN(again, AfterRefusal(response.status()));
    }
    // An update that is given up is followed by its failure report at once.
    if (again) CHOIR_RETURN_IF_ERROR(Pause(label, response.status()));
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> Agent::AfterRefusal(const absl::Status& status) {
  const v1::ReportRequest report = *state_->pending();
  if (absl::IsDataLoss(status) && ++damaged_uploads_ < kMaxDamaged) {
    return true;
  }
  const bool told = report.has_failure() || absl::IsAborted(status);
  base::LogWarning(Label(report.key()), ": given up: ", Describe(status));
  if (told) {
    CHOIR_RETURN_IF_ERROR(ForgetPending());
    deps_.sleeper.Sleep(task_backoff_.Next());
    return false;
  }
  // If the disk is full, the same refusal brings us here again later.
  return !state_
              ->SavePending(MakeFailureReport(report.key(), status.message()),
                            "")
              .ok();
}

absl::Status Agent::ForgetPending() {
  while (!deps_.sleeper.stopping()) {
    const absl::Status status = state_->ClearPending();
    if (status.ok()) break;
    CHOIR_RETURN_IF_ERROR(Pause("state folder", status));
  }
  return absl::OkStatus();
}

void Agent::Count(const v1::ReportRequest& report,
                  const v1::ReportResponse& response) {
  const std::string label = Label(report.key());
  switch (response.verdict()) {
    case v1::ReportResponse::ACCEPTED:
      if (report.has_failure()) {
        ++summary_.failed;
        base::LogWarning(label, ": given up: ", report.failure().reason());
        return;
      }
      ++(report.has_train() ? summary_.rounds : summary_.evaluations);
      base::LogInfo(label, ": accepted");
      return;
    case v1::ReportResponse::TOO_LATE:
      ++summary_.too_late;
      base::LogInfo(label, ": no longer needed: ", response.reason());
      return;
    default:
      ++summary_.refused;
      base::LogWarning(label, ": refused: ", response.reason());
  }
}

}  // namespace choir::client
