// A peer that speaks the agents' protocol and says what it likes.
#ifndef CHOIR_TESTS_E2E_REFUSALS_RAW_PEER_H_
#define CHOIR_TESTS_E2E_REFUSALS_RAW_PEER_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "choir/v1/coordinator.pb.h"
#include "client/transport.h"
#include "privacy/crypto/identity.h"
#include "proto/codec/layout.h"
#include "tests/support/cluster.h"

namespace choir::tests {

std::unique_ptr<client::Transport> Dial(const Cluster& cluster);

// Asks for a certificate of `key`. The statuses are the coordinator's.
absl::StatusOr<v1::EnrollResponse> Enrol(client::Transport& transport,
                                         const std::string& name,
                                         const std::string& token,
                                         const crypto::PrivateKey& key);

// A fresh token from the operator for a client of this name.
std::string NewToken(Cluster& cluster, const std::string& name);

// The update's bytes that the layout asks for, all elements zero.
std::string ZeroUpdate(const codec::Layout& layout);
v1::BlobRef RefOf(const std::string& bytes);

// An enrolled peer. Failures to set up end the test program.
class RawPeer {
 public:
  RawPeer(Cluster& cluster, const std::string& name);

  client::Transport& transport() { return *transport_; }

  // Checks in until there is a task.
  v1::TaskPlan NextTask();
  // The layout of the plan's adapter, which is downloaded for it.
  codec::Layout LayoutOf(const v1::TaskPlan& plan);

  // Sends what is missing of `bytes` in chunks of 256 KiB, announced as `blob`.
  absl::StatusOr<v1::UploadStatusResponse> Upload(const v1::TaskKey& key,
                                                  const v1::BlobRef& blob,
                                                  absl::string_view bytes);
  // Sends one chunk as it is.
  absl::StatusOr<v1::UploadStatusResponse> Send(v1::UploadChunk chunk);

  // What an honest peer says of `update`.
  static v1::ReportRequest Report(const v1::TaskKey& key,
                                  const v1::BlobRef& update);

 private:
  std::string blobs_;  // folder
  std::unique_ptr<client::Transport> transport_;
};

}  // namespace choir::tests

#endif  // CHOIR_TESTS_E2E_REFUSALS_RAW_PEER_H_
