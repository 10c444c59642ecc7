// What an agent keeps on disk, so that it can be killed at any moment and go
// on: its key and certificate, cached models, and work that is finished but
// not yet acknowledged.
//
//   lock           held while an agent runs
//   client.key     0600; client.csr; client.pem
//   signing.key    0600; signing.pem: for secure aggregation
//   sessions.seen  secure sessions, rounds and sums, so that none is answered
//   keys.seen      twice, and peers' keys (privacy/secagg/identities.h)
//   state.json     what is pending; written atomically
//   pending.update the bytes of a pending update
//   blobs/ models/ caches; may be deleted while no agent runs
#ifndef CHOIR_CLIENT_AGENT_STATE_DIR_H_
#define CHOIR_CLIENT_AGENT_STATE_DIR_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "base/scoped_fd.h"
#include "choir/v1/coordinator.pb.h"

namespace choir::client {

// Threads: one thread at a time.
class StateDir {
 public:
  // Makes the folder (0700) if need be and locks it. What a damaged state.json
  // or pending.update held is given up, with a warning: the coordinator hands
  // out unreported work again.
  // Errors: FAILED_PRECONDITION if another agent uses the folder.
  static absl::StatusOr<std::unique_ptr<StateDir>> Open(
      const std::string& path);

  std::string key_path() const { return File("client.key"); }
  std::string request_path() const { return File("client.csr"); }
  std::string certificate_path() const { return File("client.pem"); }
  std::string signing_key_path() const { return File("signing.key"); }
  std::string signing_certificate_path() const { return File("signing.pem"); }
  std::string sessions_path() const { return File("sessions.seen"); }
  std::string keys_path() const { return File("keys.seen"); }
  std::string blobs_path() const { return File("blobs"); }
  std::string models_path() const { return File("models"); }
  std::string update_path() const { return File("pending.update"); }

  // The report that is still to be acknowledged. If it is a TrainReport,
  // update_path() holds its update.
  const absl::optional<v1::ReportRequest>& pending() const { return pending_; }
  // Durable when it returns. `update` is empty unless report.has_train().
  absl::Status SavePending(const v1::ReportRequest& report,
                           absl::string_view update);
  absl::Status ClearPending();

  // The adapter that was downloaded last; empty if none.
  const std::string& adapter_digest() const { return adapter_digest_; }
  absl::Status SetAdapterDigest(absl::string_view digest);

  // The secure session that was begun last, as hexadecimal digits; empty if
  // none. Its secrets were in memory only: it is never begun again.
  const std::string& secure_session() const { return secure_session_; }
  absl::Status SetSecureSession(absl::string_view session);

 private:
  StateDir(std::string path, base::ScopedFd lock)
      : path_(std::move(path)), lock_(std::move(lock)) {}
  std::string File(absl::string_view name) const;
  absl::Status Load();
  absl::Status Parse(absl::string_view text);
  absl::Status CheckUpdate() const;
  absl::Status Write() const;

  const std::string path_;
  const base::ScopedFd lock_;
  absl::optional<v1::ReportRequest> pending_;
  std::string adapter_digest_;
  std::string secure_session_;
};

}  // namespace choir::client

#endif  // CHOIR_CLIENT_AGENT_STATE_DIR_H_
