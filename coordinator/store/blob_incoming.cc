#include "coordinator/store/blob_incoming.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/scoped_fd.h"
#include "base/sha256.h"
#include "base/status_macros.h"

namespace choir::store {
namespace {

constexpr uint64_t kReadBytes = 1 << 20;

class FileUpload final : public IncomingBlob {
 public:
  FileUpload(UploadOptions options, UploadSlots& slots)
      : options_(std::move(options)),
        path_(base::JoinPath(base::JoinPath(options_.root, "incoming"),
                             options_.name)),
        slots_(slots) {
    slot_ = slots_.Take(options_.name, generation_);
  }
  ~FileUpload() override { slots_.Release(options_.name, generation_); }

  absl::Status Open();
  uint64_t received_bytes() const override { return received_; }
  absl::Status Append(absl::string_view bytes) override;
  absl::Status Commit() override;
  void Discard() override;

 private:
  absl::Status CheckStillOurs() const ABSL_SHARED_LOCKS_REQUIRED(slot_->mu);
  absl::Status Drop(absl::string_view why);

  const UploadOptions options_;
  const std::string path_;
  UploadSlots& slots_;
  // Shared with the upload that takes over: it locks the same mutex.
  std::shared_ptr<UploadSlots::Slot> slot_;
  uint64_t generation_ = 0;
  base::ScopedFd fd_;
  uint64_t received_ = 0;
  base::Sha256 hash_;
  bool committed_ = false;
};

absl::Status FileUpload::Open() {
  base::MutexLock lock(&slot_->mu);
  fd_ = base::ScopedFd(open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!fd_.is_open()) {
    return base::ErrnoStatus(errno, absl::StrCat("create ", path_));
  }
  struct stat info;
  if (fstat(fd_.get(), &info) != 0) {
    return base::ErrnoStatus(errno, absl::StrCat("look at ", path_));
  }
  uint64_t present = static_cast<uint64_t>(info.st_size);
  if (present > options_.size) present = 0;  // not a beginning of this blob
  if (ftruncate(fd_.get(), static_cast<off_t>(present)) != 0) {
    return base::ErrnoStatus(errno, absl::StrCat("shorten ", path_));
  }
  std::string buffer;
  while (received_ < present) {
    buffer.resize(std::min(kReadBytes, present - received_));
    const ssize_t n = pread(fd_.get(), buffer.data(), buffer.size(),
                            static_cast<off_t>(received_));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      return base::ErrnoStatus(n < 0 ? errno : EIO,
                               absl::StrCat("read ", path_));
    }
    hash_.Update(absl::string_view(buffer.data(), static_cast<size_t>(n)));
    received_ += static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

absl::Status FileUpload::CheckStillOurs() const {
  if (slot_->generation == generation_) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat(
      "a newer upload of blob ", options_.digest, " took this one's place"));
}

absl::Status FileUpload::Append(absl::string_view bytes) {
  base::MutexLock lock(&slot_->mu);
  CHOIR_RETURN_IF_ERROR(CheckStillOurs());
  if (committed_) {
    return absl::FailedPreconditionError(
        absl::StrCat("blob ", options_.digest, " is complete already"));
  }
  if (bytes.size() > options_.size - received_) {
    return absl::OutOfRangeError(
        absl::StrCat("blob ", options_.digest, " was announced with ",
                     options_.size, " bytes; ", received_,
                     " were received and ", bytes.size(), " more came"));
  }
  const absl::Status written =
      base::WriteAllAt(fd_.get(), received_, bytes, path_);
  if (!written.ok()) {
    // Gives back the space of a part that did not fit; if even that fails the
    // next opening hashes what is there, and the digest decides.
    [[maybe_unused]] const int ignored =
        ftruncate(fd_.get(), static_cast<off_t>(received_));
    return written;
  }
  hash_.Update(bytes);
  received_ += bytes.size();
  return absl::OkStatus();
}

absl::Status FileUpload::Drop(absl::string_view why) {
  unlink(path_.c_str());
  committed_ = true;
  return absl::DataLossError(
      absl::StrCat("blob ", options_.digest, ": ", why,
                   "; what was received has been dropped, send it again"));
}

void FileUpload::Discard() {
  base::MutexLock lock(&slot_->mu);
  if (committed_ || !CheckStillOurs().ok()) return;
  unlink(path_.c_str());
  committed_ = true;
}

absl::Status FileUpload::Commit() {
  base::MutexLock lock(&slot_->mu);
  CHOIR_RETURN_IF_ERROR(CheckStillOurs());
  if (committed_) return absl::OkStatus();
  if (received_ != options_.size) {
    return Drop(absl::StrCat(received_, " bytes came of ", options_.size,
                             " announced"));
  }
  const std::string digest = base::ToHex(hash_.Finish());
  if (digest != options_.digest) {
    return Drop(absl::StrCat("the bytes that came have the digest ", digest));
  }
  absl::Status status;
  if (options_.durability == base::Durability::kPowerLoss &&
      fsync(fd_.get()) != 0) {
    status = base::ErrnoStatus(errno, absl::StrCat("sync ", path_));
  }
  if (status.ok()) {
    status =
        PublishBlob(path_, options_.root, options_.digest, options_.durability);
  }
  if (!status.ok()) {
    // Finish() began a new hash: the next upload reads the file again.
    slot_->generation = 0;
    return status;
  }
  committed_ = true;
  return absl::OkStatus();
}

class NothingToSend final : public IncomingBlob {
 public:
  explicit NothingToSend(uint64_t size) : size_(size) {}
  uint64_t received_bytes() const override { return size_; }
  absl::Status Append(absl::string_view bytes) override {
    if (bytes.empty()) return absl::OkStatus();
    return absl::OutOfRangeError(
        absl::StrCat("all ", size_, " bytes of the blob are here already"));
  }
  absl::Status Commit() override { return absl::OkStatus(); }
  void Discard() override {}

 private:
  const uint64_t size_;
};

}  // namespace

std::string BlobPath(const std::string& root, absl::string_view digest) {
  return absl::StrCat(root, "/blobs/", digest.substr(0, 2), "/",
                      digest.substr(2));
}

absl::Status PublishBlob(const std::string& from, const std::string& root,
                         absl::string_view digest,
                         base::Durability durability) {
  const std::string path = BlobPath(root, digest);
  const std::string folder = path.substr(0, path.rfind('/'));
  const bool durable = durability == base::Durability::kPowerLoss;
  if (mkdir(folder.c_str(), 0755) == 0) {
    if (durable) {
      CHOIR_RETURN_IF_ERROR(base::SyncDirectory(absl::StrCat(root, "/blobs")));
    }
  } else if (errno != EEXIST) {
    return base::ErrnoStatus(errno, absl::StrCat("create folder ", folder));
  }
  if (std::rename(from.c_str(), path.c_str()) != 0) {
    return base::ErrnoStatus(errno, absl::StrCat("rename to ", path));
  }
  return durable ? base::SyncDirectory(folder) : absl::OkStatus();
}

std::shared_ptr<UploadSlots::Slot> UploadSlots::Take(const std::string& name,
                                                     uint64_t& generation) {
  std::shared_ptr<Slot> slot;
  {
    base::MutexLock lock(&mu_);
    std::shared_ptr<Slot>& entry = slots_[name];
    if (entry == nullptr) entry = std::make_shared<Slot>();
    slot = entry;
    generation = next_generation_++;
  }
  base::MutexLock lock(&slot->mu);
  slot->generation = std::max(slot->generation, generation);
  return slot;
}

void UploadSlots::Release(const std::string& name, uint64_t generation) {
  base::MutexLock lock(&mu_);
  const auto it = slots_.find(name);
  if (it == slots_.end()) return;
  const std::shared_ptr<Slot> slot = it->second;
  base::MutexLock slot_lock(&slot->mu);
  if (slot->generation == generation || slot->generation == 0) {
    slots_.erase(it);
  }
}

bool UploadSlots::InUse(const std::string& name) const {
  base::MutexLock lock(&mu_);
  return slots_.count(name) > 0;
}

absl::StatusOr<std::unique_ptr<IncomingBlob>> OpenUpload(
    const UploadOptions& options, UploadSlots& slots) {
  auto upload = std::make_unique<FileUpload>(options, slots);
  CHOIR_RETURN_IF_ERROR(upload->Open());
  return std::unique_ptr<IncomingBlob>(std::move(upload));
}

std::unique_ptr<IncomingBlob> CompleteUpload(uint64_t size) {
  return std::make_unique<NothingToSend>(size);
}

}  // namespace choir::store
