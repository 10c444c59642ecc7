#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "choir/v1/coordinator.grpc.pb.h"
#include "coordinator/rpc/grpc_status.h"
#include "coordinator/rpc/transfers.h"
#include "coordinator/runner/update_sum.h"

namespace choir::rpc {
namespace {

constexpr char kMethod[] = "/choir.v1.Coordinator/Upload";
// Beyond a chunk's data: room for the fields around it, and for saying of which
// chunk it is that is a bit too large.
constexpr uint64_t kChunkSlackBytes = 1u << 20;

class UploadStream final : public MessageStream {
 public:
  UploadStream(CallInfo info, Uploads& uploads)
      : MessageStream(std::move(info)), uploads_(uploads) {}

 private:
  void OnMessage(grpc::ByteBuffer message) override {
    if (!ParseMessage(message, &chunk_)) {
      Refuse(UndecodableError());
      return;
    }
    message.Clear();
    if (const absl::Status taken = Take(); !taken.ok()) {
      Close(taken);
      return;
    }
    Read();
  }

  absl::Status Take() {
    if (slot_ == nullptr) {
      CHOIR_RETURN_IF_ERROR(
          uploads_.Check(peer(), chunk_.key(), chunk_.blob()));
      key_ = chunk_.key();
      slot_ = uploads_.Slot(peer(), chunk_.blob());
      CHOIR_ASSIGN_OR_RETURN(turn_, uploads_.Begin(peer(), key_, *slot_));
    }
    CHOIR_RETURN_IF_ERROR(uploads_.CheckChunk(peer(), chunk_));
    if (chunk_.data().empty()) return absl::OkStatus();
    return slot_->Append(turn_, chunk_.offset(), chunk_.data());
  }

  // The peer has sent all it wanted (or is gone, which does not matter).
  void OnEnd() override {
    if (slot_ == nullptr) {
      Close(absl::InvalidArgumentError("an upload without a chunk"));
      return;
    }
    uploads_.pool().Add([this, self = shared_from_this()](int) { Answer(); });
  }

  void Answer() {
    const absl::StatusOr<uint64_t> received =
        uploads_.Finish(peer(), key_, *slot_, turn_);
    if (absl::IsDataLoss(received.status())) {
      Refuse(received.status());
      return;
    }
    if (!received.ok()) {
      Close(received.status());
      return;
    }
    v1::UploadStatusResponse response;
    response.set_received_bytes(*received);
    const grpc::Slice encoded(response.SerializeAsString());
    outgoing_ = grpc::ByteBuffer(&encoded, 1);
    if (!TakeEnd()) return;
    StartWriteAndFinish(&outgoing_, grpc::WriteOptions(), grpc::Status::OK);
  }

  Uploads& uploads_;
  v1::UploadChunk chunk_;
  v1::TaskKey key_;                   // of the first chunk
  std::shared_ptr<UploadSlot> slot_;  // shared with the table of slots
  uint64_t turn_ = 0;
  grpc::ByteBuffer outgoing_;
};

}  // namespace

absl::Status UploadSlot::Open() {
  complete_ = blobs_.Contains(blob_.digest());
  if (complete_ || incoming_ != nullptr) return absl::OkStatus();
  absl::StatusOr<std::unique_ptr<store::IncomingBlob>> incoming =
      blobs_.Receive(blob_, owner_);
  if (!incoming.ok()) return ForPeer(incoming.status());
  incoming_ = *std::move(incoming);
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> UploadSlot::Begin() {
  base::MutexLock lock(&mu_);
  CHOIR_RETURN_IF_ERROR(Open());
  return ++turn_;
}

absl::Status UploadSlot::Append(uint64_t turn, uint64_t offset,
                                absl::string_view data) {
  base::MutexLock lock(&mu_);
  if (turn != turn_) {
    return absl::AbortedError("a newer upload of the same payload took over");
  }
  const uint64_t received =
      complete_ ? blob_.size() : incoming_->received_bytes();
  if (offset != received) {
    return absl::OutOfRangeError(
        absl::StrCat("the chunk begins at ", offset, ", but ", received,
                     " bytes have arrived; ask for the upload's status and go "
                     "on from there"));
  }
  const absl::Status written =
      incoming_ == nullptr
          ? absl::OutOfRangeError("the payload is complete already")
          : incoming_->Append(data);
  if (!written.ok() && !absl::IsOutOfRange(written)) {
    base::LogError("cannot store an upload: ", written.message());
    // What is on disk is looked at afresh by the next stream.
    incoming_.reset();
    ++turn_;
  }
  return ForPeer(written);
}

absl::StatusOr<uint64_t> UploadSlot::Finish(uint64_t turn) {
  base::MutexLock lock(&mu_);
  if (turn != turn_) {
    return absl::AbortedError("a newer upload of the same payload took over");
  }
  if (complete_) return blob_.size();
  if (incoming_->received_bytes() < blob_.size()) {
    return incoming_->received_bytes();
  }
  const absl::Status named = incoming_->Commit();
  incoming_.reset();
  ++turn_;
  if (!named.ok()) return ForPeer(named);
  complete_ = true;
  return blob_.size();
}

void UploadSlot::Abandon() {
  base::MutexLock lock(&mu_);
  ++turn_;
  if (incoming_ != nullptr) incoming_->Discard();
  incoming_.reset();
}

Uploads::Uploads(TransferOptions options, store::BlobStore& blobs,
                 WorkBoard& board, Gate& gate)
    : options_(options), blobs_(blobs), board_(board), gate_(gate) {}

absl::Status Uploads::Check(const PeerIdentity& peer, const v1::TaskKey& key,
                            const v1::BlobRef& blob) {
  CHOIR_RETURN_IF_ERROR(board_.CheckUpload(peer.name, key));
  if (const auto digest = base::DigestFromHex(blob.digest()); !digest.ok()) {
    return gate_.Refuse(peer, kMethod, digest.status());
  }
  if (blob.size() == 0 || blob.size() > options_.max_update_bytes) {
    return gate_.Refuse(
        peer, kMethod,
        absl::ResourceExhaustedError(absl::StrCat(
            "an update of ", blob.size(),
            " bytes; this coordinator takes 1 "
            "to ",
            options_.max_update_bytes, " bytes (limits.max_update_mib)")));
  }
  if (const auto counted = board_.CountPayload(peer.name, blob.digest());
      !counted.ok()) {
    return gate_.Refuse(peer, kMethod, counted);
  }
  return absl::OkStatus();
}

absl::Status Uploads::CheckChunk(const PeerIdentity& peer,
                                 const v1::UploadChunk& chunk) {
  const std::string& data = chunk.data();
  if (data.size() > options_.chunk_bytes) {
    return gate_.Refuse(peer, kMethod,
                        absl::ResourceExhaustedError(absl::StrCat(
                            "a chunk of ", data.size(),
                            " bytes; this coordinator takes at "
                            "most ",
                            options_.chunk_bytes, " (limits.chunk_kib)")));
  }
  if (data.empty() && chunk.data_sha256().empty()) return absl::OkStatus();
  const base::Sha256Digest digest = base::Sha256Of(data);
  if (absl::string_view(chunk.data_sha256()) !=
      absl::string_view(reinterpret_cast<const char*>(digest.data()),
                        digest.size())) {
    return gate_.Refuse(
        peer, kMethod,
        absl::DataLossError(absl::StrCat(
            "the chunk of ", data.size(), " bytes at offset ", chunk.offset(),
            " does not have the digest sent with it; send it again")));
  }
  return absl::OkStatus();
}

std::shared_ptr<UploadSlot> Uploads::Slot(const PeerIdentity& peer,
                                          const v1::BlobRef& blob) {
  const std::string payload = absl::StrCat(blob.digest(), " ", blob.size());
  std::shared_ptr<UploadSlot> abandoned;
  std::shared_ptr<UploadSlot> chosen;
  {
    base::MutexLock lock(&mu_);
    auto& [digest, slot] = slots_[peer.name];
    if (slot == nullptr || digest != payload) {
      digest = payload;
      abandoned = std::exchange(
          slot, std::make_shared<UploadSlot>(blobs_, blob, peer.name));
    }
    chosen = slot;
  }
  if (abandoned != nullptr) abandoned->Abandon();
  return chosen;
}

void Uploads::AddTo(Front& front) {
  front.Add(kMethod,
            {Access::kAgents, options_.chunk_bytes + kChunkSlackBytes,
             absl::StrCat("; send chunks of at most ", options_.chunk_bytes,
                          " (limits.chunk_kib)")},
            [this](CallInfo info) {
              return std::make_shared<UploadStream>(std::move(info), *this);
            });
}

void Uploads::Abandon(const std::string& client) {
  std::shared_ptr<UploadSlot> slot;
  {
    base::MutexLock lock(&mu_);
    const auto found = slots_.find(client);
    if (found == slots_.end()) return;
    slot = found->second.second;
  }
  slot->Abandon();
}

absl::StatusOr<uint64_t> Uploads::Begin(const PeerIdentity& peer,
                                        const v1::TaskKey& key,
                                        UploadSlot& slot) {
  CHOIR_ASSIGN_OR_RETURN(const uint64_t turn, slot.Begin());
  // It may have been closed since Check(), before there was a slot to abandon.
  const absl::Status open = board_.CheckUpload(peer.name, key);
  if (open.ok()) return turn;
  slot.Abandon();
  return open;
}

absl::StatusOr<uint64_t> Uploads::Finish(const PeerIdentity& peer,
                                         const v1::TaskKey& key,
                                         UploadSlot& slot, uint64_t turn) {
  const absl::StatusOr<uint64_t> received = slot.Finish(turn);
  const std::string& digest = slot.blob().digest();
  if (!received.ok() || *received < slot.blob().size() ||
      board_.Uploaded(peer.name, key, digest)) {
    return received;
  }
  // Whoever ended the task did not see this payload.
  if (!runner::IsMaskedBlob(blobs_, digest)) {
    board_.Unclaimed(digest);
    return received;
  }
  const absl::Status removed = blobs_.Remove(digest);
  if (!removed.ok()) {
    base::LogWarning("cannot remove masked vector ", digest, ": ",
                     removed.message());
  }
  return absl::AbortedError(
      absl::StrCat("masked vectors are taken no more for ", TaskText(key)));
}

absl::StatusOr<uint64_t> Uploads::ReceivedBytes(
    const PeerIdentity& peer, const v1::UploadStatusRequest& request) {
  CHOIR_RETURN_IF_ERROR(Check(peer, request.key(), request.blob()));
  std::shared_ptr<UploadSlot> slot = Slot(peer, request.blob());
  CHOIR_ASSIGN_OR_RETURN(const uint64_t turn,
                         Begin(peer, request.key(), *slot));
  absl::StatusOr<uint64_t> received = Finish(peer, request.key(), *slot, turn);
  // Bytes that are not those announced are gone: begin again.
  if (absl::IsDataLoss(received.status())) return 0;
  return received;
}

}  // namespace choir::rpc
