// Writes all events of a store as JSON, one document a line.
#ifndef CHOIR_COORDINATOR_AUDIT_EXPORT_H_
#define CHOIR_COORDINATOR_AUDIT_EXPORT_H_

#include <cstdint>
#include <ostream>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/store/journal_row.h"

namespace choir::audit {

// {"sequence":..,"time":"..","hash":"..","kind":"..","job":"..","round":..,
// "record":{..}}, the record in protobuf's JSON form with the names of
// journal.proto.
absl::StatusOr<std::string> EventJson(const store::JournalRow& row);

// Returns how many events were written. RESOURCE_EXHAUSTED if `out` takes no
// more.
absl::StatusOr<uint64_t> ExportEvents(const std::string& root,
                                      std::ostream& out);

}  // namespace choir::audit

#endif  // CHOIR_COORDINATOR_AUDIT_EXPORT_H_
