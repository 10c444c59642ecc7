#include "coordinator/store/journal_schema.h"

#include <map>
#include <set>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace choir::store {

const char kSelectRows[] =
    "SELECT sequence, time_us, kind, job, round, body, hash FROM events "
    "ORDER BY sequence";

const std::vector<SchemaObject>& SchemaObjects() {
  static const auto* const objects = new std::vector<SchemaObject>{
      {"table", "meta",
       "CREATE TABLE meta (key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL)"
       " STRICT, WITHOUT ROWID"},
      {"table", "events",
       "CREATE TABLE events (sequence INTEGER PRIMARY KEY, "
       "time_us INTEGER NOT NULL, kind TEXT NOT NULL, job TEXT NOT NULL, "
       "round INTEGER NOT NULL, body BLOB NOT NULL, "
       "hash BLOB NOT NULL CHECK (length(hash) = 32)) STRICT"},
      {"trigger", "events_in_order",
       "CREATE TRIGGER events_in_order BEFORE INSERT ON events BEGIN "
       "SELECT RAISE(ABORT, 'the journal is append-only') "
       "WHERE NEW.sequence IS NOT "
       "(SELECT coalesce(max(sequence), 0) + 1 FROM events); END"},
      {"trigger", "events_no_update",
       "CREATE TRIGGER events_no_update BEFORE UPDATE ON events BEGIN "
       "SELECT RAISE(ABORT, 'the journal is append-only'); END"},
      {"trigger", "events_no_delete",
       "CREATE TRIGGER events_no_delete BEFORE DELETE ON events BEGIN "
       "SELECT RAISE(ABORT, 'the journal is append-only'); END"},
      {"trigger", "meta_no_insert",
       "CREATE TRIGGER meta_no_insert BEFORE INSERT ON meta BEGIN "
       "SELECT RAISE(ABORT, 'meta is fixed'); END"},
      {"trigger", "meta_no_update",
       "CREATE TRIGGER meta_no_update BEFORE UPDATE ON meta BEGIN "
       "SELECT RAISE(ABORT, 'meta is fixed'); END"},
      {"trigger", "meta_no_delete",
       "CREATE TRIGGER meta_no_delete BEFORE DELETE ON meta BEGIN "
       "SELECT RAISE(ABORT, 'meta is fixed'); END"},
  };
  return *objects;
}

absl::Status CreateSchema(Database& db) {
  std::string sql = "BEGIN IMMEDIATE;";
  bool filled = false;
  for (const SchemaObject& object : SchemaObjects()) {
    if (std::string(object.type) == "trigger" && !filled) {
      absl::StrAppend(&sql, "INSERT INTO meta VALUES ('schema_version', '",
                      kSchemaVersion, "');");
      filled = true;
    }
    absl::StrAppend(&sql, object.sql, ";");
  }
  absl::StrAppend(&sql, "PRAGMA application_id = ", kApplicationId,
                  "; COMMIT;");
  absl::Status status = db.Run(sql);
  if (!status.ok() && sqlite3_get_autocommit(db.get()) == 0) {
    (void)db.Run("ROLLBACK");
  }
  return status;
}

absl::Status CheckSchemaVersion(Database& db) {
  CHOIR_ASSIGN_OR_RETURN(const std::string id,
                         db.Text("PRAGMA application_id"));
  if (id != absl::StrCat(kApplicationId)) {
    return absl::DataLossError(absl::StrCat(
        kDatabaseName, " is no journal of Choir: its application id is ", id,
        ", not ", kApplicationId));
  }
  CHOIR_ASSIGN_OR_RETURN(
      const std::string text,
      db.Text("SELECT value FROM meta WHERE key = 'schema_version'"));
  int version = 0;
  if (!absl::SimpleAtoi(text, &version) || version < 1) {
    return absl::DataLossError(
        absl::StrCat("schema version '", text, "' is no version"));
  }
  if (version > kSchemaVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the journal has schema version ", version,
        ", this program reads up "
        "to ",
        kSchemaVersion, "; use the newer version of Choir that wrote it"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> SchemaDifferences(Database& db) {
  std::map<std::pair<std::string, std::string>, std::string> expected;
  for (const SchemaObject& object : SchemaObjects()) {
    expected[{object.type, object.name}] = object.sql;
  }
  std::vector<std::string> differences;
  CHOIR_ASSIGN_OR_RETURN(
      Statement statement,
      Statement::Prepare(db, "SELECT type, name, sql FROM sqlite_schema"));
  while (true) {
    CHOIR_ASSIGN_OR_RETURN(const bool row, statement.Step());
    if (!row) break;
    const std::string type = statement.Bytes(0);
    const std::string name = statement.Bytes(1);
    const auto it = expected.find({type, name});
    if (it == expected.end()) {
      differences.push_back(
          absl::StrCat("the database has an unknown ", type, " '", name, "'"));
      continue;
    }
    if (it->second != statement.Bytes(2)) {
      differences.push_back(
          absl::StrCat("the definition of ", type, " '", name, "' differs"));
    }
    expected.erase(it);
  }
  for (const auto& [key, sql] : expected) {
    differences.push_back(
        absl::StrCat(key.first, " '", key.second, "' is missing"));
  }
  CHOIR_ASSIGN_OR_RETURN(const std::string rows,
                         db.Text("SELECT count(*) FROM meta"));
  if (rows != "1") {
    differences.push_back(
        absl::StrCat("table meta has ", rows, " rows, not 1"));
  }
  return differences;
}

absl::StatusOr<JournalRow> RowOf(const Statement& statement) {
  constexpr int kTypes[] = {SQLITE_INTEGER, SQLITE_INTEGER, SQLITE_TEXT,
                            SQLITE_TEXT,    SQLITE_INTEGER, SQLITE_BLOB,
                            SQLITE_BLOB};
  const int64_t sequence = statement.Int(0);
  for (int column = 0; column < 7; ++column) {
    if (statement.Type(column) != kTypes[column]) {
      return absl::DataLossError(
          absl::StrCat("event ", sequence, ": column ", column + 1,
                       " has a type that the table does not allow"));
    }
  }
  JournalRow row;
  row.sequence = static_cast<uint64_t>(sequence);
  row.time_us = statement.Int(1);
  row.kind = statement.Bytes(2);
  row.job = statement.Bytes(3);
  row.round = static_cast<uint64_t>(statement.Int(4));
  row.body = statement.Bytes(5);
  row.hash = statement.Bytes(6);
  if (row.hash.size() != 32) {
    return absl::DataLossError(absl::StrCat("event ", sequence,
                                            ": its hash is ", row.hash.size(),
                                            " bytes long, not 32"));
  }
  return row;
}

}  // namespace choir::store
