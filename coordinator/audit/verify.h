// Proves that a store says what it said when it was written, and that its
// model versions follow from what it says.
#ifndef CHOIR_COORDINATOR_AUDIT_VERIFY_H_
#define CHOIR_COORDINATOR_AUDIT_VERIFY_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/audit/findings.h"

namespace choir::audit {

struct VerifyReport {
  bool ok = false;
  uint64_t events = 0;  // readable ones
  uint64_t rounds = 0;  // committed ones, of all jobs
  uint64_t blobs = 0;
  bool sealed = false;
  // The earliest event that a finding touches; 0 if none does.
  uint64_t first_bad_event = 0;
  // The finding to begin with; empty if ok.
  std::string reason;
  // At most kMaxFindings of them.
  std::vector<Finding> findings;
};

inline constexpr size_t kMaxFindings = 50;

// Called now and then with what is being done and the part of it done, 0 to 1.
using ProgressFunction =
    std::function<void(absl::string_view phase, double part)>;

// Checks, in this order: the seal, the hash chain and the head file, that every
// record can be decoded and may follow the one before, SQLite's own structures
// and the schema, every blob's digest, and every step from one version to the
// next. `root` is a folder (store::FindStore). Locks and changes nothing; a
// coordinator may be running.
//
// Errors: NOT_FOUND without a store, PERMISSION_DENIED. All damage is in the
// report.
absl::StatusOr<VerifyReport> Verify(const std::string& root,
                                    const ProgressFunction& progress = nullptr);

}  // namespace choir::audit

#endif  // CHOIR_COORDINATOR_AUDIT_VERIFY_H_
