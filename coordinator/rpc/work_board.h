// Which task each client has been given, and so what it may send and fetch.
#ifndef CHOIR_COORDINATOR_RPC_WORK_BOARD_H_
#define CHOIR_COORDINATOR_RPC_WORK_BOARD_H_

#include <string>
#include <vector>

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

  // Of tasks in secure rounds that take no vector any more: who had them, and
  // what has arrived for them whole and was not reported. An upload for them
  // that ends later is told so by Uploaded().
  struct Remains {
    std::vector<std::string> clients;
    std::vector<std::string> payloads;
  };

  // Replaces the client's earlier task.
  [[nodiscard]] Remains Give(const std::string& client,
                             const v1::TaskPlan& plan);
  // Forgets the client's task if it is `key`.
  [[nodiscard]] Remains Done(const std::string& client, const v1::TaskKey& key);
  // Masked vectors are taken no more for this attempt at a round. Its tasks
  // stay: their clients go on with the session.
  [[nodiscard]] Remains Close(const std::string& job, uint32_t round,
                              uint32_t attempt);
  // No job runs any more.
  [[nodiscard]] Remains Clear();

  // The payload of the client's task `key` has arrived whole, and is not
  // reported yet. False if the task is over or closed: nothing is noted then.
  bool Uploaded(absl::string_view client, const v1::TaskKey& key,
                const std::string& digest);
  // The same of an update that nobody has a task for any more.
  void Unclaimed(const std::string& digest);
  // The runner knows of the update now and will remove it.
  void Reported(const std::string& digest);
  // Updates that arrived and were never reported; forgets them.
  absl::flat_hash_set<std::string> TakeUnreported();

  // ABORTED unless `client` has the training task `key`, and it is not closed.
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
    bool secure = false;
    bool closed = false;
  };
  void Leave(const std::string& client, const Task& task, Remains& remains)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  mutable base::Mutex mu_;
  absl::flat_hash_map<std::string, Task> tasks_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_set<std::string> unreported_ ABSL_GUARDED_BY(mu_);
};

// "job j, round 3, attempt 1".
std::string TaskText(const v1::TaskKey& key);

}  // namespace choir::rpc

#endif  // CHOIR_COORDINATOR_RPC_WORK_BOARD_H_
