// Removes the masks from a sum.
#ifndef CHOIR_PRIVACY_SECAGG_SERVER_UNMASK_H_
#define CHOIR_PRIVACY_SECAGG_SERVER_UNMASK_H_

#include "absl/status/status.h"
#include "base/thread_pool.h"
#include "privacy/secagg/server_states.h"

namespace choir::secagg {

// Reconstructs the self masks of survivors and the mask keys of those who
// dropped out after sharing, checks each against what the client advertised,
// and takes their masks off `harvest.sum`. The shares are wiped.
//
// Cost: one expansion per survivor, and one with a key agreement for each pair
// of a dropped client and a surviving neighbour; shared among the threads of
// `pool` (may be null), each of which adds into a vector of its own. The result
// does not depend on it: addition modulo a power of two has no order.
// Errors: naming the first client (by position) whose shares do not give back
//   what it advertised, even without those that are wrong; the sum is then
//   worthless. DATA_LOSS if more shares came than are needed, ABORTED if just
//   as many: `harvest.blamed` has all clients of the first kind.
absl::Status RemoveMasks(const ServerFacts& facts, Harvest& harvest,
                         base::ThreadPool* pool);

}  // namespace choir::secagg

#endif  // CHOIR_PRIVACY_SECAGG_SERVER_UNMASK_H_
