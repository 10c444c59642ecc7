// Uploads in progress: files in incoming/ that become blobs once complete.
#ifndef CHOIR_COORDINATOR_STORE_BLOB_INCOMING_H_
#define CHOIR_COORDINATOR_STORE_BLOB_INCOMING_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/files.h"
#include "base/mutex.h"
#include "coordinator/store/blob_store.h"

namespace choir::store {

// Gives the file `from` the blob's final name. Atomic; replaces what is there.
absl::Status PublishBlob(const std::string& from, const std::string& root,
                         absl::string_view digest, base::Durability durability);

// <root>/blobs/ab/cdef...
std::string BlobPath(const std::string& root, absl::string_view digest);

// Which upload of each file may write: the latest. Threads: safe.
class UploadSlots {
 public:
  struct Slot {
    base::Mutex mu;
    uint64_t generation ABSL_GUARDED_BY(mu) = 0;
  };
  // Takes the file over from whoever had it; `generation` is the caller's.
  std::shared_ptr<Slot> Take(const std::string& name, uint64_t& generation);
  // Forgets the file if it still is the caller's.
  void Release(const std::string& name, uint64_t generation);
  bool InUse(const std::string& name) const;

 private:
  mutable base::Mutex mu_;
  uint64_t next_generation_ ABSL_GUARDED_BY(mu_) = 1;
  std::map<std::string, std::shared_ptr<Slot>> slots_ ABSL_GUARDED_BY(mu_);
};

struct UploadOptions {
  std::string root;
  std::string name;    // in incoming/
  std::string digest;  // announced
  uint64_t size = 0;   // announced
  base::Durability durability = base::Durability::kPowerLoss;
};

// Opens or goes on with the upload; what is there already is hashed again.
// `slots` outlives the upload.
absl::StatusOr<std::unique_ptr<IncomingBlob>> OpenUpload(
    const UploadOptions& options, UploadSlots& slots);

// The upload of a blob that is there: nothing is left to send.
std::unique_ptr<IncomingBlob> CompleteUpload(uint64_t size);

}  // namespace choir::store

#endif  // CHOIR_COORDINATOR_STORE_BLOB_INCOMING_H_
