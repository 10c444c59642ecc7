#include "coordinator/rpc/message_stream.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/rpc/grpc_status.h"

namespace choir::rpc {
namespace {

class RefusedCall final : public grpc::ServerGenericBidiReactor {
 public:
  explicit RefusedCall(const absl::Status& status) { Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
};

}  // namespace

absl::Status UndecodableError() {
  return absl::InvalidArgumentError(
      "the message cannot be decoded; send it uncompressed, as this method's "
      "request");
}

grpc::ServerGenericBidiReactor* RefuseCall(const absl::Status& status) {
  return new RefusedCall(status);
}

grpc::ServerGenericBidiReactor* MessageStream::Begin(
    std::shared_ptr<MessageStream> stream) {
  MessageStream& begun = *stream;
  begun.self_ = std::move(stream);
  // Nothing that Open() starts happens before gRPC has what is returned here.
  begun.Open();
  return &begun;
}

bool MessageStream::TakeEnd() {
  base::MutexLock lock(&mu_);
  return !std::exchange(ended_, true);
}

bool MessageStream::Close(const absl::Status& status) {
  if (!TakeEnd()) return false;
  Finish(ToGrpc(status));
  return true;
}

void MessageStream::Refuse(const absl::Status& status) {
  if (!TakeEnd()) return;
  // First, so that it is there when the peer knows.
  Finish(ToGrpc(info_.gate.Refuse(info_.peer, info_.method, status)));
}

void MessageStream::Read() {
  {
    base::MutexLock lock(&mu_);
    if (ended_) return;
  }
  info_.connections.Expect(info_.connection, shared_from_this(),
                           info_.max_message_bytes);
  StartRead(&incoming_);
}

void MessageStream::OnReadDone(bool ok) {
  const uint64_t bytes = ok ? incoming_.Length() : 0;
  info_.connections.Received(info_.connection, this, bytes);
  {
    base::MutexLock lock(&mu_);
    if (ended_) return;  // by TooMuch()
  }
  if (!ok) {
    OnEnd();
    return;
  }
  if (bytes > info_.max_message_bytes) {
    incoming_.Clear();
    Refuse(absl::ResourceExhaustedError(
        absl::StrCat("a request of ", bytes, " bytes; at most ",
                     info_.max_message_bytes, " are taken", info_.remedy)));
    return;
  }
  grpc::ByteBuffer message;
  message.Swap(&incoming_);
  OnMessage(std::move(message));
}

void MessageStream::TooMuch(uint64_t arrived_bytes) {
  Refuse(absl::ResourceExhaustedError(
      absl::StrCat("a request of more than ", arrived_bytes,
                   " bytes, which is not read to "
                   "its end; at most ",
                   info_.max_message_bytes, " are taken", info_.remedy)));
}

void MessageStream::OnDone() {
  // May be the last that holds this object.
  const std::shared_ptr<MessageStream> self = std::move(self_);
}

}  // namespace choir::rpc
