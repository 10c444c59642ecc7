// Files: read whole, written whole or not at all, or memory-mapped.
//
// Errors everywhere: NOT_FOUND, PERMISSION_DENIED, RESOURCE_EXHAUSTED (disk
// full), otherwise UNKNOWN; the message names the path and the system's reason.
#ifndef CHOIR_BASE_FILES_H_
#define CHOIR_BASE_FILES_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace choir::base {

// The status for a failed system call: `what` names the act and the path.
absl::Status ErrnoStatus(int error_number, absl::string_view what);

std::string JoinPath(absl::string_view directory, absl::string_view name);
bool FileExists(const std::string& path);
absl::StatusOr<uint64_t> FileSize(const std::string& path);
absl::Status MakeDirectories(const std::string& path);
// Names (not paths) of the entries, sorted, without "." and "..".
absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path);

// RESOURCE_EXHAUSTED if the file is larger than `max_bytes`.
absl::StatusOr<std::string> ReadFile(const std::string& path,
                                     uint64_t max_bytes = 1ull << 31);

// What survives: with kPowerLoss the bytes are synced to disk before the
// rename and the directory after it; with kProcessCrash they are not.
enum class Durability { kProcessCrash, kPowerLoss };

// Writes to a temporary file beside `path`, then renames: a reader sees the old
// contents or the new, never a part. `mode` is the file's permission bits.
absl::Status WriteFileAtomic(const std::string& path, absl::string_view bytes,
                             Durability durability = Durability::kPowerLoss,
                             int mode = 0644);

absl::Status SyncDirectory(const std::string& path);

// A read-only file descriptor; closed on destruction.
// Threads: ReadAt is safe from many threads.
class RandomAccessFile {
 public:
  static absl::StatusOr<std::unique_ptr<RandomAccessFile>> Open(
      const std::string& path);
  ~RandomAccessFile();
  uint64_t size() const { return size_; }
  // Reads exactly `bytes` bytes; OUT_OF_RANGE past the end.
  absl::Status ReadAt(uint64_t offset, uint64_t bytes, char* out) const;

 private:
  RandomAccessFile(int fd, uint64_t size, std::string path)
      : fd_(fd), size_(size), path_(std::move(path)) {}
  int fd_;
  uint64_t size_;
  std::string path_;
};

// A read-only private mapping of a whole file. Threads: safe.
class MappedFile {
 public:
  static absl::StatusOr<std::shared_ptr<const MappedFile>> Open(
      const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  absl::string_view bytes() const {
    return absl::string_view(static_cast<const char*>(data_), size_);
  }
  const std::string& path() const { return path_; }

 private:
  MappedFile(void* data, size_t size, std::string path)
      : data_(data), size_(size), path_(std::move(path)) {}
  void* data_;
  size_t size_;
  std::string path_;
};

// Drops the memory behind `part` of a mapping (whole pages inside it only); it
// is read from the file again when it is touched next. Only for mapped files.
void ReleasePages(absl::string_view part);

}  // namespace choir::base

#endif  // CHOIR_BASE_FILES_H_
