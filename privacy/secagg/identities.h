// Credentials from certificates, and a history in a file.
#ifndef CHOIR_PRIVACY_SECAGG_IDENTITIES_H_
#define CHOIR_PRIVACY_SECAGG_IDENTITIES_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "privacy/crypto/signing.h"
#include "privacy/secagg/credentials.h"

namespace choir::secagg {

// Signs with the key of a signing certificate (privacy/crypto/signing.h).
class CertifiedSigner final : public Signer {
 public:
  // Errors: INVALID_ARGUMENT for an unreadable certificate,
  //   FAILED_PRECONDITION if it is another key's.
  static absl::StatusOr<std::unique_ptr<CertifiedSigner>> Create(
      crypto::SigningKey key, absl::string_view certificate_pem,
      absl::string_view ca_certificate_pem);

  const std::string& name() const override { return info_.name; }
  const std::string& certificate() const override { return certificate_; }
  absl::StatusOr<std::string> Sign(absl::string_view text) const override {
    return key_.Sign(text);
  }
  const crypto::SignerInfo& info() const { return info_; }

 private:
  CertifiedSigner(crypto::SigningKey key, std::string certificate,
                  crypto::SignerInfo info)
      : key_(std::move(key)),
        certificate_(std::move(certificate)),
        info_(std::move(info)) {}

  crypto::SigningKey key_;
  std::string certificate_;
  crypto::SignerInfo info_;
};

// Checks peers against one CA. Certificates that were checked before are
// remembered (the last 16384), because every round meets most of them again.
class CertifiedPeers final : public PeerVerifier {
 public:
  // `clock` outlives the object.
  static absl::StatusOr<std::unique_ptr<CertifiedPeers>> Create(
      absl::string_view ca_certificate_pem, const base::Clock& clock);

  absl::StatusOr<std::string> PublicKeyOf(
      absl::string_view name, absl::string_view certificate) const override;
  // The same with all that the certificate says.
  absl::StatusOr<crypto::SignerInfo> SignerOf(
      absl::string_view name, absl::string_view certificate) const;

  // From now on certificates with these serials are refused.
  void SetRevoked(absl::flat_hash_set<std::string> serials);

 private:
  CertifiedPeers(crypto::SigningCertificateVerifier verifier,
                 const base::Clock& clock)
      : verifier_(std::move(verifier)), clock_(clock) {}
  absl::StatusOr<crypto::SignerInfo> InfoOf(
      absl::string_view certificate) const;

  const crypto::SigningCertificateVerifier verifier_;
  const base::Clock& clock_;
  mutable base::Mutex mu_;
  // By the SHA-256 of the certificate.
  mutable absl::flat_hash_map<std::string, crypto::SignerInfo> known_
      ABSL_GUARDED_BY(mu_);
  mutable std::deque<std::string> order_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_set<std::string> revoked_ ABSL_GUARDED_BY(mu_);
};

// Remembers the last `capacity` tokens, in memory only: for tests and for
// virtual clients, which do not outlive their simulation.
class RecentHistory final : public SessionHistory {
 public:
  explicit RecentHistory(size_t capacity = 100000) : capacity_(capacity) {}
  absl::Status Remember(absl::string_view token) override;
  absl::Status RememberAll(absl::Span<const std::string> tokens) override;
  bool Remembers(absl::string_view token) const override;

 private:
  const size_t capacity_;
  mutable base::Mutex mu_;
  std::deque<std::string> order_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_set<std::string> seen_ ABSL_GUARDED_BY(mu_);
};

// Remembers the last `capacity` tokens or more, durably: 16 bytes for each (the
// begin of its SHA-256) are appended to a file, which is rewritten when it has
// grown to twice the capacity. A torn end, left by a crash, is cut off: nothing
// was answered on its strength.
class FileHistory final : public SessionHistory {
 public:
  // Makes the file (0600) if need be. Errors: those of base/files.h.
  static absl::StatusOr<std::unique_ptr<FileHistory>> Open(
      const std::string& path, size_t capacity = 100000);
  ~FileHistory() override;

  absl::Status Remember(absl::string_view token) override;
  // One write and one sync for all.
  absl::Status RememberAll(absl::Span<const std::string> tokens) override;
  bool Remembers(absl::string_view token) const override;
  size_t size() const;

 private:
  FileHistory(std::string path, size_t capacity)
      : path_(std::move(path)), capacity_(capacity) {}
  absl::Status Load() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status OpenForAppending() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status Append(absl::string_view bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status Shrink() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const std::string path_;
  const size_t capacity_;
  mutable base::Mutex mu_;
  int fd_ ABSL_GUARDED_BY(mu_) = -1;
  uint64_t file_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  std::deque<std::string> order_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_set<std::string> seen_ ABSL_GUARDED_BY(mu_);
};

// A device's: what it keeps for good (the last million sessions, rounds and
// sums or more) in one file, the keys of its neighbours, which are a hundred
// times as many, in another, so that these never push those out.
class DeviceHistory final : public SessionHistory {
 public:
  // Makes the files (0600) if need be. Errors: those of base/files.h.
  static absl::StatusOr<std::unique_ptr<DeviceHistory>> Open(
      const std::string& sessions_path, const std::string& keys_path,
      size_t keys_capacity = 100000);

  absl::Status Remember(absl::string_view token) override {
    return keys_->Remember(token);
  }
  absl::Status RememberAll(absl::Span<const std::string> tokens) override {
    return keys_->RememberAll(tokens);
  }
  bool Remembers(absl::string_view token) const override {
    return keys_->Remembers(token);
  }
  absl::Status RememberForGood(absl::Span<const std::string> tokens) override {
    return sessions_->RememberAll(tokens);
  }
  bool RemembersForGood(absl::string_view token) const override {
    return sessions_->Remembers(token);
  }

 private:
  DeviceHistory(std::unique_ptr<FileHistory> sessions,
                std::unique_ptr<FileHistory> keys)
      : sessions_(std::move(sessions)), keys_(std::move(keys)) {}

  const std::unique_ptr<FileHistory> sessions_;
  const std::unique_ptr<FileHistory> keys_;
};

}  // namespace choir::secagg

#endif  // CHOIR_PRIVACY_SECAGG_IDENTITIES_H_
