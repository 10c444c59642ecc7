#include "coordinator/store/store.h"

#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "base/cli.h"
#include "base/scoped_fd.h"
#include "base/status_macros.h"
#include "coordinator/store/file_system.h"
#include "coordinator/store/journal_schema.h"

namespace choir::store {
namespace {

constexpr char kLockedPayload[] = "choir/store-locked";

class FolderStore final : public Store {
 public:
  FolderStore(std::string root, base::ScopedFd lock)
      : root_(std::move(root)), lock_(std::move(lock)) {}

  absl::Status OpenParts(base::Durability durability,
                         const base::Clock& clock) {
    CHOIR_ASSIGN_OR_RETURN(blobs_, BlobStore::Open(root_, durability));
    CHOIR_ASSIGN_OR_RETURN(journal_, Journal::Open(root_, durability, clock));
    if (journal_->num_entries() > 0) return absl::OkStatus();
    v1::JournalRecord record;
    record.mutable_store_created()->set_schema_version(kSchemaVersion);
    record.mutable_store_created()->set_software_version(base::kVersion);
    return journal_->Append({record});
  }

  Journal& journal() override { return *journal_; }
  BlobStore& blobs() override { return *blobs_; }
  const std::string& root() const override { return root_; }
  absl::Status Close() override { return journal_->Close(); }

 private:
  const std::string root_;
  // First, so that it goes last: the journal is no longer written by then.
  const base::ScopedFd lock_;
  std::unique_ptr<BlobStore> blobs_;
  std::unique_ptr<Journal> journal_;
};

absl::StatusOr<base::ScopedFd> TakeLock(const std::string& root) {
  absl::StatusOr<base::ScopedFd> lock =
      base::LockFile(base::JoinPath(root, kLockName), 0644);
  if (!absl::IsFailedPrecondition(lock.status())) return lock;
  absl::Status locked = absl::FailedPreconditionError(
      absl::StrCat("the store ", root,
                   " is in use: another process holds its lock; stop "
                   "that process, or choose another folder"));
  locked.SetPayload(kLockedPayload, absl::Cord("1"));
  return locked;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Store>> Store::Open(const std::string& root,
                                                   base::Durability durability,
                                                   const base::Clock& clock) {
  const bool existed = base::FileExists(root);
  CHOIR_RETURN_IF_ERROR(base::MakeDirectories(root));
  // Single clients' updates lie here for a while. Who may read an existing
  // folder is its owner's choice.
  if (!existed && chmod(root.c_str(), 0700) != 0) {
    return base::ErrnoStatus(errno, absl::StrCat("protect ", root));
  }
  CHOIR_RETURN_IF_ERROR(CheckFileSystem(root));
  CHOIR_ASSIGN_OR_RETURN(base::ScopedFd lock, TakeLock(root));
  auto store = std::make_unique<FolderStore>(root, std::move(lock));
  CHOIR_RETURN_IF_ERROR(store->OpenParts(durability, clock));
  return std::unique_ptr<Store>(std::move(store));
}

bool IsStoreLocked(const absl::Status& status) {
  return status.GetPayload(kLockedPayload).has_value();
}

}  // namespace choir::store
