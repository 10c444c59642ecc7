// The journal: an append-only, hash-chained log of records in SQLite.
//
// docs/journal_format.md describes the tables and the chain. One thread writes;
// appends of several threads that wait at the same time share one transaction.
#ifndef CHOIR_COORDINATOR_STORE_JOURNAL_H_
#define CHOIR_COORDINATOR_STORE_JOURNAL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "base/files.h"
#include "choir/v1/journal.pb.h"

namespace choir::store {

struct JournalEntry {
  uint64_t sequence = 0;  // from 1, without gaps
  absl::Time time;        // microseconds
  v1::JournalRecord record;
};

// Threads: safe.
class Journal {
 public:
  // Opens or creates <root>/choir.db. `clock` outlives the journal.
  // Errors: DATA_LOSS if the chain is broken or shorter than it once was,
  // FAILED_PRECONDITION for a newer schema version.
  static absl::StatusOr<std::unique_ptr<Journal>> Open(
      const std::string& root, base::Durability durability,
      const base::Clock& clock);
  virtual ~Journal() = default;

  // Returns once the records are durable, all or none of them.
  // RESOURCE_EXHAUSTED when the disk is full: nothing was written, and the
  // same call may be repeated when there is space.
  virtual absl::Status Append(absl::Span<const v1::JournalRecord> records) = 0;

  // All entries in order; a non-OK status of `visit` ends the reading.
  virtual absl::Status ForEach(
      const std::function<absl::Status(const JournalEntry&)>& visit) const = 0;

  virtual uint64_t num_entries() const = 0;

  // Checkpoints, and seals the file with digests of its pages so that any
  // changed bit can be found while nobody has it open.
  virtual absl::Status Close() = 0;
};

}  // namespace choir::store

#endif  // CHOIR_COORDINATOR_STORE_JOURNAL_H_
