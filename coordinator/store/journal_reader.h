// Reads a store without a lock and without changing a byte of it: while a
// coordinator runs, after a crash, from a read-only medium.
#ifndef CHOIR_COORDINATOR_STORE_JOURNAL_READER_H_
#define CHOIR_COORDINATOR_STORE_JOURNAL_READER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/store/head_file.h"
#include "coordinator/store/journal.h"
#include "coordinator/store/journal_row.h"

namespace choir::store {

// The folder of the store that `argument` names: the folder itself or the
// choir.db in it. NOT_FOUND if there is no store.
absl::StatusOr<std::string> FindStore(const std::string& argument);

// One consistent view of the journal, that of the moment of opening.
// Threads: one thread at a time.
class JournalReader {
 public:
  // Errors: NOT_FOUND if there is no journal; DATA_LOSS if the file is no
  // readable journal; FAILED_PRECONDITION for a newer schema version.
  static absl::StatusOr<std::unique_ptr<JournalReader>> Open(
      const std::string& root);
  ~JournalReader();

  // All rows in order, unverified; a non-OK status of `visit` ends the reading.
  // DATA_LOSS where the database itself is damaged.
  absl::Status ForEachRow(
      const std::function<absl::Status(const JournalRow&)>& visit) const;

  // Rows in all, for progress bars: counted by the last sequence number.
  uint64_t last_sequence() const;

  // What SQLite finds wrong with the file, and how its schema differs from the
  // one it must have; empty if nothing.
  absl::StatusOr<std::vector<std::string>> IntegrityProblems() const;

  // The head file as it was before the view was taken: the view is never
  // behind it. NOT_FOUND, DATA_LOSS.
  const absl::StatusOr<Head>& head() const;

  // True if the store is sealed and nobody had it open.
  bool sealed() const;

 private:
  struct State;
  explicit JournalReader(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Follows the chain row by row.
class ChainVerifier {
 public:
  // What is wrong with `row` coming next, in words; empty if nothing is. After
  // a wrong row the chain is followed from what that row claims, so that one
  // change is one finding.
  std::string Next(const JournalRow& row);
  uint64_t last_sequence() const { return last_sequence_; }
  const base::Sha256Digest& last_hash() const { return last_hash_; }
  // What is wrong with `head`, seen from the end of the journal; empty if
  // nothing is. `hash_at_head` is the hash of event head.sequence.
  static std::string CompareHead(const Head& head, uint64_t last_sequence,
                                 const base::Sha256Digest& hash_at_head);

 private:
  uint64_t last_sequence_ = 0;
  base::Sha256Digest last_hash_ = ChainStart();
};

}  // namespace choir::store

#endif  // CHOIR_COORDINATOR_STORE_JOURNAL_READER_H_
