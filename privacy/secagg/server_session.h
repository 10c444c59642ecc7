// The coordinator's part in one secure aggregation, without I/O. There is one
// class per state (server_states.h); this class holds the current one.
//
// Phases: share keys, masked inputs, confirm (semi-malicious only), unmask,
// done. Keys are advertised before: the coordinator checks and collects
// AdvertiseKeys, and forms one session per group of the cohort. Who has not
// answered when Advance() is called has dropped out.
//
// The coordinator learns the sum, who took part, and nothing else.
#ifndef CHOIR_PRIVACY_SECAGG_SERVER_SESSION_H_
#define CHOIR_PRIVACY_SECAGG_SERVER_SESSION_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "base/thread_pool.h"
#include "choir/v1/secagg.pb.h"
#include "privacy/secagg/credentials.h"
#include "privacy/secagg/graph.h"
#include "privacy/secagg/masked_vector.h"
#include "privacy/secagg/parameters.h"

namespace choir::secagg {

enum class Phase {
  kShareKeys,
  kMaskedInput,
  kConfirm,
  kUnmask,
  kDone,
  kFailed
};
absl::string_view PhaseName(Phase phase);  // "share_keys", ...

// The most bytes of advertised keys: about 630 are usual, and whatever is in
// them is sent to every neighbour.
inline constexpr size_t kMaxAdvertisementBytes = 4096;

// INVALID_ARGUMENT or PERMISSION_DENIED saying what is wrong with a client's
// advertised keys. Fields that this version does not know count towards their
// size and are covered by no signature: a session leaves them out.
absl::Status CheckAdvertisement(const v1::SecureSession& session,
                                absl::string_view client,
                                const v1::AdvertiseKeys& keys,
                                const PeerVerifier& verifier);

struct Outgoing {
  std::string client;
  v1::SecureServerMessage message;
};

// Threads: one thread at a time. Memory: one sum (and one per thread of the
// pool while unmasking) plus the shares; never the vectors of single clients.
class ServerSession {
 public:
  // `keys` were checked (CheckAdvertisement). `verifier` outlives the session.
  // Errors: INVALID_ARGUMENT if the group is too small for the session's
  // assumptions, or a client or key is there twice.
  static absl::StatusOr<ServerSession> Create(
      v1::SecureSession session, uint32_t group,
      std::vector<v1::AdvertiseKeys> keys, const PeerVerifier& verifier);
  ~ServerSession();
  ServerSession(ServerSession&&) noexcept;
  ServerSession& operator=(ServerSession&&) noexcept;

  const Parameters& parameters() const;
  // Who shares with whom, by position, and the clients' positions; never
  // changes.
  const Graph& graph() const;
  const absl::flat_hash_map<std::string, int>& positions() const;
  Phase phase() const;
  // Rosters, which open the first phase.
  std::vector<Outgoing> Start();
  // What the current phase says to `client`, made when asked for: a roster of
  // 1,000 takes 100 KB, and all of them together 100 MB. None for strangers and
  // for those who dropped out. Use this with Close() for large groups; Start()
  // and Advance() are the same for everybody at once.
  absl::optional<v1::SecureServerMessage> MessageFor(
      absl::string_view client) const;

  // A client's answer in the current phase; `payload` is the masked vector's
  // encoding with MaskedInput, which is added at once: bytes whose SHA-256, as
  // a store of blobs has checked, is the one that the message announces. A
  // repeated answer is accepted and changes nothing, also when its phase is
  // over. A refusal is accepted in any phase: the client has dropped out.
  // Errors: INVALID_ARGUMENT for a malformed one (the client may try again),
  //   FAILED_PRECONDITION for a late or early one, NOT_FOUND for a stranger.
  absl::Status Receive(absl::string_view client,
                       const v1::SecureClientMessage& message,
                       absl::string_view payload);
  // Who is still expected in this phase, sorted; who has answered, sorted.
  std::vector<std::string> Waiting() const;
  std::vector<std::string> Answered() const;

  // Closes the phase; the messages that open the next one. After the last
  // phase: SecureDone to everybody.
  // Errors: ABORTED if too few are left; the session has failed then, and can
  //   never unmask anything.
  absl::StatusOr<std::vector<Outgoing>> Advance();
  // Advance() without making the messages.
  absl::Status Close();

  // Once the phase is kDone: removes the masks and returns the sum over
  // survivors(). `pool` (may be null) shares the work; the result does not
  // depend on it. Errors: DATA_LOSS naming the client whose shares do not give
  //   back the key it advertised.
  absl::StatusOr<MaskedVector> Sum(base::ThreadPool* pool);
  // Clients in the sum, sorted.
  std::vector<std::string> survivors() const;
  // Once failed: those whose secrets could not be had back although enough
  // peers answered, because they shared rubbish (or more peers lied than the
  // parameters allow for), sorted. Another session had better go without them.
  std::vector<std::string> blamed() const;

 private:
  class Impl;
  explicit ServerSession(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace choir::secagg

#endif  // CHOIR_PRIVACY_SECAGG_SERVER_SESSION_H_
