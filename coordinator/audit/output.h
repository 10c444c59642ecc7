// What choir-audit prints: tables for people, JSON for programs. The documents
// are described in docs/journal_format.md.
#ifndef CHOIR_COORDINATOR_AUDIT_OUTPUT_H_
#define CHOIR_COORDINATOR_AUDIT_OUTPUT_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/audit/history.h"
#include "coordinator/audit/verify.h"
#include "nlohmann/json.hpp"

namespace choir::audit {

nlohmann::ordered_json VerifyJson(const VerifyReport& report);
std::string VerifyText(const VerifyReport& report);

// `job` empty: of all jobs. NOT_FOUND for an unknown job.
absl::StatusOr<nlohmann::ordered_json> RoundsJson(const History& history,
                                                  const std::string& job);
absl::StatusOr<std::string> RoundsText(const History& history,
                                       const std::string& job);
// The same rows as comma-separated values with a header line.
absl::StatusOr<std::string> RoundsCsv(const History& history,
                                      const std::string& job);

struct ShowOptions {
  std::string job;     // empty: all jobs
  uint32_t round = 0;  // 0: the jobs; else everything about this round
};
// NOT_FOUND for an unknown job or round.
absl::StatusOr<nlohmann::ordered_json> ShowJson(const History& history,
                                                const ShowOptions& options);
absl::StatusOr<std::string> ShowText(const History& history,
                                     const ShowOptions& options);

}  // namespace choir::audit

#endif  // CHOIR_COORDINATOR_AUDIT_OUTPUT_H_
