#include <algorithm>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "coordinator/rpc/grpc_status.h"
#include "coordinator/rpc/transfers.h"

namespace choir::rpc {
namespace {

// The encoding of a DownloadChunk with `head`'s fields and `bytes` bytes of
// `data`, which gRPC sends from where they are and frees.
grpc::ByteBuffer Encode(const v1::DownloadChunk& head,
                        std::unique_ptr<char[]> data, uint64_t bytes) {
  std::string front = head.SerializeAsString();
  // Field 2, length-delimited; its length as a varint.
  front.push_back(
      static_cast<char>(v1::DownloadChunk::kDataFieldNumber << 3 | 2));
  for (uint64_t rest = bytes;; rest >>= 7) {
    front.push_back(
        static_cast<char>((rest & 0x7F) | (rest > 0x7F ? 0x80 : 0)));
    if (rest <= 0x7F) break;
  }
  const auto release = +[](void* chunk) { delete[] static_cast<char*>(chunk); };
  const grpc::Slice slices[] = {grpc::Slice(front),
                                grpc::Slice(data.release(), bytes, release)};
  return grpc::ByteBuffer(slices, 2);
}

// Reads one chunk ahead while gRPC passes the last one on, so that a slow peer
// holds two chunks and no more.
class DownloadStream final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  explicit DownloadStream(const absl::Status& status) {
    Finish(ToGrpc(status));
  }
  DownloadStream(std::unique_ptr<base::RandomAccessFile> file, uint64_t offset,
                 uint64_t chunk_bytes)
      : file_(std::move(file)), offset_(offset), chunk_bytes_(chunk_bytes) {
    {
      base::MutexLock lock(&mu_);
      ReadAhead();
    }
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
  // Sends what was read ahead, then reads ahead again. That write may be done,
  // on another thread, before the reading is: hence the lock.
  void Next() ABSL_LOCKS_EXCLUDED(mu_) {
    grpc::Status end;
    {
      base::MutexLock lock(&mu_);
      if (read_.ok() && !ended_) {
        sending_.Swap(&ahead_);
        ahead_.Clear();
        StartWrite(&sending_);
        ReadAhead();
        return;
      }
      end = ToGrpc(read_);
    }
    Finish(end);
  }

  void ReadAhead() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const uint64_t bytes = std::min(chunk_bytes_, file_->size() - offset_);
    // An empty blob is one empty chunk: the peer learns its size.
    ended_ = bytes == 0 && read_any_;
    if (ended_) return;
    std::unique_ptr<char[]> data(new char[bytes]);  // not zeroed
    read_ = file_->ReadAt(offset_, bytes, data.get());
    v1::DownloadChunk head;
    head.set_offset(offset_);
    head.set_total_size(file_->size());
    ahead_ = Encode(head, std::move(data), bytes);
    offset_ += bytes;
    read_any_ = true;
  }

  base::Mutex mu_;
  std::unique_ptr<base::RandomAccessFile> file_;
  uint64_t offset_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t chunk_bytes_ = 0;
  bool read_any_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status read_ ABSL_GUARDED_BY(mu_);
  grpc::ByteBuffer sending_ ABSL_GUARDED_BY(mu_);
  grpc::ByteBuffer ahead_ ABSL_GUARDED_BY(mu_);
};

}  // namespace

v1::DownloadRequest ParseDownload(const grpc::ByteBuffer& request) {
  grpc::ByteBuffer bytes = request;  // shares them
  v1::DownloadRequest parsed;
  const bool good = grpc::SerializationTraits<v1::DownloadRequest>::Deserialize(
                        &bytes, &parsed)
                        .ok();
  return good ? parsed : v1::DownloadRequest();
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartDownload(
    const absl::Status& status, const store::BlobStore& blobs,
    const v1::DownloadRequest& request, uint64_t chunk_bytes) {
  if (!status.ok()) return new DownloadStream(status);
  absl::StatusOr<std::unique_ptr<base::RandomAccessFile>> file =
      blobs.OpenBlob(request.digest());
  if (!file.ok()) return new DownloadStream(file.status());
  if (request.offset() > (*file)->size()) {
    return new DownloadStream(
        absl::OutOfRangeError(absl::StrCat("offset ", request.offset(),
                                           " lies behind the end of a "
                                           "blob of ",
                                           (*file)->size(), " bytes")));
  }
  return new DownloadStream(*std::move(file), request.offset(), chunk_bytes);
}

}  // namespace choir::rpc
