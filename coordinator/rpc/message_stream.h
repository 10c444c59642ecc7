// One call, whose messages are read by us: the peer is known before the first
// byte of a message is taken, and a message over the limit is refused with our
// words, and journaled, as soon as we see it.
#ifndef CHOIR_COORDINATOR_RPC_MESSAGE_STREAM_H_
#define CHOIR_COORDINATOR_RPC_MESSAGE_STREAM_H_

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "base/mutex.h"
#include "coordinator/rpc/connections.h"
#include "coordinator/rpc/gate.h"

namespace choir::rpc {

// Who calls what. The references outlive the call.
struct CallInfo {
  Gate& gate;
  Connections& connections;
  PeerIdentity peer;
  // With the port: names the connection.
  std::string connection;
  std::string method;  // "/service/Method"
  uint64_t max_message_bytes = 0;
  // What would let a larger message in; ends the refusal. May be empty.
  std::string remedy;
};

// For a message that is none of the method's.
absl::Status UndecodableError();

// False for bytes that are no such message.
template <typename Message>
bool ParseMessage(const grpc::ByteBuffer& bytes, Message* message) {
  grpc::ByteBuffer shared = bytes;  // the reader wants it writable
  return grpc::SerializationTraits<Message>::Deserialize(&shared, message).ok();
}

// Lives until gRPC has let go of it and nobody holds it any more.
// Threads: the overrides are called by one thread at a time, the rest is safe.
class MessageStream : public grpc::ServerGenericBidiReactor,
                      public IncomingMessage,
                      public std::enable_shared_from_this<MessageStream> {
 public:
  explicit MessageStream(CallInfo info) : info_(std::move(info)) {}

  // Hands a new stream to gRPC.
  static grpc::ServerGenericBidiReactor* Begin(
      std::shared_ptr<MessageStream> stream);

  const PeerIdentity& peer() const { return info_.peer; }
  const std::string& method() const { return info_.method; }
  Gate& gate() { return info_.gate; }

  // Ends the call, unless it has an end already. True if it had none.
  bool Close(const absl::Status& status);
  // Journals the refusal first.
  void Refuse(const absl::Status& status);

  void OnReadDone(bool ok) final;
  void OnDone() final;
  void TooMuch(uint64_t arrived_bytes) final;

 protected:
  // The first thing to do: by default, to wait for a message.
  virtual void Open() { Read(); }
  // A message is wanted; one of the next two follows, unless the call has
  // ended.
  void Read();
  // At most max_message_bytes.
  virtual void OnMessage(grpc::ByteBuffer message) = 0;
  // The peer has sent all it wanted, or is gone.
  virtual void OnEnd() = 0;
  // Whether the one who gets true must now end the call.
  bool TakeEnd();

 private:
  CallInfo info_;
  grpc::ByteBuffer incoming_;
  base::Mutex mu_;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  std::shared_ptr<MessageStream> self_;  // gRPC's share
};

// A call of which nothing is read: it ends at once with `status`.
grpc::ServerGenericBidiReactor* RefuseCall(const absl::Status& status);

// A call with one request and one response.
template <typename Request, typename Response>
class UnaryCall final : public MessageStream {
 public:
  using Handler = std::function<void(const std::shared_ptr<UnaryCall>&)>;

  UnaryCall(CallInfo info, Handler handler)
      : MessageStream(std::move(info)), handler_(std::move(handler)) {}

  const Request& request() const { return request_; }
  // Sent by Answer() if all is well.
  Response* response() { return &response_; }

  // Once; others are ignored.
  void Answer(const absl::Status& status) {
    if (!status.ok()) {
      Close(status);
      return;
    }
    if (!TakeEnd()) return;
    bool owned = false;
    const grpc::Status encoded = grpc::SerializationTraits<Response>::Serialize(
        response_, &outgoing_, &owned);
    if (!encoded.ok()) {
      Finish(encoded);
      return;
    }
    StartWriteAndFinish(&outgoing_, grpc::WriteOptions(), grpc::Status::OK);
  }

  // `cancelled` runs when the peer hangs up, at once if it has.
  void WhenCancelled(std::function<void()> cancelled) {
    {
      base::MutexLock lock(&mu_);
      if (!gone_) {
        cancelled_ = std::move(cancelled);
        return;
      }
    }
    cancelled();
  }

  void OnCancel() override {
    std::function<void()> cancelled;
    {
      base::MutexLock lock(&mu_);
      gone_ = true;
      cancelled = std::move(cancelled_);
    }
    if (cancelled) cancelled();
  }

 private:
  void OnMessage(grpc::ByteBuffer message) override {
    if (!ParseMessage(message, &request_)) {
      Refuse(UndecodableError());
      return;
    }
    message.Clear();
    handler_(std::static_pointer_cast<UnaryCall>(shared_from_this()));
  }
  void OnEnd() override {
    Close(absl::CancelledError("the call ended before its request"));
  }

  const Handler handler_;
  Request request_;
  Response response_;
  grpc::ByteBuffer outgoing_;
  base::Mutex mu_;
  bool gone_ ABSL_GUARDED_BY(mu_) = false;
  std::function<void()> cancelled_ ABSL_GUARDED_BY(mu_);
};

}  // namespace choir::rpc

#endif  // CHOIR_COORDINATOR_RPC_MESSAGE_STREAM_H_
