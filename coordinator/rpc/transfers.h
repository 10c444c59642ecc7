// Downloads and uploads: streams of chunks between peers and the blob store.
//
// Memory: two chunks per stream, whatever the size of the blob.
#ifndef CHOIR_COORDINATOR_RPC_TRANSFERS_H_
#define CHOIR_COORDINATOR_RPC_TRANSFERS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "base/thread_pool.h"
#include "choir/v1/coordinator.pb.h"
#include "coordinator/rpc/front.h"
#include "coordinator/rpc/gate.h"
#include "coordinator/rpc/work_board.h"
#include "coordinator/store/blob_store.h"

namespace choir::rpc {

struct TransferOptions {
  uint64_t max_update_bytes = 1024ull << 20;
  uint64_t chunk_bytes = 1u << 20;
};

// Whether the peer may have the blob of this digest.
using MayDownload = std::function<absl::Status(const PeerIdentity& peer,
                                               const std::string& digest)>;

// Adds a method that sends a blob from the offset on. NOT_FOUND, OUT_OF_RANGE
// for an offset past the end. Chunks are sent as encoded bytes, which saves
// copying them into a message.
void AddDownload(Front& front, const std::string& method, MethodRules rules,
                 const store::BlobStore& blobs, uint64_t chunk_bytes,
                 MayDownload may_download);

// One payload of one client while it arrives. A newer stream for the same
// payload takes over from an older one, which may hang on a dead connection.
// Threads: safe.
class UploadSlot {
 public:
  UploadSlot(store::BlobStore& blobs, v1::BlobRef blob, std::string owner)
      : blobs_(blobs), blob_(std::move(blob)), owner_(std::move(owner)) {}

  // Takes over; returns the stream's turn.
  absl::StatusOr<uint64_t> Begin();
  // ABORTED if another stream took over; OUT_OF_RANGE with the right offset for
  // a gap or an overlap.
  absl::Status Append(uint64_t turn, uint64_t offset, absl::string_view data);
  // Gives the blob its name if all of it is there. Returns what has arrived.
  // DATA_LOSS if the bytes are not those announced; they are dropped then.
  absl::StatusOr<uint64_t> Finish(uint64_t turn);

  // The client sends something else now: what has arrived is dropped, so that
  // a client never holds more than one unfinished upload.
  void Abandon();

  const v1::BlobRef& blob() const { return blob_; }

 private:
  absl::Status Open() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  store::BlobStore& blobs_;
  const v1::BlobRef blob_;
  const std::string owner_;
  base::Mutex mu_;
  uint64_t turn_ ABSL_GUARDED_BY(mu_) = 0;
  bool complete_ ABSL_GUARDED_BY(mu_) = false;
  std::unique_ptr<store::IncomingBlob> incoming_ ABSL_GUARDED_BY(mu_);
};

// Threads: safe.
class Uploads {
 public:
  // The references outlive this.
  Uploads(TransferOptions options, store::BlobStore& blobs, WorkBoard& board,
          Gate& gate);

  // Adds the method Upload; this outlives `front`'s calls.
  void AddTo(Front& front);

  // How much of the blob is there. Gives a blob its name whose last byte
  // arrived without the end of its stream.
  absl::StatusOr<uint64_t> ReceivedBytes(
      const PeerIdentity& peer, const v1::UploadStatusRequest& request);

  // Drops what has arrived in part from the client, and stops the stream that
  // brings it. To be called after its task was closed on the board.
  void Abandon(const std::string& client);

  // For the reactor.
  absl::Status Check(const PeerIdentity& peer, const v1::TaskKey& key,
                     const v1::BlobRef& blob);
  absl::Status CheckChunk(const PeerIdentity& peer,
                          const v1::UploadChunk& chunk);
  std::shared_ptr<UploadSlot> Slot(const PeerIdentity& peer,
                                   const v1::BlobRef& blob);
  // UploadSlot::Begin(); ABORTED if the task ended meanwhile.
  absl::StatusOr<uint64_t> Begin(const PeerIdentity& peer,
                                 const v1::TaskKey& key, UploadSlot& slot);
  // UploadSlot::Finish(); ABORTED for a masked vector whose task ended
  // meanwhile: it is removed.
  absl::StatusOr<uint64_t> Finish(const PeerIdentity& peer,
                                  const v1::TaskKey& key, UploadSlot& slot,
                                  uint64_t turn);
  base::ThreadPool& pool() { return pool_; }

 private:
  const TransferOptions options_;
  store::BlobStore& blobs_;
  WorkBoard& board_;
  Gate& gate_;
  base::Mutex mu_;
  // By client: one upload at a time; shared with the streams that use it.
  std::map<std::string, std::pair<std::string, std::shared_ptr<UploadSlot>>>
      slots_ ABSL_GUARDED_BY(mu_);
  // Where blobs are checked and made durable, which takes a while.
  base::ThreadPool pool_{2};
};

}  // namespace choir::rpc

#endif  // CHOIR_COORDINATOR_RPC_TRANSFERS_H_
