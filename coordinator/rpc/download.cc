#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/rpc/grpc_status.h"
#include "coordinator/rpc/transfers.h"

namespace choir::rpc {
namespace {

// Reads the next chunk only when gRPC has passed the last one on, so that a
// slow peer holds one chunk and no more.
class DownloadStream final
    : public grpc::ServerWriteReactor<v1::DownloadChunk> {
 public:
  explicit DownloadStream(const absl::Status& status) {
    Finish(ToGrpc(status));
  }
  DownloadStream(std::unique_ptr<base::RandomAccessFile> file, uint64_t offset,
                 uint64_t chunk_bytes)
      : file_(std::move(file)), offset_(offset), chunk_bytes_(chunk_bytes) {
    Next();
  }

  void OnWriteDone(bool ok) override {
    if (!ok) {
      Finish(ToGrpc(absl::CancelledError("the peer hung up")));
      return;
    }
    Next();
  }
  void OnDone() override { delete this; }

 private:
  void Next() {
    const uint64_t bytes = std::min(chunk_bytes_, file_->size() - offset_);
    // An empty blob is one empty chunk: the peer learns its size.
    if (bytes == 0 && sent_any_) {
      Finish(grpc::Status::OK);
      return;
    }
    std::string* data = chunk_.mutable_data();
    data->resize(bytes);
    const absl::Status read = file_->ReadAt(offset_, bytes, data->data());
    if (!read.ok()) {
      Finish(ToGrpc(read));
      return;
    }
    chunk_.set_offset(offset_);
    chunk_.set_total_size(file_->size());
    offset_ += bytes;
    sent_any_ = true;
    StartWrite(&chunk_);
  }

  std::unique_ptr<base::RandomAccessFile> file_;
  uint64_t offset_ = 0;
  uint64_t chunk_bytes_ = 0;
  bool sent_any_ = false;
  v1::DownloadChunk chunk_;
};

}  // namespace

grpc::ServerWriteReactor<v1::DownloadChunk>* StartDownload(
    const absl::Status& status, const store::BlobStore& blobs,
    const v1::DownloadRequest& request, uint64_t chunk_bytes) {
  if (!status.ok()) return new DownloadStream(status);
  absl::StatusOr<std::unique_ptr<base::RandomAccessFile>> file =
      blobs.OpenBlob(request.digest());
  if (!file.ok()) return new DownloadStream(file.status());
  if (request.offset() > (*file)->size()) {
    return new DownloadStream(absl::OutOfRangeError(
        absl::StrCat("offset ", request.offset(), " lies behind the end of a "
                     "blob of ", (*file)->size(), " bytes")));
  }
  return new DownloadStream(*std::move(file), request.offset(), chunk_bytes);
}

}  // namespace choir::rpc
