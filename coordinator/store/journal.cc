#include "coordinator/store/journal.h"

#include <unistd.h>

#include <cerrno>
#include <deque>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "coordinator/store/head_file.h"
#include "coordinator/store/journal_reader.h"
#include "coordinator/store/journal_row.h"
#include "coordinator/store/journal_schema.h"
#include "coordinator/store/seal_file.h"
#include "coordinator/store/sqlite.h"

namespace choir::store {
namespace {

// One call of Append() on its way through the writer thread.
struct Request {
  std::vector<JournalRow> rows;  // without sequence, time and hash
  absl::Status status;
  bool done = false;
};

class SqliteJournal final : public Journal {
 public:
  SqliteJournal(std::string root, base::Durability durability,
                const base::Clock& clock)
      : root_(std::move(root)), durability_(durability), clock_(clock) {}
  ~SqliteJournal() override { StopWriter(); }

  absl::Status OpenAndVerify();

  absl::Status Append(absl::Span<const v1::JournalRecord> records) override;
  absl::Status ForEach(const std::function<absl::Status(const JournalEntry&)>&
                           visit) const override;
  uint64_t num_entries() const override {
    base::MutexLock lock(&mu_);
    return committed_;
  }
  absl::Status Close() override;

 private:
  std::string PathOf(absl::string_view name) const {
    return base::JoinPath(root_, name);
  }
  absl::StatusOr<bool> Exists() const;
  // DATA_LOSS if it is gone.
  absl::StatusOr<Head> KnownHead() const;
  absl::Status CheckAndRemoveSeal();
  absl::Status OpenDatabase(bool exists);
  absl::Status VerifyChain();
  void StopWriter();
  void WriterLoop();
  // Runs on the writer thread: all requests in one transaction.
  absl::Status Commit(const std::vector<Request*>& requests);
  absl::Status Insert(const std::vector<Request*>& requests, Head& head);

  const std::string root_;
  const base::Durability durability_;
  const base::Clock& clock_;

  // Of the writer thread, once it runs.
  Database db_;
  Statement insert_;
  Statement begin_;
  Statement commit_;
  std::unique_ptr<HeadFile> head_file_;
  Head head_;

  mutable base::Mutex mu_;
  std::deque<Request*> queue_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  uint64_t committed_ ABSL_GUARDED_BY(mu_) = 0;
  std::thread writer_;
};

absl::StatusOr<bool> SqliteJournal::Exists() const {
  if (base::FileExists(PathOf(kDatabaseName))) return true;
  const auto head = ReadHead(PathOf(kHeadName));
  if (absl::IsNotFound(head.status())) return false;
  CHOIR_RETURN_IF_ERROR(head.status());
  if (head->sequence == 0) return false;
  return absl::DataLossError(
      absl::StrCat(PathOf(kDatabaseName), " is gone: the file 'head' knows of ",
                   head->sequence, " events; restore it from a backup"));
}

absl::StatusOr<Head> SqliteJournal::KnownHead() const {
  auto head = ReadHead(PathOf(kHeadName));
  if (absl::IsNotFound(head.status())) {
    return absl::DataLossError(absl::StrCat(
        "the file 'head' beside ", kDatabaseName,
        " is gone: without it a shortened journal cannot be told from a whole "
        "one; restore it from a backup"));
  }
  return head;
}

absl::Status SqliteJournal::CheckAndRemoveSeal() {
  const std::string seal = PathOf(kSealName);
  if (!base::FileExists(seal)) return absl::OkStatus();
  CHOIR_ASSIGN_OR_RETURN(const std::vector<std::string> differences,
                         CompareWithSeal(PathOf(kDatabaseName), seal));
  if (!differences.empty()) {
    return absl::DataLossError(absl::StrCat(
        "the journal changed while nobody had it open: ", differences[0],
        "; restore it from a backup"));
  }
  if (unlink(seal.c_str()) != 0) {
    return base::ErrnoStatus(errno, absl::StrCat("remove ", seal));
  }
  // Otherwise a power failure could bring back a seal that no longer fits.
  return durability_ == base::Durability::kPowerLoss
             ? base::SyncDirectory(root_)
             : absl::OkStatus();
}

absl::Status SqliteJournal::OpenDatabase(bool exists) {
  if (!exists) {
    CHOIR_RETURN_IF_ERROR(base::WriteFileAtomic(
        PathOf(kHeadName), RenderHead({0, ChainStart()}), durability_));
  }
  CHOIR_ASSIGN_OR_RETURN(
      db_, Database::Open(FileUri(PathOf(kDatabaseName), "mode=rwc"),
                          SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE |
                              SQLITE_OPEN_NOMUTEX));
  sqlite3_busy_timeout(db_.get(), 5000);
  sqlite3_db_config(db_.get(), SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  // Until the chain is verified, closing must not fold the log into the file
  // and remove it: SQLite ignores what follows a damaged frame, and it may
  // still be rescued.
  sqlite3_db_config(db_.get(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
  CHOIR_RETURN_IF_ERROR(db_.Run("PRAGMA page_size = 4096"));
  CHOIR_ASSIGN_OR_RETURN(const std::string mode,
                         db_.Text("PRAGMA journal_mode = WAL"));
  if (mode != "wal") {
    return absl::FailedPreconditionError(
        absl::StrCat("SQLite cannot keep a write-ahead log in ", root_,
                     " (it offers '", mode,
                     "'); put the store on a local "
                     "disk"));
  }
  CHOIR_RETURN_IF_ERROR(db_.Run(durability_ == base::Durability::kPowerLoss
                                    ? "PRAGMA synchronous = FULL"
                                    : "PRAGMA synchronous = OFF"));
  CHOIR_RETURN_IF_ERROR(
      db_.Run("PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY;"
              "PRAGMA journal_size_limit = 67108864"));
  CHOIR_ASSIGN_OR_RETURN(const std::string objects,
                         db_.Text("SELECT count(*) FROM sqlite_schema"));
  if (objects == "0") {
    // Its creation was cut off by a crash, unless the head knows of more.
    CHOIR_ASSIGN_OR_RETURN(const Head head, KnownHead());
    const std::string problem =
        ChainVerifier::CompareHead(head, 0, ChainStart());
    if (!problem.empty()) return absl::DataLossError(problem);
    CHOIR_RETURN_IF_ERROR(CreateSchema(db_));
  }
  return CheckSchemaVersion(db_);
}

absl::Status SqliteJournal::VerifyChain() {
  CHOIR_ASSIGN_OR_RETURN(const auto differences, SchemaDifferences(db_));
  if (!differences.empty()) {
    return absl::DataLossError(
        absl::StrCat("the journal was tampered with: ", differences[0]));
  }
  CHOIR_ASSIGN_OR_RETURN(const Head anchor, KnownHead());
  ChainVerifier chain;
  base::Sha256Digest hash_at_anchor = ChainStart();
  CHOIR_ASSIGN_OR_RETURN(Statement rows, Statement::Prepare(db_, kSelectRows));
  while (true) {
    CHOIR_ASSIGN_OR_RETURN(const bool more, rows.Step());
    if (!more) break;
    CHOIR_ASSIGN_OR_RETURN(const JournalRow row, RowOf(rows));
    const std::string problem = chain.Next(row);
    if (!problem.empty()) return absl::DataLossError(problem);
    if (row.sequence == anchor.sequence) hash_at_anchor = chain.last_hash();
  }
  const std::string problem =
      ChainVerifier::CompareHead(anchor, chain.last_sequence(), hash_at_anchor);
  if (!problem.empty()) return absl::DataLossError(problem);
  head_ = {chain.last_sequence(), chain.last_hash()};
  base::MutexLock lock(&mu_);
  committed_ = head_.sequence;
  return absl::OkStatus();
}

absl::Status SqliteJournal::OpenAndVerify() {
  CHOIR_RETURN_IF_ERROR(base::MakeDirectories(root_));
  CHOIR_ASSIGN_OR_RETURN(const bool exists, Exists());
  if (exists) CHOIR_RETURN_IF_ERROR(CheckAndRemoveSeal());
  CHOIR_RETURN_IF_ERROR(OpenDatabase(exists));
  CHOIR_RETURN_IF_ERROR(VerifyChain());
  sqlite3_db_config(db_.get(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, nullptr);
  CHOIR_ASSIGN_OR_RETURN(head_file_, HeadFile::Open(PathOf(kHeadName)));
  CHOIR_RETURN_IF_ERROR(head_file_->Write(head_));
  CHOIR_ASSIGN_OR_RETURN(
      insert_,
      Statement::Prepare(db_,
                         "INSERT INTO events (sequence, time_us, kind, "
                         "job, round, body, hash) VALUES "
                         "(?1, ?2, ?3, ?4, ?5, ?6, ?7)"));
  CHOIR_ASSIGN_OR_RETURN(begin_, Statement::Prepare(db_, "BEGIN IMMEDIATE"));
  CHOIR_ASSIGN_OR_RETURN(commit_, Statement::Prepare(db_, "COMMIT"));
  writer_ = std::thread([this] { WriterLoop(); });
  return absl::OkStatus();
}

absl::Status SqliteJournal::Append(
    absl::Span<const v1::JournalRecord> records) {
  if (records.empty()) return absl::OkStatus();
  Request request;
  request.rows.reserve(records.size());
  for (const v1::JournalRecord& record : records) {
    RecordColumns columns = ColumnsOf(record);
    if (columns.kind.empty()) {
      return absl::InvalidArgumentError("a journal record has no kind");
    }
    JournalRow row;
    row.kind = std::move(columns.kind);
    row.job = std::move(columns.job);
    row.round = columns.round;
    if (!record.SerializeToString(&row.body)) {
      return absl::InvalidArgumentError(
          absl::StrCat("a record of kind ", row.kind, " is too large"));
    }
    request.rows.push_back(std::move(row));
  }
  base::MutexLock lock(&mu_);
  if (stopping_) {
    return absl::FailedPreconditionError("the journal is closed");
  }
  queue_.push_back(&request);
  mu_.Await(absl::Condition(&request.done));
  return request.status;
}

void SqliteJournal::WriterLoop() {
  const auto has_work = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return stopping_ || !queue_.empty();
  };
  mu_.Lock();
  while (true) {
    mu_.Await(absl::Condition(&has_work));
    if (queue_.empty()) break;  // and stopping
    const std::vector<Request*> requests(queue_.begin(), queue_.end());
    queue_.clear();
    mu_.Unlock();
    const absl::Status status = Commit(requests);
    mu_.Lock();
    committed_ = head_.sequence;
    for (Request* request : requests) {
      request->status = status;
      request->done = true;
    }
  }
  mu_.Unlock();
}

absl::Status SqliteJournal::Insert(const std::vector<Request*>& requests,
                                   Head& head) {
  const int64_t now_us = absl::ToUnixMicros(clock_.Now());
  for (const Request* request : requests) {
    for (JournalRow row : request->rows) {
      row.sequence = head.sequence + 1;
      row.time_us = now_us;
      head.hash = ChainHash(head.hash, row);
      head.sequence = row.sequence;
      row.hash = DigestBytes(head.hash);
      insert_.BindInt(1, static_cast<int64_t>(row.sequence));
      insert_.BindInt(2, row.time_us);
      insert_.BindText(3, row.kind);
      insert_.BindText(4, row.job);
      insert_.BindInt(5, static_cast<int64_t>(row.round));
      insert_.BindBlob(6, row.body);
      insert_.BindBlob(7, row.hash);
      const auto stepped = insert_.Step();
      insert_.Reset();
      CHOIR_RETURN_IF_ERROR(stepped.status());
    }
  }
  return absl::OkStatus();
}

absl::Status SqliteJournal::Commit(const std::vector<Request*>& requests) {
  Head head = head_;
  const auto begun = begin_.Step();
  begin_.Reset();
  CHOIR_RETURN_IF_ERROR(begun.status());
  absl::Status status = Insert(requests, head);
  if (status.ok()) {
    const auto committed = commit_.Step();
    commit_.Reset();
    status = committed.status();
  }
  if (!status.ok()) {
    // SQLite has already rolled back after some errors.
    if (sqlite3_get_autocommit(db_.get()) == 0) {
      const absl::Status rolled_back = db_.Run("ROLLBACK");
      if (!rolled_back.ok()) base::LogError(rolled_back.message());
    }
    return status;
  }
  head_ = head;
  // The records are durable: a head that lags only makes the audit weaker.
  const absl::Status anchored = head_file_->Write(head_);
  if (!anchored.ok()) base::LogWarning(anchored.message());
  return absl::OkStatus();
}

absl::Status SqliteJournal::ForEach(
    const std::function<absl::Status(const JournalEntry&)>& visit) const {
  {
    base::MutexLock lock(&mu_);
    if (closed_) {
      return absl::FailedPreconditionError("the journal is closed");
    }
  }
  // A connection of its own: reading neither waits for the writer nor stops it.
  CHOIR_ASSIGN_OR_RETURN(
      Database db, Database::Open(FileUri(PathOf(kDatabaseName), "mode=ro"),
                                  SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX));
  sqlite3_busy_timeout(db.get(), 5000);
  CHOIR_ASSIGN_OR_RETURN(Statement rows, Statement::Prepare(db, kSelectRows));
  while (true) {
    CHOIR_ASSIGN_OR_RETURN(const bool more, rows.Step());
    if (!more) return absl::OkStatus();
    CHOIR_ASSIGN_OR_RETURN(const JournalRow row, RowOf(rows));
    CHOIR_ASSIGN_OR_RETURN(const JournalEntry entry, DecodeEntry(row));
    CHOIR_RETURN_IF_ERROR(visit(entry));
  }
}

void SqliteJournal::StopWriter() {
  {
    base::MutexLock lock(&mu_);
    stopping_ = true;
  }
  if (writer_.joinable()) writer_.join();
}

absl::Status SqliteJournal::Close() {
  StopWriter();
  {
    base::MutexLock lock(&mu_);
    if (closed_) return absl::OkStatus();
    closed_ = true;
  }
  insert_ = Statement();
  begin_ = Statement();
  commit_ = Statement();
  // A reader that holds on to the log leaves it unsealed, which loses nothing.
  const absl::Status checkpoint = db_.Run("PRAGMA wal_checkpoint(TRUNCATE)");
  CHOIR_RETURN_IF_ERROR(db_.Close());
  head_file_.reset();
  if (checkpoint.ok()) {
    const auto left = base::FileSize(PathOf(kDatabaseName) + "-wal");
    if (!left.ok() || *left == 0) {
      return WriteSeal(PathOf(kDatabaseName), PathOf(kSealName), durability_);
    }
  }
  base::LogWarning("the journal is not sealed: somebody is reading it");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Journal>> Journal::Open(
    const std::string& root, base::Durability durability,
    const base::Clock& clock) {
  auto journal = std::make_unique<SqliteJournal>(root, durability, clock);
  CHOIR_RETURN_IF_ERROR(journal->OpenAndVerify());
  return std::unique_ptr<Journal>(std::move(journal));
}

}  // namespace choir::store
