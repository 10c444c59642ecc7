// Events and actions of rounds that are summed in secret.
//
// Such a round begins as any other. A client is ready when it has advertised
// its keys (instead of reporting an update); nobody's readiness is journaled.
// Once enough are ready, the phases of the protocol follow one another: each is
// closed when all who are expected have answered or its time is over, the
// driver's sessions advance, SecurePhaseClosed is journaled, and only then do
// the messages of the next phase go out. The sessions live in the driver's
// memory alone: after a restart an attempt with closed phases is lost, and
// begun anew with another session.
#ifndef CHOIR_COORDINATOR_ENGINE_SECURE_EVENTS_H_
#define CHOIR_COORDINATOR_ENGINE_SECURE_EVENTS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "choir/v1/coordinator.pb.h"
#include "choir/v1/journal.pb.h"
#include "choir/v1/secagg.pb.h"

namespace choir::engine {

// Names of phases, as in the journal. After the last there is the sum.
inline constexpr absl::string_view kAdvertiseKeys = "advertise_keys";
inline constexpr absl::string_view kShareKeys = "share_keys";
inline constexpr absl::string_view kMaskedInput = "masked_input";
inline constexpr absl::string_view kConfirm = "confirm";
inline constexpr absl::string_view kUnmask = "unmask";
inline constexpr absl::string_view kSum = "sum";

// Makes the session of a round: `plan` is what each client is sent, without
// the session and without what is its own; at most `max_clients` are summed
// together. The only source of unpredictable bytes. An error fails the job.
using SessionMaker = std::function<absl::StatusOr<v1::SecureSession>(
    const v1::TaskPlan& plan, uint32_t max_clients)>;

// ---------------------------------------------------------------- events ----

// The client's message of the open phase, which the driver has checked and
// handed to its session.
struct SecureAnswered {
  std::string client;
  v1::TaskKey key;
  std::string phase;
  // Of the message and what it names.
  uint64_t bytes = 0;
  std::string digest;
  // What the client says the round has cost it so far.
  uint64_t bytes_downloaded = 0;
};

// The client refuses to go on with its session. Journaled, with `reason`,
// whenever it comes while the job runs: as ClientLost if the client was still
// waited for, as UpdateRefused (which changes nothing) if it was out already or
// the attempt is over; of the latter one for each client and phase.
struct SecureRefused {
  std::string client;
  v1::TaskKey key;
  std::string reason;
  // Neighbours because of whose keys it leaves. Once enough members of a
  // session have named one, ClientBlamed is journaled, and further attempts at
  // the round go without that one if they can.
  std::vector<std::string> accused = {};
};

// Instead of an answer to CloseSecurePhase of advertise_keys: these cannot be
// in a session any more. They leave the round; the phase goes on.
struct SecureUnfit {
  v1::TaskKey key;
  std::map<std::string, std::string> reasons;  // by client
};

// The answer to CloseSecurePhase: the groups that took part in the phase, with
// `lost` set for those that cannot go on.
struct SecurePhaseAdvanced {
  v1::TaskKey key;
  std::string phase;
  std::vector<v1::SecurePhaseClosed::Group> groups;
};

// --------------------------------------------------------------- actions ----

// Advance the sessions past this phase, keep the messages they want to send,
// and answer with SecurePhaseAdvanced. For advertise_keys: begin the sessions,
// one per group.
struct CloseSecurePhase {
  v1::TaskKey key;
  std::string phase;
  // The group of each client; of advertise_keys.
  std::map<std::string, uint32_t> members;
};
// The phase before is durable: let the messages out.
struct OpenSecurePhase {
  v1::TaskKey key;
  std::string phase;
};
// Remove the masks, sum, step the server optimiser, and answer with
// AggregateDone or AggregateFailed. AggregateDone also says mean_train_loss,
// rounding_error_l2 and, of groups, group_aggregates.
struct AggregateSecure {
  uint32_t round;
  uint32_t attempt;
  std::vector<std::string> survivors;  // sorted
  v1::BlobRef adapter;
  v1::BlobRef server_state;
};
// The attempt is over without a sum; whoever waits is told.
struct AbortSecure {
  v1::TaskKey key;
  std::string reason;
};

}  // namespace choir::engine

#endif  // CHOIR_COORDINATOR_ENGINE_SECURE_EVENTS_H_
