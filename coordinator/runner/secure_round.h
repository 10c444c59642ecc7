// One attempt at a round that is summed in secret: the sessions of its groups.
//
// What is in here is never written: keys, shares and sums of groups live in
// memory until the round is over, or with the process.
#ifndef CHOIR_COORDINATOR_RUNNER_SECURE_ROUND_H_
#define CHOIR_COORDINATOR_RUNNER_SECURE_ROUND_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "base/thread_pool.h"
#include "choir/v1/coordinator.pb.h"
#include "choir/v1/journal.pb.h"
#include "coordinator/engine/secure_events.h"
#include "privacy/secagg/contribution.h"
#include "privacy/secagg/graph.h"
#include "privacy/secagg/server_session.h"
#include "privacy/secagg/used_keys.h"
#include "proto/config/job_options.h"

namespace choir::runner {

// The sum over one group.
struct GroupSum {
  uint32_t group = 0;
  std::vector<std::string> survivors;  // sorted
  secagg::DecodedSum sum;
};

// The phase in which a client sends this message, as engine/secure_events.h
// names it; "" for a refusal and for none.
absl::string_view PhaseOf(const v1::SecureClientMessage& message);

// SHA-256 of the message. What it is computed from is wiped: the message may
// hold shares.
std::string DigestOf(const v1::SecureClientMessage& message);

v1::SecureAssumptions AssumptionsOf(
    const config::SecureAggregationOptions& options);

// Threads: one thread at a time.
class SecureRound {
 public:
  // `verifier` and `used_keys` outlive the object. Keys that are in `used_keys`
  // are not taken; those of sessions that begin are added.
  SecureRound(v1::TaskKey key, v1::SecureSession session,
              secagg::ContributionSpec spec,
              const secagg::PeerVerifier& verifier,
              secagg::UsedKeys& used_keys);

  const v1::TaskKey& key() const { return key_; }
  const v1::SecureSession& session() const { return session_; }

  // A message of the open phase. One that was taken before is taken again and
  // changes nothing (keys may be replaced until their phase is closed).
  // `payload`: the encoded masked vector of a MaskedInput.
  // Errors: those of secagg::CheckAdvertisement() and ServerSession::Receive();
  //   INVALID_ARGUMENT for a key of another client, or one used before.
  absl::Status Receive(const std::string& client,
                       const v1::SecureClientMessage& message,
                       absl::string_view payload);
  // Whether just this message was taken before.
  bool Taken(const std::string& client,
             const v1::SecureClientMessage& message) const;
  // The client leaves.
  void Refused(const std::string& client,
               const v1::SecureClientMessage& refusal);

  // What the coordinator says next to who has sent a message in `phase`: none
  // while that is not over. ABORTED if the client's part is over without a sum.
  absl::StatusOr<absl::optional<v1::SecureServerMessage>> AnswerAfter(
      const std::string& client, absl::string_view phase) const;

  // Of `refusal`, those whom the client shares with in its session: also when
  // the attempt is over.
  std::vector<std::string> Accused(const std::string& client,
                                   const v1::SecureRefusal& refusal) const;
  // Why clients of `members` cannot be in a session any more although they
  // could when they advertised (a certificate has expired since), by client.
  // Their keys are forgotten.
  std::map<std::string, std::string> TakeUnfit(
      const std::map<std::string, uint32_t>& members);

  // Closes the phase in all groups that are not lost; the first time, forms
  // the groups. After the last phase, removes the masks (on `pool`, which may
  // be null). The answers go out once Open() was called.
  std::vector<v1::SecurePhaseClosed::Group> Close(
      const engine::CloseSecurePhase& action, base::ThreadPool* pool);
  void Open(absl::string_view phase);
  // Who has sent something, with the phase of the last message, and has not
  // been told that its part is over: to be told when a phase opens. By name.
  std::map<std::string, std::string> participants() const;
  void Tell(const std::string& client) { told_over_.insert(client); }

  // Of the groups that are not lost, in order; once the phase is engine::kSum.
  const std::vector<GroupSum>& sums() const { return sums_; }
  // Ends it: committed (reason empty) or aborted. Nothing secret is left.
  void End(absl::string_view reason);

 private:
  struct Group {
    absl::optional<secagg::ServerSession> session;
    // Not empty: lost, and why.
    std::string lost;
    std::set<std::string> members;
  };

  absl::Status Advertise(const std::string& client,
                         const v1::AdvertiseKeys& keys);
  void FormGroups(const std::map<std::string, uint32_t>& members);
  void TakeSum(uint32_t number, Group& group, base::ThreadPool* pool);

  const v1::TaskKey key_;
  const v1::SecureSession session_;
  const secagg::ContributionSpec spec_;
  const secagg::PeerVerifier& verifier_;
  secagg::UsedKeys& used_keys_;
  // Until the groups are formed.
  std::map<std::string, v1::AdvertiseKeys> advertised_;
  std::map<uint32_t, Group> groups_;
  std::map<std::string, uint32_t> group_of_;
  // Who shares with whom in each group; known also when it is lost.
  struct Circle {
    secagg::Graph graph;
    absl::flat_hash_map<std::string, int> positions;
  };
  std::map<uint32_t, Circle> circles_;
  // Each client's last message that was taken.
  struct Message {
    std::string phase;
    std::string digest;  // SHA-256
  };
  std::map<std::string, Message> taken_;
  std::set<std::string> told_over_;
  std::string open_ = std::string(engine::kAdvertiseKeys);
  std::vector<GroupSum> sums_;
  // Of clients who have seen it to the end.
  std::set<std::string> done_;
  bool over_ = false;
  std::string reason_;
};

}  // namespace choir::runner

#endif  // CHOIR_COORDINATOR_RUNNER_SECURE_ROUND_H_
