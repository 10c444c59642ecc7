// SQLite's C interface behind handles that close themselves and statuses.
#ifndef CHOIR_COORDINATOR_STORE_SQLITE_H_
#define CHOIR_COORDINATOR_STORE_SQLITE_H_

#include <sqlite3.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace choir::store {

// A connection. Threads: one thread at a time.
class Database {
 public:
  // `uri` is a path, or a "file:" URI with parameters; `flags` as in
  // sqlite3_open_v2.
  static absl::StatusOr<Database> Open(const std::string& uri, int flags);
  Database() = default;
  ~Database();
  Database(Database&& other) noexcept;
  Database& operator=(Database&& other) noexcept;

  // Runs statements that give no rows (or whose rows are of no interest).
  absl::Status Run(const std::string& sql);
  // The first column of the first row, as text; NOT_FOUND without a row.
  absl::StatusOr<std::string> Text(const std::string& sql);
  // The status for SQLite's result `code`, with what SQLite says about it:
  // RESOURCE_EXHAUSTED disk full, DATA_LOSS damage, UNAVAILABLE busy,
  // PERMISSION_DENIED read-only, otherwise UNKNOWN.
  absl::Status Error(int code, absl::string_view what) const;
  absl::Status Close();

  sqlite3* get() const { return db_; }

 private:
  sqlite3* db_ = nullptr;
};

// A prepared statement. Threads: that of its database, which outlives it.
class Statement {
 public:
  static absl::StatusOr<Statement> Prepare(Database& db,
                                           const std::string& sql);
  Statement() = default;
  ~Statement();
  Statement(Statement&& other) noexcept;
  Statement& operator=(Statement&& other) noexcept;

  // Parameters and columns count as in SQLite: from 1 and from 0.
  void BindInt(int index, int64_t value);
  // The bytes must stay until the next Reset().
  void BindText(int index, absl::string_view text);
  void BindBlob(int index, absl::string_view bytes);

  // True if there is a row.
  absl::StatusOr<bool> Step();
  void Reset();

  int64_t Int(int column) const;
  std::string Bytes(int column) const;
  // SQLITE_INTEGER, SQLITE_TEXT, SQLITE_BLOB ...
  int Type(int column) const;

 private:
  Database* db_ = nullptr;
  sqlite3_stmt* statement_ = nullptr;
};

// "file:" URI of `path` with the given parameters ("mode=ro&immutable=1").
std::string FileUri(const std::string& path, absl::string_view parameters);

}  // namespace choir::store

#endif  // CHOIR_COORDINATOR_STORE_SQLITE_H_
