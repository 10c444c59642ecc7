// Which task each client has been given, and so what it may send and fetch.
#ifndef CHOIR_COORDINATOR_RPC_WORK_BOARD_H_
#define CHOIR_COORDINATOR_RPC_WORK_BOARD_H_

#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "base/mutex.h"
#include "choir/v1/coordinator.pb.h"

namespace choir::rpc {

// Not journaled: after a restart the engine gives the tasks out again.
// Threads: safe; written by the job loop, read by transfers.
class WorkBoard {
 public:
  static constexpr size_t kMaxPayloads = 4;

  // Replaces the client's earlier task.
  void Give(const std::string& client, const v1::TaskPlan& plan);
  // Forgets the client's task if it is `key`.
  void Done(const std::string& client, const v1::TaskKey& key);
  // No job runs any more.
  void Clear();

  // An update has arrived whole; its client has not reported it yet.
  void Uploaded(const std::string& digest);
  // The runner knows of the update now and will remove it.
  void Reported(const std::string& digest);
  // Updates that arrived and were never reported; forgets them.
  absl::flat_hash_set<std::string> TakeUnreported();

  // ABORTED unless `client` has the training task `key`.
  absl::Status CheckUpload(absl::string_view client,
                           const v1::TaskKey& key) const;
  // Notes that the client sends this payload for its task. RESOURCE_EXHAUSTED
  // beyond kMaxPayloads different ones: whoever trains once needs one, and each
  // of them takes space until the job ends.
  absl::Status CountPayload(absl::string_view client, absl::string_view digest);
  // Whether the client has sent this payload for its task `key`.
  bool HasPayload(absl::string_view client, const v1::TaskKey& key,
                  absl::string_view digest) const;
  // The task that the client has, if any.
  absl::optional<v1::TaskKey> TaskOf(absl::string_view client) const;
  // PERMISSION_DENIED unless the client's task names the blob.
  absl::Status CheckDownload(absl::string_view client,
                             absl::string_view digest) const;

 private:
  struct Task {
    v1::TaskKey key;
    absl::flat_hash_set<std::string> blobs;
    absl::flat_hash_set<std::string> payloads;
  };
  mutable base::Mutex mu_;
  absl::flat_hash_map<std::string, Task> tasks_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_set<std::string> unreported_ ABSL_GUARDED_BY(mu_);
};

// "job j, round 3, attempt 1".
std::string TaskText(const v1::TaskKey& key);

}  // namespace choir::rpc

#endif  // CHOIR_COORDINATOR_RPC_WORK_BOARD_H_
