// Reads a download without copying its data out of what the connection
// received.
#ifndef CHOIR_CLIENT_RPC_DOWNLOAD_STREAM_H_
#define CHOIR_CLIENT_RPC_DOWNLOAD_STREAM_H_

#include <grpcpp/grpcpp.h>

#include <memory>

#include "absl/status/statusor.h"
#include "choir/v1/coordinator.pb.h"
#include "client/transport.h"

namespace choir::client {

// Calls Coordinator.Download and hands each chunk to `sink` until the stream
// ends. Blocks. What the sink returns ends the call and is returned.
absl::Status RunDownload(const std::shared_ptr<grpc::Channel>& channel,
                         grpc::ClientContext& context,
                         const v1::DownloadRequest& request,
                         const ChunkSink& sink, grpc::Status* finished);

// A serialised v1::DownloadChunk, whose data stays in the message's slices.
// INVALID_ARGUMENT if it is none.
absl::StatusOr<DownloadedChunk> ParseDownloadChunk(
    const grpc::ByteBuffer& message);

}  // namespace choir::client

#endif  // CHOIR_CLIENT_RPC_DOWNLOAD_STREAM_H_
