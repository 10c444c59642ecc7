// How an agent reaches its coordinator: one method per call of the Coordinator
// service, so that agents can be tested without a network.
#ifndef CHOIR_CLIENT_TRANSPORT_H_
#define CHOIR_CLIENT_TRANSPORT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "choir/v1/coordinator.pb.h"

namespace choir::client {

// A chunk of a download, where the connection has left it: base models are
// large, and no byte of them is copied before it is written.
struct DownloadedChunk {
  uint64_t offset = 0;
  uint64_t total_size = 0;
  std::vector<absl::string_view> data;  // one after the other
  // Keeps `data` alive; shared, because whoever writes it may be another thread
  // than the one that reads on.
  std::shared_ptr<const void> owner;

  uint64_t size() const;
};

// Receives the chunks of a download in order and may keep them; an error ends
// the download and becomes its status.
using ChunkSink = std::function<absl::Status(DownloadedChunk)>;
// Fills the next chunk of an upload; false when there is none. An error ends
// the upload and becomes its status.
using ChunkSource = std::function<absl::StatusOr<bool>(v1::UploadChunk*)>;

// Every call blocks until it is answered, fails or passes its own deadline,
// and may be repeated. Statuses are the coordinator's, with its message, or
// UNAVAILABLE, DEADLINE_EXCEEDED or CANCELLED from the connection.
// Threads: one call at a time; Cancel() from any thread.
class Transport {
 public:
  virtual ~Transport() = default;

  // From now on the peer is known by this certificate. Before, only Enroll is
  // answered.
  virtual absl::Status UseIdentity(absl::string_view certificate_pem,
                                   absl::string_view private_key_pem) = 0;

  virtual absl::StatusOr<v1::EnrollResponse> Enroll(
      const v1::EnrollRequest& request) = 0;
  virtual absl::StatusOr<v1::RenewCertificateResponse> RenewCertificate(
      const v1::RenewCertificateRequest& request) = 0;
  virtual absl::StatusOr<v1::CheckInResponse> CheckIn(
      const v1::CheckInRequest& request) = 0;
  virtual absl::Status Download(const v1::DownloadRequest& request,
                                const ChunkSink& sink) = 0;
  virtual absl::StatusOr<v1::UploadStatusResponse> GetUploadStatus(
      const v1::UploadStatusRequest& request) = 0;
  virtual absl::StatusOr<v1::UploadStatusResponse> Upload(
      const ChunkSource& source) = 0;
  virtual absl::StatusOr<v1::ReportResponse> Report(
      const v1::ReportRequest& request) = 0;
  virtual absl::StatusOr<v1::SecureExchangeResponse> SecureExchange(
      const v1::SecureExchangeRequest& request) = 0;

  // Ends the call under way and every later one with CANCELLED.
  virtual void Cancel() = 0;
};

inline uint64_t DownloadedChunk::size() const {
  uint64_t bytes = 0;
  for (const absl::string_view part : data) bytes += part.size();
  return bytes;
}

}  // namespace choir::client

#endif  // CHOIR_CLIENT_TRANSPORT_H_
