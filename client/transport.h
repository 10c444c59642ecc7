// How an agent reaches its coordinator: one method per call of the Coordinator
// service, so that agents can be tested without a network.
#ifndef CHOIR_CLIENT_TRANSPORT_H_
#define CHOIR_CLIENT_TRANSPORT_H_

#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "choir/v1/coordinator.pb.h"

namespace choir::client {

// Receives the chunks of a download in order and may take their data; an error
// ends the download and becomes its status.
using ChunkSink = std::function<absl::Status(v1::DownloadChunk*)>;
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

  // Ends the call under way and every later one with CANCELLED.
  virtual void Cancel() = 0;
};

}  // namespace choir::client

#endif  // CHOIR_CLIENT_TRANSPORT_H_
