#include "coordinator/store/sqlite.h"

#include <cerrno>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"

namespace choir::store {

absl::StatusOr<Database> Database::Open(const std::string& uri, int flags) {
  Database db;
  const int code =
      sqlite3_open_v2(uri.c_str(), &db.db_, flags | SQLITE_OPEN_URI, nullptr);
  if (code != SQLITE_OK) return db.Error(code, absl::StrCat("open ", uri));
  sqlite3_extended_result_codes(db.db_, 1);
  return db;
}

Database::~Database() { sqlite3_close(db_); }

Database::Database(Database&& other) noexcept
    : db_(std::exchange(other.db_, nullptr)) {}

Database& Database::operator=(Database&& other) noexcept {
  std::swap(db_, other.db_);
  return *this;
}

absl::Status Database::Error(int code, absl::string_view what) const {
  const char* detail =
      db_ != nullptr ? sqlite3_errmsg(db_) : sqlite3_errstr(code);
  const std::string message =
      absl::StrCat("cannot ", what, ": ", detail, " (SQLite ", code, ")");
  const int system_error = db_ != nullptr ? sqlite3_system_errno(db_) : 0;
  const int primary = code & 0xff;
  if (primary == SQLITE_FULL ||
      (primary == SQLITE_IOERR &&
       (system_error == ENOSPC || system_error == EDQUOT)) ||
      code == SQLITE_IOERR_WRITE || code == SQLITE_IOERR_SHMSIZE) {
    return absl::ResourceExhaustedError(
        absl::StrCat(message, "; free some space, then try again"));
  }
  switch (primary) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_FORMAT:
      return absl::DataLossError(message);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return absl::UnavailableError(message);
    case SQLITE_READONLY:
    case SQLITE_PERM:
      return absl::PermissionDeniedError(message);
    case SQLITE_CANTOPEN:
      // SQLite opens its files lazily: this is also a full disk's answer.
      if (system_error == ENOSPC || system_error == EDQUOT) {
        return absl::ResourceExhaustedError(message);
      }
      if (system_error == ENOENT) return absl::NotFoundError(message);
      return absl::UnknownError(message);
    default:
      return absl::UnknownError(message);
  }
}

absl::Status Database::Run(const std::string& sql) {
  const int code = sqlite3_exec(db_, sql.c_str(), nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) return Error(code, absl::StrCat("run '", sql, "'"));
  return absl::OkStatus();
}

absl::StatusOr<std::string> Database::Text(const std::string& sql) {
  CHOIR_ASSIGN_OR_RETURN(Statement statement, Statement::Prepare(*this, sql));
  CHOIR_ASSIGN_OR_RETURN(const bool row, statement.Step());
  if (!row) return absl::NotFoundError(absl::StrCat("no row for ", sql));
  return statement.Bytes(0);
}

absl::Status Database::Close() {
  const int code = sqlite3_close(db_);
  if (code != SQLITE_OK) return Error(code, "close the journal");
  db_ = nullptr;
  return absl::OkStatus();
}

absl::StatusOr<Statement> Statement::Prepare(Database& db,
                                             const std::string& sql) {
  Statement statement;
  statement.db_ = &db;
  const int code =
      sqlite3_prepare_v2(db.get(), sql.c_str(), static_cast<int>(sql.size()),
                         &statement.statement_, nullptr);
  if (code != SQLITE_OK) {
    return db.Error(code, absl::StrCat("prepare '", sql, "'"));
  }
  return statement;
}

Statement::~Statement() { sqlite3_finalize(statement_); }

Statement::Statement(Statement&& other) noexcept
    : db_(other.db_), statement_(std::exchange(other.statement_, nullptr)) {}

Statement& Statement::operator=(Statement&& other) noexcept {
  std::swap(db_, other.db_);
  std::swap(statement_, other.statement_);
  return *this;
}

void Statement::BindInt(int index, int64_t value) {
  sqlite3_bind_int64(statement_, index, value);
}

void Statement::BindText(int index, absl::string_view text) {
  sqlite3_bind_text64(statement_, index, text.data() ? text.data() : "",
                      text.size(), SQLITE_STATIC, SQLITE_UTF8);
}

void Statement::BindBlob(int index, absl::string_view bytes) {
  sqlite3_bind_blob64(statement_, index, bytes.data() ? bytes.data() : "",
                      bytes.size(), SQLITE_STATIC);
}

absl::StatusOr<bool> Statement::Step() {
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  return db_->Error(code, "read or write the journal");
}

void Statement::Reset() { sqlite3_reset(statement_); }

int64_t Statement::Int(int column) const {
  return sqlite3_column_int64(statement_, column);
}

std::string Statement::Bytes(int column) const {
  const void* data = sqlite3_column_blob(statement_, column);
  const int size = sqlite3_column_bytes(statement_, column);
  if (data == nullptr || size <= 0) return "";
  return std::string(static_cast<const char*>(data), static_cast<size_t>(size));
}

int Statement::Type(int column) const {
  return sqlite3_column_type(statement_, column);
}

std::string FileUri(const std::string& path, absl::string_view parameters) {
  std::string uri = "file:";
  for (const char c : path) {
    if (absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '/' ||
        c == '-' || c == '_' || c == '.') {
      uri += c;
    } else {
      absl::StrAppendFormat(&uri, "%%%02x", static_cast<unsigned char>(c));
    }
  }
  return absl::StrCat(uri, "?", parameters);
}

}  // namespace choir::store
