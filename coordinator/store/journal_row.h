// One row of the journal's table, its place in the hash chain, and its
// decoding.
//
// docs/journal_format.md has the formula and a worked example.
#ifndef CHOIR_COORDINATOR_STORE_JOURNAL_ROW_H_
#define CHOIR_COORDINATOR_STORE_JOURNAL_ROW_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "base/sha256.h"
#include "choir/v1/journal.pb.h"
#include "coordinator/store/journal.h"

namespace choir::store {

// Exactly what stands in the table `events`.
struct JournalRow {
  uint64_t sequence = 0;
  int64_t time_us = 0;  // since 1970-01-01 UTC
  std::string kind;     // name of the record's field, "round_started"
  std::string job;      // empty for records of no job
  uint64_t round = 0;   // 0 for records of no round
  std::string body;     // a serialised JournalRecord
  std::string hash;     // 32 bytes
};

// The columns that repeat, for people who use SQL, what the body says.
struct RecordColumns {
  std::string kind;
  std::string job;
  uint64_t round = 0;
};

// kind is empty for a record that is none.
RecordColumns ColumnsOf(const v1::JournalRecord& record);

// What stands before the first event: SHA-256 of "choir journal 1".
base::Sha256Digest ChainStart();

// The hash of `row` after an event whose hash is `previous`; ignores row.hash.
base::Sha256Digest ChainHash(const base::Sha256Digest& previous,
                             const JournalRow& row);

std::string DigestBytes(const base::Sha256Digest& digest);

// Reads a row that anybody may have written. DATA_LOSS, naming the event, if
// the body is no record, or if the columns beside it say something else. Does
// not look at the hash.
absl::StatusOr<JournalEntry> DecodeEntry(const JournalRow& row);

}  // namespace choir::store

#endif  // CHOIR_COORDINATOR_STORE_JOURNAL_ROW_H_
