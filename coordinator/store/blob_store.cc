#include "coordinator/store/blob_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <functional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/scoped_fd.h"
#include "base/secure_random.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "coordinator/store/blob_incoming.h"

namespace choir::store {
namespace {

constexpr uint64_t kCopyBytes = 1 << 20;
constexpr char kTemporaryPrefix[] = "put-";

// The digest in its one spelling: 64 lower-case digits.
absl::StatusOr<std::string> CheckDigest(absl::string_view digest) {
  CHOIR_ASSIGN_OR_RETURN(const base::Sha256Digest bytes,
                         base::DigestFromHex(digest));
  return base::ToHex(bytes);
}

class FileBlobStore final : public BlobStore {
 public:
  FileBlobStore(std::string root, base::Durability durability)
      : root_(std::move(root)), durability_(durability) {}

  absl::Status Prepare();
  absl::StatusOr<v1::BlobRef> Put(absl::string_view bytes) override;
  absl::StatusOr<v1::BlobRef> PutFile(const std::string& path) override;
  bool Contains(absl::string_view digest) const override;
  absl::StatusOr<std::unique_ptr<base::RandomAccessFile>> OpenBlob(
      absl::string_view digest) const override;
  absl::StatusOr<std::string> Read(absl::string_view digest) const override;
  absl::StatusOr<std::string> PathOf(absl::string_view digest) const override;
  absl::StatusOr<std::unique_ptr<IncomingBlob>> Receive(
      const v1::BlobRef& blob, absl::string_view owner) override;
  absl::Status Remove(absl::string_view digest) override;
  absl::StatusOr<int> RemoveStaleIncoming(absl::Duration max_age,
                                          const base::Clock& clock) override;
  absl::StatusOr<int> RemoveIncoming(absl::string_view magic) override;
  absl::StatusOr<std::vector<std::string>> List() const override;

 private:
  std::string incoming() const { return absl::StrCat(root_, "/incoming"); }
  bool HasWithSize(absl::string_view digest, uint64_t size) const;
  // Runs `write` on a new temporary file; what it returns is the digest under
  // which the file becomes a blob. Nothing is left behind on an error.
  absl::StatusOr<std::string> Create(
      const std::function<
          absl::StatusOr<std::string>(int fd, const std::string& path)>& write);

  const std::string root_;
  const base::Durability durability_;
  UploadSlots slots_;
};

absl::Status FileBlobStore::Prepare() {
  CHOIR_RETURN_IF_ERROR(base::MakeDirectories(absl::StrCat(root_, "/blobs")));
  CHOIR_RETURN_IF_ERROR(base::MakeDirectories(incoming()));
  if (durability_ == base::Durability::kPowerLoss) {
    CHOIR_RETURN_IF_ERROR(base::SyncDirectory(root_));
  }
  // Left over from a crash; nobody will come back for them.
  CHOIR_ASSIGN_OR_RETURN(const auto names, base::ListDirectory(incoming()));
  for (const std::string& name : names) {
    if (absl::StartsWith(name, kTemporaryPrefix)) {
      unlink(base::JoinPath(incoming(), name).c_str());
    }
  }
  return absl::OkStatus();
}

bool FileBlobStore::HasWithSize(absl::string_view digest, uint64_t size) const {
  const auto present = base::FileSize(BlobPath(root_, digest));
  return present.ok() && *present == size;
}

absl::StatusOr<std::string> FileBlobStore::Create(
    const std::function<
        absl::StatusOr<std::string>(int fd, const std::string& path)>& write) {
  base::SystemRandom random;
  const std::string path =
      base::JoinPath(incoming(), absl::StrCat(kTemporaryPrefix, random.Hex(8)));
  base::ScopedFd fd(
      open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!fd.is_open()) {
    return base::ErrnoStatus(errno, absl::StrCat("create ", path));
  }
  absl::StatusOr<std::string> digest = write(fd.get(), path);
  absl::Status status = digest.status();
  if (status.ok() && durability_ == base::Durability::kPowerLoss &&
      fsync(fd.get()) != 0) {
    status = base::ErrnoStatus(errno, absl::StrCat("sync ", path));
  }
  if (status.ok()) status = fd.Close(path);
  if (status.ok()) status = PublishBlob(path, root_, *digest, durability_);
  if (status.ok()) return digest;
  unlink(path.c_str());
  return status;
}

absl::StatusOr<v1::BlobRef> FileBlobStore::Put(absl::string_view bytes) {
  v1::BlobRef ref;
  ref.set_digest(base::Sha256Hex(bytes));
  ref.set_size(bytes.size());
  if (HasWithSize(ref.digest(), bytes.size())) return ref;
  CHOIR_RETURN_IF_ERROR(
      Create([&](int fd,
                 const std::string& path) -> absl::StatusOr<std::string> {
        CHOIR_RETURN_IF_ERROR(base::WriteAllAt(fd, 0, bytes, path));
        return ref.digest();
      }).status());
  return ref;
}

absl::StatusOr<v1::BlobRef> FileBlobStore::PutFile(const std::string& path) {
  CHOIR_ASSIGN_OR_RETURN(const auto source, base::RandomAccessFile::Open(path));
  v1::BlobRef ref;
  ref.set_size(source->size());
  const auto copy = [&](int fd,
                        const std::string& to) -> absl::StatusOr<std::string> {
    base::Sha256 hash;
    std::string buffer;
    for (uint64_t at = 0; at < source->size(); at += buffer.size()) {
      buffer.resize(std::min(kCopyBytes, source->size() - at));
      CHOIR_RETURN_IF_ERROR(source->ReadAt(at, buffer.size(), buffer.data()));
      hash.Update(buffer);
      CHOIR_RETURN_IF_ERROR(base::WriteAllAt(fd, at, buffer, to));
    }
    return base::ToHex(hash.Finish());
  };
  CHOIR_ASSIGN_OR_RETURN(const std::string digest, Create(copy));
  ref.set_digest(digest);
  return ref;
}

bool FileBlobStore::Contains(absl::string_view digest) const {
  const auto checked = CheckDigest(digest);
  return checked.ok() && base::FileExists(BlobPath(root_, *checked));
}

absl::StatusOr<std::string> FileBlobStore::PathOf(
    absl::string_view digest) const {
  CHOIR_ASSIGN_OR_RETURN(const std::string checked, CheckDigest(digest));
  const std::string path = BlobPath(root_, checked);
  if (!base::FileExists(path)) {
    return absl::NotFoundError(
        absl::StrCat("blob ", checked, " is not in the store"));
  }
  return path;
}

absl::StatusOr<std::unique_ptr<base::RandomAccessFile>> FileBlobStore::OpenBlob(
    absl::string_view digest) const {
  CHOIR_ASSIGN_OR_RETURN(const std::string path, PathOf(digest));
  return base::RandomAccessFile::Open(path);
}

absl::StatusOr<std::string> FileBlobStore::Read(
    absl::string_view digest) const {
  CHOIR_ASSIGN_OR_RETURN(const std::string checked, CheckDigest(digest));
  CHOIR_ASSIGN_OR_RETURN(const std::string path, PathOf(checked));
  CHOIR_ASSIGN_OR_RETURN(std::string bytes, base::ReadFile(path, 1ull << 40));
  if (base::Sha256Hex(bytes) != checked) {
    return absl::DataLossError(absl::StrCat(
        "blob ", checked, " is damaged: its bytes have another digest; ",
        "restore ", path, " from a backup"));
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<IncomingBlob>> FileBlobStore::Receive(
    const v1::BlobRef& blob, absl::string_view owner) {
  CHOIR_ASSIGN_OR_RETURN(const std::string digest, CheckDigest(blob.digest()));
  if (HasWithSize(digest, blob.size())) return CompleteUpload(blob.size());
  UploadOptions options;
  options.root = root_;
  options.name =
      absl::StrCat(digest, "-", base::Sha256Hex(owner).substr(0, 16));
  options.digest = digest;
  options.size = blob.size();
  options.durability = durability_;
  return OpenUpload(options, slots_);
}

absl::Status FileBlobStore::Remove(absl::string_view digest) {
  CHOIR_ASSIGN_OR_RETURN(const std::string checked, CheckDigest(digest));
  const std::string path = BlobPath(root_, checked);
  if (unlink(path.c_str()) != 0 && errno != ENOENT) {
    return base::ErrnoStatus(errno, absl::StrCat("remove ", path));
  }
  return absl::OkStatus();
}

absl::StatusOr<int> FileBlobStore::RemoveStaleIncoming(
    absl::Duration max_age, const base::Clock& clock) {
  CHOIR_ASSIGN_OR_RETURN(const auto names, base::ListDirectory(incoming()));
  const absl::Time oldest = clock.Now() - max_age;
  int removed = 0;
  for (const std::string& name : names) {
    const std::string path = base::JoinPath(incoming(), name);
    struct stat info;
    if (absl::StartsWith(name, kTemporaryPrefix) || slots_.InUse(name) ||
        stat(path.c_str(), &info) != 0 ||
        absl::TimeFromTimespec(info.st_mtim) > oldest) {
      continue;
    }
    if (unlink(path.c_str()) == 0) ++removed;
  }
  return removed;
}

absl::StatusOr<int> FileBlobStore::RemoveIncoming(absl::string_view magic) {
  CHOIR_ASSIGN_OR_RETURN(const auto names, base::ListDirectory(incoming()));
  int removed = 0;
  for (const std::string& name : names) {
    if (absl::StartsWith(name, kTemporaryPrefix) || slots_.InUse(name)) {
      continue;
    }
    const std::string path = base::JoinPath(incoming(), name);
    const auto file = base::RandomAccessFile::Open(path);
    if (!file.ok()) continue;
    std::string first(std::min<uint64_t>(magic.size(), (*file)->size()), '\0');
    if (first.empty() || !(*file)->ReadAt(0, first.size(), first.data()).ok() ||
        !absl::StartsWith(magic, first)) {
      continue;
    }
    if (unlink(path.c_str()) != 0) {
      return base::ErrnoStatus(errno, absl::StrCat("remove ", path));
    }
    ++removed;
  }
  return removed;
}

absl::StatusOr<std::vector<std::string>> FileBlobStore::List() const {
  const std::string blobs = absl::StrCat(root_, "/blobs");
  CHOIR_ASSIGN_OR_RETURN(const auto folders, base::ListDirectory(blobs));
  std::vector<std::string> digests;
  for (const std::string& folder : folders) {
    const auto names = base::ListDirectory(base::JoinPath(blobs, folder));
    if (!names.ok()) continue;  // a stray file
    for (const std::string& name : *names) {
      const std::string digest = absl::StrCat(folder, name);
      if (folder.size() == 2 && IsDigestText(digest)) {
        digests.push_back(digest);
      }
    }
  }
  return digests;
}

}  // namespace

bool IsDigestText(absl::string_view text) {
  const auto checked = CheckDigest(text);
  return checked.ok() && *checked == text;
}

absl::StatusOr<std::unique_ptr<BlobStore>> BlobStore::Open(
    const std::string& root, base::Durability durability) {
  auto store = std::make_unique<FileBlobStore>(root, durability);
  CHOIR_RETURN_IF_ERROR(store->Prepare());
  return std::unique_ptr<BlobStore>(std::move(store));
}

}  // namespace choir::store
