// Who may take part: enrolment tokens, clients and their certificates.
//
// Like the round engine it does no I/O: decisions return journal records, the
// caller makes them durable and then applies them. The state is a fold over the
// journal's records.
#ifndef CHOIR_COORDINATOR_REGISTRY_REGISTRY_H_
#define CHOIR_COORDINATOR_REGISTRY_REGISTRY_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/secure_random.h"
#include "choir/v1/journal.pb.h"

namespace choir::registry {

enum class ClientState { kPending, kEnrolled, kRevoked };

// "pending", "enrolled", "revoked".
absl::string_view StateName(ClientState state);

struct Client {
  std::string name;
  ClientState state = ClientState::kPending;
  std::string public_key_sha256;
  // Of the newest certificate; empty before the first.
  std::string serial;
  absl::Time certificate_expires = absl::InfinitePast();
  std::string revocation_reason;
};

struct NewToken {
  // To be handed to the client's owner; not kept anywhere.
  std::string token;
  absl::Time expires;
  v1::JournalRecord record;
};

struct EnrolDecision {
  // True: no certificate yet, an operator has to approve.
  bool pending_approval = false;
  // To be made durable and applied before anything is answered; empty for a
  // repeated call.
  std::vector<v1::JournalRecord> records;
};

// Threads: safe. Decide and Apply of one change must not interleave with those
// of another: one thread (the job loop) makes all changes.
class Registry {
 public:
  // Ignores records of other kinds. DATA_LOSS for records that cannot follow
  // each other (a client enrolled with an unknown token).
  absl::Status Apply(const v1::JournalRecord& record);

  // A fresh token of 256 random bits, only its SHA-256 is recorded. If
  // `client_name` is not empty, only that client may use it. INVALID_ARGUMENT
  // for a name that is none, or `valid` outside (0, 366 days].
  absl::StatusOr<NewToken> CreateToken(absl::string_view client_name,
                                       absl::Duration valid,
                                       absl::string_view created_by,
                                       absl::Time now,
                                       base::SecureRandom& random) const;

  // May `name`, who holds `token` and the key, become a client? The same token
  // with the same key and name may ask again and again.
  // Errors: INVALID_ARGUMENT for a bad name; PERMISSION_DENIED for an unknown,
  // expired or spent token, a token bound to another name, a name that is
  // taken or revoked (a token bound to the name enrols it anew).
  absl::StatusOr<EnrolDecision> Enrol(absl::string_view name,
                                      absl::string_view token,
                                      absl::string_view public_key_sha256,
                                      bool require_approval,
                                      absl::Time now) const;

  // NOT_FOUND; FAILED_PRECONDITION for a revoked client. No records if the
  // client was approved before.
  absl::StatusOr<std::vector<v1::JournalRecord>> Approve(
      absl::string_view name, absl::string_view by) const;

  // Also clients that never enrolled here but hold a certificate of our CA.
  // No records if the client is revoked already.
  absl::StatusOr<std::vector<v1::JournalRecord>> Revoke(
      absl::string_view name, absl::string_view reason,
      absl::string_view by) const;

  // OK, or PERMISSION_DENIED with the reason: the client was revoked, or the
  // certificate (for connections or for signing) is older than the client's
  // last enrolment.
  absl::Status CheckAgent(absl::string_view name,
                          absl::string_view serial) const;

  // Sorted by name.
  std::vector<Client> clients() const;
  // NOT_FOUND.
  absl::StatusOr<Client> client(absl::string_view name) const;

 private:
  struct Token {
    std::string client_name;
    absl::Time expires;
    std::string used_by;  // client; empty: not used
    std::string public_key_sha256;
  };
  struct Entry {
    Client client;
    // Certificates from before the last enrolment or revocation count no more:
    // only those listed here do.
    bool only_listed_serials = false;
    absl::flat_hash_set<std::string> serials;
  };

  // A repeated call with a token that is spent.
  absl::StatusOr<EnrolDecision> EnrolAgain(
      const Token& spent, absl::string_view name,
      absl::string_view public_key_sha256) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status ApplyEnrolled(const v1::ClientEnrolled& record)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  mutable base::Mutex mu_;
  absl::flat_hash_map<std::string, Token> tokens_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, Entry> clients_ ABSL_GUARDED_BY(mu_);
};

}  // namespace choir::registry

#endif  // CHOIR_COORDINATOR_REGISTRY_REGISTRY_H_
