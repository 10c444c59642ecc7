#include "client/agent/blob_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <deque>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "base/files.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/scoped_fd.h"
#include "base/sha256.h"
#include "base/status_macros.h"

namespace choir::client {
namespace {

constexpr size_t kReadBytes = 1 << 20;
// Of one writev; the system allows at least so many.
constexpr std::ptrdiff_t kMostParts = 512;

// A download under way: appends to the file and hashes as it goes.
class PartFile {
 public:
  // Takes up what is there, if it is not longer than `max_bytes`.
  absl::Status Open(const std::string& path, uint64_t max_bytes) {
    path_ = path;
    fd_ =
        base::ScopedFd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!fd_.is_open()) return Errno("open ");
    std::vector<char> buffer(kReadBytes);
    while (true) {
      const ssize_t got = read(fd_.get(), buffer.data(), buffer.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return Errno("read ");
      if (got == 0) break;
      hash_.Update(absl::string_view(buffer.data(), got));
      size_ += got;
      if (size_ > max_bytes) return Restart();
    }
    return absl::OkStatus();
  }

  absl::Status Append(const DownloadedChunk& chunk) {
    std::vector<iovec> parts;
    parts.reserve(chunk.data.size());
    for (const absl::string_view part : chunk.data) {
      hash_.Update(part);
      parts.push_back({const_cast<char*>(part.data()), part.size()});
    }
    size_ += chunk.size();
    return WriteAll(parts.data(), parts.data() + parts.size());
  }

  // The digest of the whole. Nothing is synced: what a crash of the machine
  // leaves is checked against its digest before it is used.
  std::string Finish() { return base::ToHex(hash_.Finish()); }

  uint64_t size() const { return size_; }

 private:
  absl::Status WriteAll(iovec* part, iovec* end) {
    while (part != end) {
      const int count =
          static_cast<int>(std::min<std::ptrdiff_t>(end - part, kMostParts));
      ssize_t put = writev(fd_.get(), part, count);
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) return Errno("write ");
      while (part != end && static_cast<size_t>(put) >= part->iov_len) {
        put -= static_cast<ssize_t>(part->iov_len);
        ++part;
      }
      if (put > 0) {
        part->iov_base = static_cast<char*>(part->iov_base) + put;
        part->iov_len -= put;
      }
    }
    return absl::OkStatus();
  }
  absl::Status Errno(const char* what) const {
    return base::ErrnoStatus(errno, absl::StrCat(what, path_));
  }
  absl::Status Restart() {
    if (ftruncate(fd_.get(), 0) != 0 || lseek(fd_.get(), 0, SEEK_SET) != 0) {
      return Errno("truncate ");
    }
    hash_ = base::Sha256();
    size_ = 0;
    return absl::OkStatus();
  }

  std::string path_;
  base::ScopedFd fd_;
  uint64_t size_ = 0;
  base::Sha256 hash_;
};

// Appends to a part on a thread of its own, so that digest and disk do not hold
// up the connection. A queue of some length, because threads that wait for each
// other at every chunk spend their time waking up.
// Memory: kMostQueued chunks and one. Threads: one caller at a time.
class PartWriter {
 public:
  explicit PartWriter(PartFile& part)
      : part_(part), thread_([this] { Run(); }) {}
  ~PartWriter() { (void)Finish(); }

  // Takes the chunk, once there is room. The error of an earlier one.
  absl::Status Add(DownloadedChunk chunk) {
    base::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(
        +[](PartWriter* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mu_) {
          return self->queue_.size() < kMostQueued || !self->status_.ok();
        },
        this));
    queue_.push_back(std::move(chunk));
    return status_;
  }

  // Once everything is written; the first error.
  absl::Status Finish() {
    {
      base::MutexLock lock(&mu_);
      closed_ = true;
    }
    if (thread_.joinable()) thread_.join();
    base::MutexLock lock(&mu_);
    return status_;
  }

 private:
  static constexpr size_t kMostQueued = 32;

  void Run() {
    while (true) {
      std::deque<DownloadedChunk> chunks;
      {
        base::MutexLock lock(&mu_);
        mu_.Await(absl::Condition(
            +[](PartWriter* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mu_) {
              return !self->queue_.empty() || self->closed_;
            },
            this));
        if (queue_.empty()) return;
        chunks.swap(queue_);
      }
      absl::Status appended;
      while (!chunks.empty()) {
        if (appended.ok()) appended = part_.Append(chunks.front());
        chunks.pop_front();
      }
      if (appended.ok()) continue;
      // What comes after a gap is not wanted.
      base::MutexLock lock(&mu_);
      status_ = appended;
      return;
    }
  }

  PartFile& part_;
  base::Mutex mu_;
  std::deque<DownloadedChunk> queue_ ABSL_GUARDED_BY(mu_);
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mu_);
  std::thread thread_;
};

absl::StatusOr<std::string> HashFile(const std::string& path) {
  CHOIR_ASSIGN_OR_RETURN(const auto file, base::RandomAccessFile::Open(path));
  std::vector<char> buffer(kReadBytes);
  base::Sha256 hash;
  for (uint64_t at = 0; at < file->size();) {
    const uint64_t now = std::min<uint64_t>(kReadBytes, file->size() - at);
    CHOIR_RETURN_IF_ERROR(file->ReadAt(at, now, buffer.data()));
    hash.Update(absl::string_view(buffer.data(), now));
    at += now;
  }
  return base::ToHex(hash.Finish());
}

absl::Status CheckRef(const v1::BlobRef& blob) {
  CHOIR_ASSIGN_OR_RETURN(const base::Sha256Digest digest,
                         base::DigestFromHex(blob.digest()));
  // The digest becomes a file name: only the one spelling is right.
  if (base::ToHex(digest) != blob.digest()) {
    return absl::InvalidArgumentError(
        absl::StrCat("blob digest \"", blob.digest(),
                     "\" must be 64 lower-case hexadecimal digits"));
  }
  return absl::OkStatus();
}

}  // namespace

std::string BlobCache::PathOf(const std::string& digest) const {
  return base::JoinPath(folder_, digest);
}

void BlobCache::Touch(const std::string& path) const {
  const timespec now = absl::ToTimespec(clock_.Now());
  const timespec times[2] = {now, now};
  utimensat(AT_FDCWD, path.c_str(), times, 0);
}

void BlobCache::Remove(const std::string& digest) {
  verified_.erase(digest);
  unlink(PathOf(digest).c_str());
}

absl::StatusOr<bool> BlobCache::Have(const v1::BlobRef& blob) {
  const std::string path = PathOf(blob.digest());
  const absl::StatusOr<uint64_t> size = base::FileSize(path);
  if (absl::IsNotFound(size.status())) return false;
  CHOIR_RETURN_IF_ERROR(size.status());
  if (*size == blob.size()) {
    if (verified_.contains(blob.digest())) return true;
    CHOIR_ASSIGN_OR_RETURN(const std::string digest, HashFile(path));
    if (digest == blob.digest()) {
      verified_.insert(digest);
      return true;
    }
  }
  base::LogWarning("cached file ", path, " is damaged; it is downloaded again");
  Remove(blob.digest());
  return false;
}

absl::Status BlobCache::MakeRoom(const v1::BlobRef& blob,
                                 const std::set<std::string>& keep) {
  struct Entry {
    absl::Time used;
    std::string name;
    uint64_t size;
  };
  CHOIR_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                         base::ListDirectory(folder_));
  std::vector<Entry> removable;
  uint64_t kept = blob.size();
  uint64_t total = blob.size();
  for (const std::string& name : names) {
    struct stat info = {};
    if (stat(PathOf(name).c_str(), &info) != 0) continue;
    const std::string digest(absl::StripSuffix(name, ".part"));
    // Of the blob itself there may be a part; it is in blob.size() already.
    if (digest == blob.digest()) continue;
    const uint64_t size = static_cast<uint64_t>(info.st_size);
    total += size;
    if (keep.count(digest) > 0) {
      kept += size;
    } else {
      removable.push_back({absl::TimeFromTimespec(info.st_mtim), name, size});
    }
  }
  if (kept > max_bytes_) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the model's files take at least ", kept, " bytes, the cache may hold ",
        max_bytes_, "; raise cache_mib in the client's configuration"));
  }
  std::sort(removable.begin(), removable.end(),
            [](const Entry& a, const Entry& b) {
              return a.used != b.used ? a.used < b.used : a.name < b.name;
            });
  for (const Entry& entry : removable) {
    if (total <= max_bytes_) break;
    Remove(entry.name);
    total -= entry.size;
  }
  return absl::OkStatus();
}

absl::Status BlobCache::Download(const v1::BlobRef& blob,
                                 Transport& transport) {
  const std::string path = PathOf(blob.digest());
  const std::string part_path = absl::StrCat(path, ".part");
  PartFile part;
  CHOIR_RETURN_IF_ERROR(part.Open(part_path, blob.size()));
  if (part.size() < blob.size()) {
    v1::DownloadRequest request;
    request.set_digest(blob.digest());
    request.set_offset(part.size());
    PartWriter writer(part);
    uint64_t arrived = part.size();
    const auto sink = [&](DownloadedChunk chunk) -> absl::Status {
      const uint64_t bytes = chunk.size();
      bytes_downloaded_ += bytes;
      if (chunk.offset != arrived || chunk.total_size != blob.size() ||
          bytes > blob.size() - arrived) {
        return absl::DataLossError(absl::StrCat(
            "download of ", blob.digest(), ": chunk of ", bytes, " bytes at ",
            chunk.offset, ", expected at ", arrived, " of ", blob.size(),
            " (the coordinator says ", chunk.total_size, ")"));
      }
      arrived += bytes;
      return writer.Add(std::move(chunk));
    };
    const absl::Status downloaded = transport.Download(request, sink);
    CHOIR_RETURN_IF_ERROR(writer.Finish());
    CHOIR_RETURN_IF_ERROR(downloaded);
    if (arrived < blob.size()) {
      return absl::UnavailableError(
          absl::StrCat("download of ", blob.digest(), " ended after ", arrived,
                       " of ", blob.size(), " bytes"));
    }
  }
  const std::string digest = part.Finish();
  if (digest != blob.digest()) {
    unlink(part_path.c_str());
    return absl::DataLossError(absl::StrCat("download of ", blob.digest(),
                                            " has the digest ", digest,
                                            "; it is thrown away"));
  }
  if (rename(part_path.c_str(), path.c_str()) != 0) {
    return base::ErrnoStatus(errno, absl::StrCat("rename ", part_path));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> BlobCache::Fetch(
    const v1::BlobRef& blob, Transport& transport,
    const std::set<std::string>& keep) {
  CHOIR_RETURN_IF_ERROR(CheckRef(blob));
  const std::string path = PathOf(blob.digest());
  CHOIR_ASSIGN_OR_RETURN(const bool have, Have(blob));
  if (!have) {
    CHOIR_RETURN_IF_ERROR(MakeRoom(blob, keep));
    CHOIR_RETURN_IF_ERROR(Download(blob, transport));
    verified_.insert(blob.digest());
  }
  Touch(path);
  return path;
}

}  // namespace choir::client
