#include "privacy/secagg/identities.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/sha256.h"
#include "base/status_macros.h"

namespace choir::secagg {
namespace {

constexpr size_t kMostKnown = 16384;
constexpr size_t kEntryBytes = 16;
// Of what a device keeps for good.
constexpr size_t kSessionsCapacity = 1000000;

std::string Digest(absl::string_view bytes, size_t size) {
  const base::Sha256Digest digest = base::Sha256Of(bytes);
  return std::string(reinterpret_cast<const char*>(digest.data()), size);
}

absl::Status SeenBefore() {
  return absl::AlreadyExistsError("seen in an earlier session");
}

// The tokens' entries; ALREADY_EXISTS if one was seen, or comes twice.
absl::StatusOr<std::vector<std::string>> NewEntries(
    absl::Span<const std::string> tokens,
    const absl::flat_hash_set<std::string>& seen) {
  std::vector<std::string> entries;
  absl::flat_hash_set<std::string> own;
  for (const std::string& token : tokens) {
    entries.push_back(Digest(token, kEntryBytes));
    if (seen.contains(entries.back()) || !own.insert(entries.back()).second) {
      return SeenBefore();
    }
  }
  return entries;
}

void Insert(std::vector<std::string> entries, size_t capacity,
            std::deque<std::string>& order,
            absl::flat_hash_set<std::string>& seen) {
  for (std::string& entry : entries) {
    if (seen.insert(entry).second) order.push_back(std::move(entry));
  }
  for (; order.size() > capacity; order.pop_front()) {
    seen.erase(order.front());
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<CertifiedSigner>> CertifiedSigner::Create(
    crypto::SigningKey key, absl::string_view certificate_pem,
    absl::string_view ca_certificate_pem) {
  CHOIR_ASSIGN_OR_RETURN(
      const auto verifier,
      crypto::SigningCertificateVerifier::Create(ca_certificate_pem));
  CHOIR_ASSIGN_OR_RETURN(std::string der,
                         crypto::CertificateDer(certificate_pem));
  CHOIR_ASSIGN_OR_RETURN(crypto::SignerInfo info, verifier.Check(der));
  CHOIR_ASSIGN_OR_RETURN(const std::string own, key.PublicKey());
  if (own != info.public_key) {
    return absl::FailedPreconditionError(
        "the signing key does not belong to the signing certificate");
  }
  return std::unique_ptr<CertifiedSigner>(
      new CertifiedSigner(std::move(key), std::move(der), std::move(info)));
}

absl::StatusOr<std::unique_ptr<CertifiedPeers>> CertifiedPeers::Create(
    absl::string_view ca_certificate_pem, const base::Clock& clock) {
  CHOIR_ASSIGN_OR_RETURN(
      auto verifier,
      crypto::SigningCertificateVerifier::Create(ca_certificate_pem));
  return std::unique_ptr<CertifiedPeers>(
      new CertifiedPeers(std::move(verifier), clock));
}

absl::StatusOr<crypto::SignerInfo> CertifiedPeers::InfoOf(
    absl::string_view certificate) const {
  const std::string digest = Digest(certificate, sizeof(base::Sha256Digest));
  {
    base::MutexLock lock(&mu_);
    const auto it = known_.find(digest);
    if (it != known_.end()) return it->second;
  }
  CHOIR_ASSIGN_OR_RETURN(crypto::SignerInfo info, verifier_.Check(certificate));
  base::MutexLock lock(&mu_);
  if (known_.emplace(digest, info).second) order_.push_back(digest);
  if (order_.size() > kMostKnown) {
    known_.erase(order_.front());
    order_.pop_front();
  }
  return info;
}

absl::StatusOr<std::string> CertifiedPeers::PublicKeyOf(
    absl::string_view name, absl::string_view certificate) const {
  CHOIR_ASSIGN_OR_RETURN(crypto::SignerInfo info, SignerOf(name, certificate));
  return std::move(info.public_key);
}

absl::StatusOr<crypto::SignerInfo> CertifiedPeers::SignerOf(
    absl::string_view name, absl::string_view certificate) const {
  CHOIR_ASSIGN_OR_RETURN(crypto::SignerInfo info, InfoOf(certificate));
  if (info.name != name) {
    return absl::PermissionDeniedError(
        absl::StrCat("the signing certificate of \"", info.name,
                     "\" is not that of \"", name, "\""));
  }
  CHOIR_RETURN_IF_ERROR(
      crypto::SigningCertificateVerifier::CheckTime(info, clock_.Now()));
  base::MutexLock lock(&mu_);
  if (revoked_.contains(info.serial)) {
    return absl::PermissionDeniedError(
        absl::StrCat("the signing certificate of \"", name, "\" was revoked"));
  }
  return info;
}

void CertifiedPeers::SetRevoked(absl::flat_hash_set<std::string> serials) {
  base::MutexLock lock(&mu_);
  revoked_ = std::move(serials);
}

absl::Status RecentHistory::Remember(absl::string_view token) {
  return RememberAll({std::string(token)});
}

absl::Status RecentHistory::RememberAll(absl::Span<const std::string> tokens) {
  base::MutexLock lock(&mu_);
  CHOIR_ASSIGN_OR_RETURN(std::vector<std::string> entries,
                         NewEntries(tokens, seen_));
  Insert(std::move(entries), capacity_, order_, seen_);
  return absl::OkStatus();
}

bool RecentHistory::Remembers(absl::string_view token) const {
  base::MutexLock lock(&mu_);
  return seen_.contains(Digest(token, kEntryBytes));
}

absl::StatusOr<std::unique_ptr<FileHistory>> FileHistory::Open(
    const std::string& path, size_t capacity) {
  std::unique_ptr<FileHistory> history(new FileHistory(path, capacity));
  base::MutexLock lock(&history->mu_);
  CHOIR_RETURN_IF_ERROR(history->Load());
  CHOIR_RETURN_IF_ERROR(history->OpenForAppending());
  return history;
}

FileHistory::~FileHistory() {
  if (fd_ >= 0) ::close(fd_);
}

absl::Status FileHistory::Load() {
  if (!base::FileExists(path_)) {
    return base::WriteFileAtomic(path_, "", base::Durability::kPowerLoss, 0600);
  }
  CHOIR_ASSIGN_OR_RETURN(const std::string bytes, base::ReadFile(path_));
  std::vector<std::string> entries;
  for (size_t at = 0; at + kEntryBytes <= bytes.size(); at += kEntryBytes) {
    entries.push_back(bytes.substr(at, kEntryBytes));
  }
  file_bytes_ = entries.size() * kEntryBytes;
  Insert(std::move(entries), 2 * capacity_, order_, seen_);
  return absl::OkStatus();
}

absl::Status FileHistory::OpenForAppending() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd_ < 0) return base::ErrnoStatus(errno, absl::StrCat("open ", path_));
  // What a crash left of an entry is cut off.
  if (::ftruncate(fd_, static_cast<off_t>(file_bytes_)) != 0) {
    return base::ErrnoStatus(errno, absl::StrCat("truncate ", path_));
  }
  return absl::OkStatus();
}

absl::Status FileHistory::Append(absl::string_view bytes) {
  uint64_t at = file_bytes_;
  while (!bytes.empty()) {
    const ssize_t n =
        ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return base::ErrnoStatus(errno, absl::StrCat("write ", path_));
    bytes.remove_prefix(static_cast<size_t>(n));
    at += static_cast<uint64_t>(n);
  }
  if (::fdatasync(fd_) != 0) {
    return base::ErrnoStatus(errno, absl::StrCat("sync ", path_));
  }
  file_bytes_ = at;
  return absl::OkStatus();
}

absl::Status FileHistory::Shrink() {
  std::string bytes;
  const size_t first =
      order_.size() > capacity_ ? order_.size() - capacity_ : 0;
  for (size_t i = first; i < order_.size(); ++i) bytes += order_[i];
  CHOIR_RETURN_IF_ERROR(
      base::WriteFileAtomic(path_, bytes, base::Durability::kPowerLoss, 0600));
  for (size_t i = 0; i < first; ++i) {
    seen_.erase(order_.front());
    order_.pop_front();
  }
  file_bytes_ = bytes.size();
  return OpenForAppending();
}

absl::Status FileHistory::Remember(absl::string_view token) {
  return RememberAll({std::string(token)});
}

absl::Status FileHistory::RememberAll(absl::Span<const std::string> tokens) {
  base::MutexLock lock(&mu_);
  CHOIR_ASSIGN_OR_RETURN(std::vector<std::string> entries,
                         NewEntries(tokens, seen_));
  if (file_bytes_ / kEntryBytes + entries.size() > 2 * capacity_) {
    CHOIR_RETURN_IF_ERROR(Shrink());
  }
  std::string bytes;
  for (const std::string& entry : entries) bytes += entry;
  CHOIR_RETURN_IF_ERROR(Append(bytes));
  Insert(std::move(entries), 2 * capacity_, order_, seen_);
  return absl::OkStatus();
}

bool FileHistory::Remembers(absl::string_view token) const {
  base::MutexLock lock(&mu_);
  return seen_.contains(Digest(token, kEntryBytes));
}

size_t FileHistory::size() const {
  base::MutexLock lock(&mu_);
  return order_.size();
}

absl::StatusOr<std::unique_ptr<DeviceHistory>> DeviceHistory::Open(
    const std::string& sessions_path, const std::string& keys_path,
    size_t keys_capacity) {
  CHOIR_ASSIGN_OR_RETURN(auto sessions,
                         FileHistory::Open(sessions_path, kSessionsCapacity));
  CHOIR_ASSIGN_OR_RETURN(auto keys,
                         FileHistory::Open(keys_path, keys_capacity));
  return std::unique_ptr<DeviceHistory>(
      new DeviceHistory(std::move(sessions), std::move(keys)));
}

}  // namespace choir::secagg
