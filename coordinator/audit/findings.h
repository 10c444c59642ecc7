// What an audit finds.
#ifndef CHOIR_COORDINATOR_AUDIT_FINDINGS_H_
#define CHOIR_COORDINATOR_AUDIT_FINDINGS_H_

#include <cstdint>
#include <string>
#include <vector>

namespace choir::audit {

struct Finding {
  // The first event that the finding touches; 0 if it touches none.
  uint64_t event = 0;
  // "event 12", "choir.db", "blob 1234...", "head", "seal".
  std::string where;
  std::string what;
};

// A blob that a record names.
struct BlobUse {
  uint64_t event = 0;
  std::string digest;
  uint64_t size = 0;
  // What it is, for messages: "aggregate of round 3".
  std::string what;
  // Single updates may be gone once their round is over: that is privacy.
  bool may_be_absent = false;
};

}  // namespace choir::audit

#endif  // CHOIR_COORDINATOR_AUDIT_FINDINGS_H_
