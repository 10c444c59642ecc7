#include "base/scoped_fd.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/files.h"

namespace choir::base {

ScopedFd::~ScopedFd() {
  if (fd_ >= 0) close(fd_);
}

absl::Status ScopedFd::Close(const std::string& path) {
  if (close(release()) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, absl::StrCat("close ", path));
}

absl::Status WriteAllAt(int fd, uint64_t offset, absl::string_view bytes,
                        const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n =
        pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus(errno, absl::StrCat("write ", path));
    }
    bytes.remove_prefix(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

absl::StatusOr<ScopedFd> LockFile(const std::string& path, int mode) {
  ScopedFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, mode));
  if (!fd.is_open()) return ErrnoStatus(errno, absl::StrCat("open ", path));
  if (flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return fd;
  if (errno == EWOULDBLOCK) {
    return absl::FailedPreconditionError(
        absl::StrCat("another process holds the lock ", path));
  }
  return ErrnoStatus(errno, absl::StrCat("lock ", path));
}

}  // namespace choir::base
