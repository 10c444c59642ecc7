// A coordinator's store: one folder with a lock, a journal and blobs.
#ifndef CHOIR_COORDINATOR_STORE_STORE_H_
#define CHOIR_COORDINATOR_STORE_STORE_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/files.h"
#include "coordinator/store/blob_store.h"
#include "coordinator/store/journal.h"

namespace choir::store {

// Threads: safe.
class Store {
 public:
  // Opens or creates the folder and locks it for this process.
  // FAILED_PRECONDITION (exit code 11) if another process holds the lock; the
  // message says so and IsStoreLocked() tells. The lock goes when the process
  // goes, however it ends. FAILED_PRECONDITION also on network file systems.
  // The first record of a new store, StoreCreated, is written here.
  static absl::StatusOr<std::unique_ptr<Store>> Open(
      const std::string& root, base::Durability durability,
      const base::Clock& clock);
  virtual ~Store() = default;

  virtual Journal& journal() = 0;
  virtual BlobStore& blobs() = 0;
  virtual const std::string& root() const = 0;
  virtual absl::Status Close() = 0;
};

// True for the status of Open() when another process has the store.
bool IsStoreLocked(const absl::Status& status);

}  // namespace choir::store

#endif  // CHOIR_COORDINATOR_STORE_STORE_H_
