#include "client/rpc/download_stream.h"

#include <google/protobuf/io/coded_stream.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace choir::client {
namespace {

constexpr char kMethod[] = "/choir.v1.Coordinator/Download";

// Wire types of a protocol-buffers field.
constexpr uint32_t kVarint = 0;
constexpr uint32_t kFixed64 = 1;
constexpr uint32_t kLengthDelimited = 2;
constexpr uint32_t kFixed32 = 5;

constexpr uint32_t Tag(int field, uint32_t wire_type) {
  return static_cast<uint32_t>(field) << 3 | wire_type;
}

// Where the data lies in the message, and the other fields.
struct Envelope {
  uint64_t offset = 0;
  uint64_t total_size = 0;
  uint64_t data_begin = 0;
  uint64_t data_size = 0;
};

bool SkipBytes(google::protobuf::io::CodedInputStream& in) {
  uint32_t size = 0;
  return in.ReadVarint32(&size) && size <= INT32_MAX &&
         in.Skip(static_cast<int>(size));
}

// A field that a later version has added.
bool SkipField(google::protobuf::io::CodedInputStream& in, uint32_t tag) {
  uint64_t ignored = 0;
  switch (tag & 7) {
    case kVarint:
      return in.ReadVarint64(&ignored);
    case kFixed64:
      return in.Skip(8);
    case kLengthDelimited:
      return SkipBytes(in);
    case kFixed32:
      return in.Skip(4);
    default:
      return false;
  }
}

bool ReadEnvelope(google::protobuf::io::CodedInputStream& in,
                  Envelope* envelope) {
  using Chunk = v1::DownloadChunk;
  while (const uint32_t tag = in.ReadTag()) {
    bool good = false;
    if (tag == Tag(Chunk::kOffsetFieldNumber, kVarint)) {
      good = in.ReadVarint64(&envelope->offset);
    } else if (tag == Tag(Chunk::kTotalSizeFieldNumber, kVarint)) {
      good = in.ReadVarint64(&envelope->total_size);
    } else if (tag == Tag(Chunk::kDataFieldNumber, kLengthDelimited)) {
      uint32_t size = 0;
      if (!in.ReadVarint32(&size) || size > INT32_MAX) return false;
      envelope->data_begin = in.CurrentPosition();
      envelope->data_size = size;
      good = in.Skip(static_cast<int>(size));
    } else {
      good = SkipField(in, tag);
    }
    if (!good) return false;
  }
  return in.ConsumedEntireMessage();
}

// One operation at a time on a queue of its own: the calling thread does the
// connection's work while it waits.
class RawCall {
 public:
  RawCall(const std::shared_ptr<grpc::Channel>& channel,
          grpc::ClientContext& context)
      : stub_(channel), call_(stub_.PrepareCall(&context, kMethod, &queue_)) {}
  ~RawCall() {
    queue_.Shutdown();
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) {
    }
  }

  bool Start(const grpc::ByteBuffer& request) {
    call_->StartCall(this);
    if (!Wait()) return false;
    call_->WriteLast(request, grpc::WriteOptions(), this);
    return Wait();
  }
  bool Read(grpc::ByteBuffer* message) {
    call_->Read(message, this);
    return Wait();
  }
  grpc::Status Finish() {
    grpc::Status status;
    call_->Finish(&status, this);
    Wait();
    return status;
  }

 private:
  bool Wait() {
    void* tag = nullptr;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }

  grpc::CompletionQueue queue_;
  grpc::GenericStub stub_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
};

}  // namespace

absl::StatusOr<DownloadedChunk> ParseDownloadChunk(
    const grpc::ByteBuffer& message) {
  auto slices = std::make_shared<std::vector<grpc::Slice>>();
  Envelope envelope;
  grpc::ByteBuffer shared = message;  // the reader wants it writable
  grpc::ProtoBufferReader reader(&shared);
  google::protobuf::io::CodedInputStream in(&reader);
  if (!reader.status().ok() || !ReadEnvelope(in, &envelope) ||
      !shared.Dump(slices.get()).ok()) {
    return absl::InvalidArgumentError(
        "the coordinator sent a chunk that is none");
  }
  DownloadedChunk chunk;
  chunk.offset = envelope.offset;
  chunk.total_size = envelope.total_size;
  uint64_t skip = envelope.data_begin;
  uint64_t left = envelope.data_size;
  for (const grpc::Slice& slice : *slices) {
    const uint64_t from = std::min<uint64_t>(skip, slice.size());
    const uint64_t take = std::min<uint64_t>(left, slice.size() - from);
    skip -= from;
    left -= take;
    if (take == 0) continue;
    chunk.data.emplace_back(reinterpret_cast<const char*>(slice.begin()) + from,
                            take);
  }
  chunk.owner = std::move(slices);
  return chunk;
}

absl::Status RunDownload(const std::shared_ptr<grpc::Channel>& channel,
                         grpc::ClientContext& context,
                         const v1::DownloadRequest& request,
                         const ChunkSink& sink, grpc::Status* finished) {
  const grpc::Slice encoded(request.SerializeAsString());
  RawCall call(channel, context);
  absl::Status local;
  if (call.Start(grpc::ByteBuffer(&encoded, 1))) {
    grpc::ByteBuffer message;
    while (local.ok() && call.Read(&message)) {
      absl::StatusOr<DownloadedChunk> chunk = ParseDownloadChunk(message);
      local = chunk.ok() ? sink(*std::move(chunk)) : chunk.status();
      message.Clear();
    }
  }
  if (!local.ok()) context.TryCancel();
  *finished = call.Finish();
  return local;
}

}  // namespace choir::client
