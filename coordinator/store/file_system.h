// Which file systems can hold a store.
#ifndef CHOIR_COORDINATOR_STORE_FILE_SYSTEM_H_
#define CHOIR_COORDINATOR_STORE_FILE_SYSTEM_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace choir::store {

// FAILED_PRECONDITION if file systems of this type do not keep SQLite's
// promises: shared memory and locks of a journal need a local one. `magic` is
// statfs(2)'s f_type; `fuse_type` is the mount's type in /proc/self/mountinfo
// ("fuse.sshfs"), of interest for FUSE only. `path` is for the message.
absl::Status CheckFileSystemType(uint64_t magic, absl::string_view fuse_type,
                                 absl::string_view path);

// The same for the file system that holds the existing folder `path`.
absl::Status CheckFileSystem(const std::string& path);

}  // namespace choir::store

#endif  // CHOIR_COORDINATOR_STORE_FILE_SYSTEM_H_
