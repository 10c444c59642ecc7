// File descriptors that close themselves, and what needs one: writing at a
// place in a file, and locking a file against other processes.
#ifndef CHOIR_BASE_SCOPED_FD_H_
#define CHOIR_BASE_SCOPED_FD_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace choir::base {

// Owns a descriptor, or none (-1). Threads: one thread at a time.
class ScopedFd {
 public:
  explicit ScopedFd(int fd = -1) : fd_(fd) {}
  ~ScopedFd();
  ScopedFd(ScopedFd&& other) noexcept : fd_(other.release()) {}
  ScopedFd& operator=(ScopedFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }

  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }
  // Hands the descriptor over to the caller.
  int release() { return std::exchange(fd_, -1); }
  // Closes it now, to learn whether what was written is in the file: some file
  // systems say only here that it is not. `path` is for the message.
  absl::Status Close(const std::string& path);

 private:
  int fd_;
};

// Writes all of `bytes` at `offset`, however many calls that takes. The file's
// own position stays where it is. Errors: as in base/files.h, naming `path`.
absl::Status WriteAllAt(int fd, uint64_t offset, absl::string_view bytes,
                        const std::string& path);

// Opens the file `path`, created with `mode` if absent, and locks it against
// other processes (flock). The lock goes with the descriptor, hence with the
// process, however it ends.
// Errors: FAILED_PRECONDITION if it is locked already; as in base/files.h.
absl::StatusOr<ScopedFd> LockFile(const std::string& path, int mode);

}  // namespace choir::base

#endif  // CHOIR_BASE_SCOPED_FD_H_
