// Recomputes a round: the sum from the updates where they were kept, and the
// new model version from the sum.
#ifndef CHOIR_COORDINATOR_AUDIT_STEP_CHECK_H_
#define CHOIR_COORDINATOR_AUDIT_STEP_CHECK_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/audit/findings.h"
#include "coordinator/audit/grammar.h"

namespace choir::audit {

// Reads a blob whole and checks its digest. NOT_FOUND, DATA_LOSS.
using BlobReader =
    std::function<absl::StatusOr<std::string>(const std::string& digest)>;

// What does not follow, in words; empty if all does. Blobs that are absent or
// damaged are found elsewhere: what needs them is not checked here.
//
// Memory: the round's adapter and sum, and one update at a time.
std::vector<std::string> CheckStep(const Step& step, const BlobReader& read);

}  // namespace choir::audit

#endif  // CHOIR_COORDINATOR_AUDIT_STEP_CHECK_H_
