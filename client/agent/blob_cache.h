// Downloaded files, named by their SHA-256, on the agent's disk.
#ifndef CHOIR_CLIENT_AGENT_BLOB_CACHE_H_
#define CHOIR_CLIENT_AGENT_BLOB_CACHE_H_

#include <cstdint>
#include <set>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "choir/v1/coordinator.pb.h"
#include "client/transport.h"

namespace choir::client {

// A blob lies in <folder>/<digest>, a download under way in
// <folder>/<digest>.part. When a new blob needs room, those that were used the
// longest ago go first. What an earlier process left is checked against its
// digest when it is first used. Memory: one chunk. Threads: one at a time.
class BlobCache {
 public:
  // `folder` must exist; `clock` outlives the cache.
  BlobCache(std::string folder, uint64_t max_bytes, const base::Clock& clock)
      : folder_(std::move(folder)), max_bytes_(max_bytes), clock_(clock) {}

  // The path of the blob, downloaded (once; the caller retries) if it is not
  // there, from the byte on where an earlier download broke off. Blobs in
  // `keep` are not removed to make room.
  //
  // Errors: the transport's, what has arrived being kept; DATA_LOSS if the
  //   bytes do not have the digest (they are thrown away, so that another call
  //   starts afresh); RESOURCE_EXHAUSTED if the blob does not fit into the
  //   cache beside `keep`, or the disk is full; INVALID_ARGUMENT for a
  //   malformed reference.
  absl::StatusOr<std::string> Fetch(const v1::BlobRef& blob,
                                    Transport& transport,
                                    const std::set<std::string>& keep);

  void Remove(const std::string& digest);

  // Received since the cache was opened, repeated and broken bytes included.
  uint64_t bytes_downloaded() const { return bytes_downloaded_; }

 private:
  std::string PathOf(const std::string& digest) const;
  // True if the whole blob is there and right.
  absl::StatusOr<bool> Have(const v1::BlobRef& blob);
  absl::Status MakeRoom(const v1::BlobRef& blob,
                        const std::set<std::string>& keep);
  absl::Status Download(const v1::BlobRef& blob, Transport& transport);
  void Touch(const std::string& path) const;

  std::string folder_;
  uint64_t max_bytes_;
  const base::Clock& clock_;
  absl::flat_hash_set<std::string> verified_;
  uint64_t bytes_downloaded_ = 0;
};

}  // namespace choir::client

#endif  // CHOIR_CLIENT_AGENT_BLOB_CACHE_H_
