// Content-addressed payloads: adapters, base models, updates, sums.
//
// Layout: <root>/blobs/ab/cdef... (SHA-256 in hexadecimal, the first two digits
// are a folder) and <root>/incoming/ for what is still arriving. A blob is
// complete and correct from the moment it has its name.
#ifndef CHOIR_COORDINATOR_STORE_BLOB_STORE_H_
#define CHOIR_COORDINATOR_STORE_BLOB_STORE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/files.h"
#include "choir/v1/coordinator.pb.h"

namespace choir::store {

// Whether `text` is a digest in its one spelling: 64 lower-case hexadecimal
// digits. Blobs are found under others, too; the journal has this one, because
// auditors compare texts.
bool IsDigestText(absl::string_view text);

// A blob while it arrives. What was appended survives a restart.
// Threads: one thread at a time per object.
class IncomingBlob {
 public:
  virtual ~IncomingBlob() = default;
  virtual uint64_t received_bytes() const = 0;
  // OUT_OF_RANGE if more arrives than was announced.
  virtual absl::Status Append(absl::string_view bytes) = 0;
  // Gives the blob its name. DATA_LOSS, and the bytes are dropped, if digest
  // or size differ from what was announced.
  virtual absl::Status Commit() = 0;
  // Drops what has arrived, unless it is a blob already or another upload has
  // taken this one's place.
  virtual void Discard() = 0;
};

// Threads: safe.
class BlobStore {
 public:
  static absl::StatusOr<std::unique_ptr<BlobStore>> Open(
      const std::string& root, base::Durability durability);
  virtual ~BlobStore() = default;

  // Storing what is already there costs a look only.
  virtual absl::StatusOr<v1::BlobRef> Put(absl::string_view bytes) = 0;
  // Copies a file in without holding it in memory.
  virtual absl::StatusOr<v1::BlobRef> PutFile(const std::string& path) = 0;
  virtual bool Contains(absl::string_view digest) const = 0;
  // NOT_FOUND; INVALID_ARGUMENT for what is no digest.
  virtual absl::StatusOr<std::unique_ptr<base::RandomAccessFile>> OpenBlob(
      absl::string_view digest) const = 0;
  // Reads a blob whole and checks its digest: DATA_LOSS if it is damaged.
  virtual absl::StatusOr<std::string> Read(absl::string_view digest) const = 0;
  // Path of the blob's file, for mapping it. NOT_FOUND.
  virtual absl::StatusOr<std::string> PathOf(
      absl::string_view digest) const = 0;
  // Begins or resumes an upload; `owner` keeps uploads of two peers apart. A
  // second one of the same owner takes over: the first then gets ABORTED.
  virtual absl::StatusOr<std::unique_ptr<IncomingBlob>> Receive(
      const v1::BlobRef& blob, absl::string_view owner) = 0;
  // Removing what is not there is no error.
  virtual absl::Status Remove(absl::string_view digest) = 0;
  // Drops uploads that nothing was added to for `max_age` and that nobody has
  // open. Returns how many.
  virtual absl::StatusOr<int> RemoveStaleIncoming(absl::Duration max_age,
                                                  const base::Clock& clock) = 0;
  // Drops uploads that nobody has open whose first bytes are `magic`, as far as
  // they have come. Returns how many.
  virtual absl::StatusOr<int> RemoveIncoming(absl::string_view magic) = 0;
  // Digests of all complete blobs, sorted.
  virtual absl::StatusOr<std::vector<std::string>> List() const = 0;
};

}  // namespace choir::store

#endif  // CHOIR_COORDINATOR_STORE_BLOB_STORE_H_
