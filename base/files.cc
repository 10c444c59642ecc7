#include "base/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "base/scoped_fd.h"
#include "base/secure_random.h"
#include "base/status_macros.h"

namespace choir::base {
namespace {

struct RegularFile {
  ScopedFd fd;
  uint64_t size = 0;
};

// For reading. INVALID_ARGUMENT for folders, devices and the like.
absl::StatusOr<RegularFile> OpenRegular(const std::string& path) {
  RegularFile file;
  file.fd = ScopedFd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.fd.is_open()) {
    return ErrnoStatus(errno, absl::StrCat("open ", path));
  }
  struct stat info;
  if (fstat(file.fd.get(), &info) != 0) {
    return ErrnoStatus(errno, absl::StrCat("look at ", path));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is not a regular file"));
  }
  file.size = static_cast<uint64_t>(info.st_size);
  return file;
}

}  // namespace

absl::Status ErrnoStatus(int error_number, absl::string_view what) {
  const std::string message = absl::StrCat(
      "cannot ", what, ": ", std::generic_category().message(error_number));
  switch (error_number) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(message);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(message);
    case ENOSPC:
    case EDQUOT:
      return absl::ResourceExhaustedError(
          absl::StrCat(message, "; free some space, then try again"));
    default:
      return absl::UnknownError(message);
  }
}

std::string JoinPath(absl::string_view directory, absl::string_view name) {
  if (directory.empty()) return std::string(name);
  if (directory.back() == '/') return absl::StrCat(directory, name);
  return absl::StrCat(directory, "/", name);
}

bool FileExists(const std::string& path) {
  return access(path.c_str(), F_OK) == 0;
}

absl::StatusOr<uint64_t> FileSize(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) {
    return ErrnoStatus(errno, absl::StrCat("look at ", path));
  }
  return static_cast<uint64_t>(info.st_size);
}

absl::Status MakeDirectories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) {
    return ErrnoStatus(error.value(), absl::StrCat("create folder ", path));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> ListDirectory(
    const std::string& path) {
  DIR* directory = opendir(path.c_str());
  if (directory == nullptr) {
    return ErrnoStatus(errno, absl::StrCat("list folder ", path));
  }
  std::vector<std::string> names;
  while (const dirent* entry = readdir(directory)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  closedir(directory);
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<std::string> ReadFile(const std::string& path,
                                     uint64_t max_bytes) {
  CHOIR_ASSIGN_OR_RETURN(auto file, RandomAccessFile::Open(path));
  if (file->size() > max_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(path, " is ", file->size(),
                                                     " bytes long; at most ",
                                                     max_bytes, " are read"));
  }
  std::string bytes(file->size(), '\0');
  CHOIR_RETURN_IF_ERROR(file->ReadAt(0, bytes.size(), bytes.data()));
  return bytes;
}

absl::Status WriteFileAtomic(const std::string& path, absl::string_view bytes,
                             Durability durability, int mode) {
  SystemRandom random;
  const std::string temporary = absl::StrCat(path, ".tmp-", random.Hex(6));
  ScopedFd fd(
      open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
  if (!fd.is_open()) {
    return ErrnoStatus(errno, absl::StrCat("create ", temporary));
  }
  absl::Status status = WriteAllAt(fd.get(), 0, bytes, temporary);
  if (status.ok() && durability == Durability::kPowerLoss &&
      fsync(fd.get()) != 0) {
    status = ErrnoStatus(errno, absl::StrCat("sync ", temporary));
  }
  if (status.ok()) status = fd.Close(temporary);
  if (status.ok() && std::rename(temporary.c_str(), path.c_str()) != 0) {
    status = ErrnoStatus(errno, absl::StrCat("rename to ", path));
  }
  if (!status.ok()) {
    unlink(temporary.c_str());
    return status;
  }
  if (durability == Durability::kProcessCrash) return absl::OkStatus();
  const std::string parent = std::filesystem::path(path).parent_path();
  return SyncDirectory(parent.empty() ? "." : parent);
}

absl::Status SyncDirectory(const std::string& path) {
  ScopedFd fd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.is_open() || fsync(fd.get()) != 0) {
    return ErrnoStatus(errno, absl::StrCat("sync folder ", path));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<RandomAccessFile>> RandomAccessFile::Open(
    const std::string& path) {
  CHOIR_ASSIGN_OR_RETURN(RegularFile file, OpenRegular(path));
  return std::unique_ptr<RandomAccessFile>(
      new RandomAccessFile(file.fd.release(), file.size, path));
}

RandomAccessFile::~RandomAccessFile() { close(fd_); }

absl::Status RandomAccessFile::ReadAt(uint64_t offset, uint64_t bytes,
                                      char* out) const {
  while (bytes > 0) {
    const ssize_t n = pread(fd_, out, bytes, static_cast<off_t>(offset));
    if (n < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus(errno, absl::StrCat("read ", path_));
    }
    if (n == 0) {
      return absl::OutOfRangeError(absl::StrCat(
          path_, " ends at byte ", offset, "; ", bytes, " more were expected"));
    }
    offset += static_cast<uint64_t>(n);
    bytes -= static_cast<uint64_t>(n);
    out += n;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const MappedFile>> MappedFile::Open(
    const std::string& path) {
  CHOIR_ASSIGN_OR_RETURN(RegularFile file, OpenRegular(path));
  void* data = nullptr;
  if (file.size > 0) {
    data = mmap(nullptr, file.size, PROT_READ, MAP_PRIVATE, file.fd.get(), 0);
    if (data == MAP_FAILED) {
      return ErrnoStatus(errno, absl::StrCat("map ", path));
    }
  }
  return std::shared_ptr<const MappedFile>(
      new MappedFile(data, file.size, path));
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(data_, size_);
}

void ReleasePages(absl::string_view part) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(part.data());
  const uintptr_t first = (begin + page - 1) / page * page;
  const uintptr_t last = (begin + part.size()) / page * page;
  // Advice only: if the system does not take it, memory is merely kept.
  if (first < last) {
    madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
  }
}

}  // namespace choir::base
