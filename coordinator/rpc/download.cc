#include <algorithm>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "choir/v1/coordinator.grpc.pb.h"
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
class DownloadStream final : public MessageStream {
 public:
  DownloadStream(CallInfo info, const store::BlobStore& blobs,
                 uint64_t chunk_bytes, const MayDownload& may_download)
      : MessageStream(std::move(info)),
        blobs_(blobs),
        chunk_bytes_(chunk_bytes),
        may_download_(may_download) {}

  void OnWriteDone(bool ok) override {
    if (!ok) {
      Close(absl::CancelledError("the peer hung up"));
      return;
    }
    Next();
  }

 private:
  void OnMessage(grpc::ByteBuffer message) override {
    v1::DownloadRequest request;
    if (!ParseMessage(message, &request)) {
      Refuse(UndecodableError());
      return;
    }
    if (const absl::Status open = OpenBlob(request); !open.ok()) {
      Close(open);
      return;
    }
    Next();
  }
  void OnEnd() override {
    Close(absl::CancelledError("the call ended before its request"));
  }

  absl::Status OpenBlob(const v1::DownloadRequest& request)
      ABSL_LOCKS_EXCLUDED(mu_) {
    CHOIR_RETURN_IF_ERROR(may_download_(peer(), request.digest()));
    base::MutexLock lock(&mu_);
    CHOIR_ASSIGN_OR_RETURN(file_, blobs_.OpenBlob(request.digest()));
    offset_ = request.offset();
    if (offset_ > file_->size()) {
      return absl::OutOfRangeError(
          absl::StrCat("offset ", offset_, " lies behind the end of a blob of ",
                       file_->size(), " bytes"));
    }
    ReadAhead();
    return absl::OkStatus();
  }

  // Sends what was read ahead, then reads ahead again. That write may be done,
  // on another thread, before the reading is: hence the lock.
  void Next() ABSL_LOCKS_EXCLUDED(mu_) {
    absl::Status end;
    {
      base::MutexLock lock(&mu_);
      if (read_.ok() && !ended_) {
        sending_.Swap(&ahead_);
        ahead_.Clear();
        StartWrite(&sending_);
        ReadAhead();
        return;
      }
      end = read_;
    }
    Close(end);
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

  const store::BlobStore& blobs_;
  const uint64_t chunk_bytes_;
  const MayDownload& may_download_;
  base::Mutex mu_;
  std::unique_ptr<base::RandomAccessFile> file_ ABSL_GUARDED_BY(mu_);
  uint64_t offset_ ABSL_GUARDED_BY(mu_) = 0;
  bool read_any_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status read_ ABSL_GUARDED_BY(mu_);
  grpc::ByteBuffer sending_ ABSL_GUARDED_BY(mu_);
  grpc::ByteBuffer ahead_ ABSL_GUARDED_BY(mu_);
};

}  // namespace

void AddDownload(Front& front, const std::string& method, MethodRules rules,
                 const store::BlobStore& blobs, uint64_t chunk_bytes,
                 MayDownload may_download) {
  front.Add(method, std::move(rules),
            [&blobs, chunk_bytes,
             may_download = std::move(may_download)](CallInfo info) {
              return std::make_shared<DownloadStream>(
                  std::move(info), blobs, chunk_bytes, may_download);
            });
}

}  // namespace choir::rpc
