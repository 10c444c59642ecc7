// The tables of choir.db (docs/journal_format.md), and the names of the files
// around it.
#ifndef CHOIR_COORDINATOR_STORE_JOURNAL_SCHEMA_H_
#define CHOIR_COORDINATOR_STORE_JOURNAL_SCHEMA_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/store/journal_row.h"
#include "coordinator/store/sqlite.h"

namespace choir::store {

inline constexpr int kSchemaVersion = 1;
// "CHOR" in the file's header, so that other databases are not taken for one.
inline constexpr int kApplicationId = 0x43484f52;

inline constexpr char kDatabaseName[] = "choir.db";
inline constexpr char kHeadName[] = "head";
inline constexpr char kSealName[] = "seal";
inline constexpr char kLockName[] = "lock";

struct SchemaObject {
  const char* type;  // "table" or "trigger"
  const char* name;
  const char* sql;  // as sqlite_schema keeps it
};

// Everything that the database holds, in order of creation.
const std::vector<SchemaObject>& SchemaObjects();

// Creates all of it in one transaction.
absl::Status CreateSchema(Database& db);

// FAILED_PRECONDITION for a newer version (with the remedy), DATA_LOSS if the
// file is no journal.
absl::Status CheckSchemaVersion(Database& db);

// How the schema differs from the one above, in words; empty if not at all.
absl::StatusOr<std::vector<std::string>> SchemaDifferences(Database& db);

// The columns of `events` that RowOf() reads, and the order of the journal.
extern const char kSelectRows[];

// The row that `statement` (kSelectRows) stands on. DATA_LOSS if a value has a
// type that the table does not allow: the file is damaged.
absl::StatusOr<JournalRow> RowOf(const Statement& statement);

}  // namespace choir::store

#endif  // CHOIR_COORDINATOR_STORE_JOURNAL_SCHEMA_H_
