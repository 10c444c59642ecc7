#include "coordinator/store/journal_reader.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "coordinator/store/journal_schema.h"
#include "coordinator/store/sqlite.h"

namespace choir::store {

struct JournalReader::State {
  ~State() {
    db = Database();
    if (!copy.empty()) {
      std::error_code ignored;
      std::filesystem::remove_all(copy, ignored);
    }
  }
  mutable Database db;
  absl::StatusOr<Head> head = absl::NotFoundError("no head");
  bool sealed = false;
  uint64_t last_sequence = 0;
  std::string copy;  // folder of a private copy, or empty
};

namespace {

bool IsEmptyOrAbsent(const std::string& path) {
  const auto size = base::FileSize(path);
  return !size.ok() || *size == 0;
}

absl::Status Prepare(Database& db) {
  sqlite3_db_config(db.get(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
  sqlite3_db_config(db.get(), SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  sqlite3_busy_timeout(db.get(), 5000);
  // query_only also keeps triggers and functions of a strange file from acting.
  return db.Run(
      "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;"
      "PRAGMA temp_store = MEMORY; PRAGMA query_only = ON;");
}

// Opens a copy of database and write-ahead log in a private folder: the log
// stands without the shared memory file that reading it in place needs, so
// nobody has the store open, and its folder must not change.
absl::StatusOr<Database> OpenCopy(const std::string& path,
                                  std::string& folder) {
  const char* base_folder = std::getenv("TMPDIR");
  std::string pattern = absl::StrCat(
      base_folder != nullptr && *base_folder != '\0' ? base_folder : "/tmp",
      "/choir-audit-XXXXXX");
  if (mkdtemp(pattern.data()) == nullptr) {
    return base::ErrnoStatus(errno, absl::StrCat("create ", pattern));
  }
  folder = pattern;
  const std::string copy = base::JoinPath(folder, kDatabaseName);
  for (const char* suffix : {"", "-wal"}) {
    std::error_code error;
    std::filesystem::copy_file(path + suffix, copy + suffix, error);
    if (error) {
      return base::ErrnoStatus(error.value(),
                               absl::StrCat("copy ", path, suffix));
    }
    std::filesystem::permissions(copy + suffix,
                                 std::filesystem::perms::owner_read |
                                     std::filesystem::perms::owner_write,
                                 error);
  }
  return Database::Open(FileUri(copy, "mode=rw"),
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX);
}

absl::StatusOr<Database> OpenReadOnly(const std::string& path,
                                      std::string& copy) {
  const int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX;
  if (IsEmptyOrAbsent(path + "-wal")) {
    // All is in the one file; SQLite then needs neither locks nor side files.
    return Database::Open(FileUri(path, "mode=ro&immutable=1"), flags);
  }
  if (base::FileExists(path + "-shm")) {
    // Reads the shared memory of a running coordinator, or, left over from a
    // crash, rebuilds it in private memory.
    return Database::Open(FileUri(path, "mode=ro&readonly_shm=1"), flags);
  }
  return OpenCopy(path, copy);
}

}  // namespace

absl::StatusOr<std::string> FindStore(const std::string& argument) {
  std::error_code error;
  std::filesystem::path path(argument);
  if (std::filesystem::is_regular_file(path, error) &&
      path.filename() == kDatabaseName) {
    const std::string parent = path.parent_path().string();
    return parent.empty() ? std::string(".") : parent;
  }
  if (std::filesystem::is_regular_file(path / kDatabaseName, error)) {
    return argument;
  }
  if (error == std::errc::permission_denied) {
    return absl::PermissionDeniedError(absl::StrCat(
        "no permission to look into '", argument,
        "'; run as the user who owns the store, or as one who may read it"));
  }
  return absl::NotFoundError(absl::StrCat("there is no store at '", argument,
                                          "': a store is a folder with a ",
                                          kDatabaseName, " in it"));
}

JournalReader::JournalReader(std::unique_ptr<State> state)
    : state_(std::move(state)) {}
JournalReader::~JournalReader() = default;

absl::StatusOr<std::unique_ptr<JournalReader>> JournalReader::Open(
    const std::string& root) {
  const std::string path = base::JoinPath(root, kDatabaseName);
  if (!base::FileExists(path)) {
    return absl::NotFoundError(absl::StrCat("there is no journal at ", path));
  }
  auto state = std::make_unique<State>();
  state->head = ReadHead(base::JoinPath(root, kHeadName));
  state->sealed = base::FileExists(base::JoinPath(root, kSealName)) &&
                  IsEmptyOrAbsent(path + "-wal");
  CHOIR_ASSIGN_OR_RETURN(state->db, OpenReadOnly(path, state->copy));
  CHOIR_RETURN_IF_ERROR(Prepare(state->db));
  // One transaction for all reading: one view, however long it takes.
  CHOIR_RETURN_IF_ERROR(state->db.Run("BEGIN"));
  CHOIR_RETURN_IF_ERROR(CheckSchemaVersion(state->db));
  CHOIR_ASSIGN_OR_RETURN(
      const std::string last,
      state->db.Text("SELECT coalesce(max(sequence), 0) FROM events"));
  if (!absl::SimpleAtoi(last, &state->last_sequence)) {
    state->last_sequence = 0;
  }
  return std::unique_ptr<JournalReader>(new JournalReader(std::move(state)));
}

absl::Status JournalReader::ForEachRow(
    const std::function<absl::Status(const JournalRow&)>& visit) const {
  CHOIR_ASSIGN_OR_RETURN(Statement statement,
                         Statement::Prepare(state_->db, kSelectRows));
  while (true) {
    CHOIR_ASSIGN_OR_RETURN(const bool more, statement.Step());
    if (!more) return absl::OkStatus();
    CHOIR_ASSIGN_OR_RETURN(const JournalRow row, RowOf(statement));
    CHOIR_RETURN_IF_ERROR(visit(row));
  }
}

uint64_t JournalReader::last_sequence() const { return state_->last_sequence; }
const absl::StatusOr<Head>& JournalReader::head() const { return state_->head; }
bool JournalReader::sealed() const { return state_->sealed; }

absl::StatusOr<std::vector<std::string>> JournalReader::IntegrityProblems()
    const {
  CHOIR_ASSIGN_OR_RETURN(std::vector<std::string> problems,
                         SchemaDifferences(state_->db));
  CHOIR_ASSIGN_OR_RETURN(
      Statement statement,
      Statement::Prepare(state_->db, "PRAGMA integrity_check(20)"));
  while (true) {
    CHOIR_ASSIGN_OR_RETURN(const bool more, statement.Step());
    if (!more) break;
    const std::string line = statement.Bytes(0);
    if (line != "ok") problems.push_back(absl::StrCat("SQLite: ", line));
  }
  return problems;
}

std::string ChainVerifier::Next(const JournalRow& row) {
  std::string problem;
  const base::Sha256Digest computed = ChainHash(last_hash_, row);
  if (row.sequence != last_sequence_ + 1) {
    problem = row.sequence <= last_sequence_
                  ? absl::StrCat("event ", row.sequence, " stands twice")
                  : absl::StrCat("event ", last_sequence_ + 1,
                                 " is missing: ", row.sequence, " follows on ",
                                 last_sequence_);
  } else if (DigestBytes(computed) != row.hash) {
    problem = absl::StrCat("event ", row.sequence,
                           ": its hash does not follow from its contents and "
                           "the event before");
  }
  last_sequence_ = row.sequence;
  std::copy_n(reinterpret_cast<const uint8_t*>(row.hash.data()),
              std::min(row.hash.size(), last_hash_.size()), last_hash_.begin());
  return problem;
}

std::string ChainVerifier::CompareHead(const Head& head, uint64_t last_sequence,
                                       const base::Sha256Digest& hash_at_head) {
  if (head.sequence > last_sequence) {
    return absl::StrCat(
        "the journal is shorter than it once was: it ends with "
        "event ",
        last_sequence, ", the file 'head' knows of event ", head.sequence);
  }
  if (head.hash != hash_at_head) {
    return absl::StrCat("event ", head.sequence,
                        " is not the one that the file 'head' recorded");
  }
  return "";
}

}  // namespace choir::store
