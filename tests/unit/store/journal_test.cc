#include "coordinator/store/journal.h"

#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/files.h"
#include "coordinator/store/journal_reader.h"
#include "coordinator/store/journal_row.h"
#include "coordinator/store/seal_file.h"
#include "gtest/gtest.h"
#include "tests/support/golden.h"

namespace choir::store {
namespace {

using base::Durability;

v1::JournalRecord Started(uint32_t round, int padding = 0) {
  v1::JournalRecord record;
  v1::RoundStarted& started = *record.mutable_round_started();
  started.set_job("demo");
  started.set_round(round);
  started.set_attempt(1);
  started.add_cohort(std::string(static_cast<size_t>(padding) + 1, 'a'));
  return record;
}

class JournalTest : public ::testing::Test {
 protected:
  std::unique_ptr<Journal> OpenOrDie(
      Durability durability = Durability::kProcessCrash) {
    auto journal = Journal::Open(root_, durability, clock_);
    EXPECT_TRUE(journal.ok()) << journal.status();
    return journal.ok() ? *std::move(journal) : nullptr;
  }
  absl::Status OpenStatus() {
    return Journal::Open(root_, Durability::kProcessCrash, clock_).status();
  }
  std::vector<JournalEntry> Entries(const Journal& journal) {
    std::vector<JournalEntry> entries;
    const absl::Status status = journal.ForEach([&](const JournalEntry& entry) {
      entries.push_back(entry);
      return absl::OkStatus();
    });
    EXPECT_TRUE(status.ok()) << status;
    return entries;
  }
  // Runs SQL on the file the way somebody with a shell would.
  int Sql(const std::string& sql) {
    sqlite3* db = nullptr;
    EXPECT_EQ(sqlite3_open((root_ + "/choir.db").c_str(), &db), SQLITE_OK);
    const int code = sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr);
    sqlite3_close(db);
    return code;
  }
  void WriteThree() {
    auto journal = OpenOrDie();
    for (uint32_t round = 1; round <= 3; ++round) {
      ASSERT_TRUE(journal->Append({Started(round)}).ok());
    }
  }

  const std::string root_ = tests::NewTempDir() + "/store";
  base::ManualClock clock_{absl::FromUnixMicros(1700000000123456)};
};

TEST_F(JournalTest, GivesBackWhatWasAppendedAfterReopening) {
  {
    auto journal = OpenOrDie(Durability::kPowerLoss);
    ASSERT_TRUE(journal->Append({Started(1), Started(2)}).ok());
    clock_.Advance(absl::Seconds(5));
    ASSERT_TRUE(journal->Append({Started(3)}).ok());
    EXPECT_EQ(journal->num_entries(), 3u);
    ASSERT_TRUE(journal->Close().ok());
  }
  auto journal = OpenOrDie(Durability::kPowerLoss);
  const auto entries = Entries(*journal);
  ASSERT_EQ(entries.size(), 3u);
  for (uint32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(entries[i].sequence, i + 1);
    EXPECT_EQ(entries[i].record.round_started().round(), i + 1);
  }
  EXPECT_EQ(absl::ToUnixMicros(entries[0].time), 1700000000123456);
  EXPECT_EQ(entries[2].time - entries[1].time, absl::Seconds(5));
}

TEST_F(JournalTest, RefusesARecordWithoutKindAndKeepsNothingOfTheCall) {
  auto journal = OpenOrDie();
  const absl::Status status =
      journal->Append({Started(1), v1::JournalRecord()});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(journal->num_entries(), 0u);
  EXPECT_TRUE(journal->Append({}).ok());
}

TEST_F(JournalTest, RefusesToAppendAfterClose) {
  auto journal = OpenOrDie();
  ASSERT_TRUE(journal->Close().ok());
  EXPECT_EQ(journal->Append({Started(1)}).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(journal->Close().ok()) << "closing twice is harmless";
}

TEST_F(JournalTest, AppendsOfManyThreadsMakeOneChain) {
  {
    auto journal = OpenOrDie();
    std::vector<std::thread> threads;
    for (uint32_t t = 0; t < 8; ++t) {
      threads.emplace_back([&, t] {
        for (uint32_t i = 0; i < 50; ++i) {
          EXPECT_TRUE(
              journal->Append({Started(2 * i), Started(2 * i + 1)}).ok())
              << t;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    const auto entries = Entries(*journal);
    ASSERT_EQ(entries.size(), 800u);
    for (size_t i = 0; i < entries.size(); i += 2) {
      EXPECT_EQ(entries[i].record.round_started().round() + 1,
                entries[i + 1].record.round_started().round())
          << "a call's records stay together";
    }
  }
  EXPECT_EQ(OpenOrDie()->num_entries(), 800u);
}

TEST_F(JournalTest, RowsCannotBeChangedWithSql) {
  WriteThree();
  EXPECT_EQ(Sql("UPDATE events SET job = 'x' WHERE sequence = 2"),
            SQLITE_CONSTRAINT);
  EXPECT_EQ(Sql("DELETE FROM events WHERE sequence = 3"), SQLITE_CONSTRAINT);
  EXPECT_EQ(Sql("INSERT OR REPLACE INTO events SELECT * FROM events WHERE "
                "sequence = 1"),
            SQLITE_CONSTRAINT);
  EXPECT_EQ(Sql("UPDATE meta SET value = '2'"), SQLITE_CONSTRAINT);
  EXPECT_EQ(Sql("DELETE FROM meta"), SQLITE_CONSTRAINT);
  EXPECT_EQ(Sql("INSERT INTO meta VALUES ('a', 'b')"), SQLITE_CONSTRAINT);
  EXPECT_EQ(OpenOrDie()->num_entries(), 3u);
}

TEST_F(JournalTest, RefusesToOpenAfterARowWasEdited) {
  WriteThree();
  ASSERT_EQ(Sql("DROP TRIGGER events_no_update;"
                "UPDATE events SET time_us = time_us + 1 WHERE sequence = 2;"
                "CREATE TRIGGER events_no_update BEFORE UPDATE ON events BEGIN "
                "SELECT RAISE(ABORT, 'the journal is append-only'); END"),
            SQLITE_OK);
  const absl::Status status = OpenStatus();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(absl::StrContains(status.message(), "event 2")) << status;
}

TEST_F(JournalTest, RefusesToOpenWithoutItsTriggers) {
  WriteThree();
  ASSERT_EQ(Sql("DROP TRIGGER events_no_delete"), SQLITE_OK);
  EXPECT_EQ(OpenStatus().code(), absl::StatusCode::kDataLoss);
}

TEST_F(JournalTest, RefusesToOpenWhenTheEndWasCutOff) {
  WriteThree();
  ASSERT_EQ(Sql("DROP TRIGGER events_no_delete;"
                "DELETE FROM events WHERE sequence = 3;"
                "CREATE TRIGGER events_no_delete BEFORE DELETE ON events BEGIN "
                "SELECT RAISE(ABORT, 'the journal is append-only'); END"),
            SQLITE_OK);
  const absl::Status status = OpenStatus();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(absl::StrContains(status.message(), "shorter than it once was"))
      << status;
}

TEST_F(JournalTest, RefusesToOpenWithoutHeadOrDatabase) {
  WriteThree();
  std::filesystem::rename(root_ + "/head", root_ + "/elsewhere");
  EXPECT_EQ(OpenStatus().code(), absl::StatusCode::kDataLoss);
  std::filesystem::rename(root_ + "/elsewhere", root_ + "/head");
  EXPECT_TRUE(OpenStatus().ok());
  std::filesystem::remove(root_ + "/choir.db");
  EXPECT_EQ(OpenStatus().code(), absl::StatusCode::kDataLoss);
}

TEST_F(JournalTest, RefusesANewerSchemaAndAStrangeDatabase) {
  WriteThree();
  ASSERT_EQ(Sql("DROP TRIGGER meta_no_update;"
                "UPDATE meta SET value = '2'"),
            SQLITE_OK);
  EXPECT_EQ(OpenStatus().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_EQ(Sql("PRAGMA application_id = 7"), SQLITE_OK);
  EXPECT_EQ(OpenStatus().code(), absl::StatusCode::kDataLoss);
}

TEST_F(JournalTest, ChangedBytesOfASealedFileAreNoticedOnOpening) {
  {
    auto journal = OpenOrDie();
    ASSERT_TRUE(journal->Append({Started(1)}).ok());
    ASSERT_TRUE(journal->Close().ok());
  }
  EXPECT_TRUE(base::FileExists(root_ + "/seal"));
  EXPECT_FALSE(base::FileExists(root_ + "/choir.db-wal"));
  {
    std::fstream file(root_ + "/choir.db",
                      std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(5000);  // unused space of the second page
    file.put('\x01');
  }
  const absl::Status status = OpenStatus();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(absl::StrContains(status.message(), "page 2")) << status;
}

TEST_F(JournalTest, TheSealGoesWhileTheJournalIsOpen) {
  { ASSERT_TRUE(OpenOrDie()->Close().ok()); }
  ASSERT_TRUE(base::FileExists(root_ + "/seal"));
  auto journal = OpenOrDie();
  EXPECT_FALSE(base::FileExists(root_ + "/seal"));
}

TEST_F(JournalTest, KillLosesNothingThatWasAcknowledged) {
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    auto journal = Journal::Open(root_, Durability::kProcessCrash, clock_);
    if (!journal.ok()) _exit(1);
    for (uint32_t round = 1;; ++round) {
      if (!(*journal)->Append({Started(round, 500)}).ok()) _exit(2);
      if (write(pipe_ends[1], &round, sizeof round) != sizeof round) _exit(3);
    }
  }
  uint32_t acknowledged = 0;
  while (acknowledged < 300) {
    ASSERT_EQ(read(pipe_ends[0], &acknowledged, sizeof acknowledged),
              static_cast<ssize_t>(sizeof acknowledged));
  }
  kill(child, SIGKILL);
  int wait_status = 0;
  waitpid(child, &wait_status, 0);
  close(pipe_ends[1]);
  uint32_t last = 0;
  while (read(pipe_ends[0], &last, sizeof last) == sizeof last) {
    acknowledged = last;
  }
  close(pipe_ends[0]);
  auto journal = OpenOrDie();
  const auto entries = Entries(*journal);
  ASSERT_GE(entries.size(), acknowledged);
  EXPECT_LE(entries.size(), acknowledged + 1);
  EXPECT_EQ(entries.back().record.round_started().round(), entries.size());
}

// What a crash left in the write-ahead log may be all there is of an event:
// who finds the log damaged must not throw the rest of it away.
TEST_F(JournalTest, ADamagedLogIsRefusedAndLeftAsItIs) {
  const pid_t child = fork();
  if (child == 0) {
    auto journal = Journal::Open(root_, Durability::kProcessCrash, clock_);
    for (uint32_t round = 1; journal.ok() && round <= 30; ++round) {
      if (!(*journal)->Append({Started(round, 3000)}).ok()) _exit(2);
    }
    _exit(0);  // closes nothing
  }
  int wait_status = 0;
  waitpid(child, &wait_status, 0);
  ASSERT_EQ(wait_status, 0);
  const std::string log = root_ + "/choir.db-wal";
  const std::string whole = base::ReadFile(log).value();
  // In the log's header, near its beginning, and in its middle.
  for (const size_t at : {size_t{9}, size_t{200}, whole.size() / 2}) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 4);
    ASSERT_TRUE(
        base::WriteFileAtomic(log, damaged, Durability::kProcessCrash).ok());
    const absl::Status status = OpenStatus();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << at << status;
    ASSERT_TRUE(base::FileExists(log)) << at;
    EXPECT_TRUE(base::ReadFile(log).value() == damaged) << at;
    ASSERT_TRUE(
        base::WriteFileAtomic(log, whole, Durability::kProcessCrash).ok());
  }
  EXPECT_EQ(Entries(*OpenOrDie()).size(), 30u);
}

TEST_F(JournalTest, AStoreOfOthersIsNotTakenForNone) {
  WriteThree();
  EXPECT_TRUE(FindStore(root_).ok());
  EXPECT_TRUE(absl::IsNotFound(FindStore(root_ + "/nothing").status()));
  std::filesystem::permissions(root_, std::filesystem::perms::none);
  const auto look = [this] {
    // Root may look everywhere.
    if (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0) _exit(2);
    _exit(absl::IsPermissionDenied(FindStore(root_).status()) ? 0 : 1);
  };
  EXPECT_EXIT(look(), ::testing::ExitedWithCode(0), "");
  std::filesystem::permissions(root_, std::filesystem::perms::owner_all);
}

TEST_F(JournalTest, AReaderSeesTheJournalWhileItIsWritten) {
  auto journal = OpenOrDie();
  ASSERT_TRUE(journal->Append({Started(1), Started(2)}).ok());
  const auto reader = JournalReader::Open(root_);
  ASSERT_TRUE(reader.ok()) << reader.status();
  ASSERT_TRUE(journal->Append({Started(3)}).ok());
  EXPECT_EQ((*reader)->last_sequence(), 2u) << "its view is of one moment";
  ASSERT_TRUE((*reader)->head().ok());
  EXPECT_EQ((*reader)->head()->sequence, 2u);
  const auto later = JournalReader::Open(root_);
  ASSERT_TRUE(later.ok()) << later.status();
  EXPECT_EQ((*later)->last_sequence(), 3u);
}

// docs/journal_format.md shows this very example.
TEST(ChainTest, WorkedExampleOfTheFormatPage) {
  JournalRow row;
  row.sequence = 1;
  row.time_us = 1700000000000000;
  row.kind = "round_lost";
  row.job = "demo";
  row.round = 2;
  v1::JournalRecord record;
  v1::RoundLost& lost = *record.mutable_round_lost();
  lost.set_job("demo");
  lost.set_round(2);
  lost.set_attempt(1);
  lost.set_reason("too few");
  row.body = record.SerializeAsString();
  const std::string hash = base::ToHex(ChainHash(ChainStart(), row));
  const auto page = base::ReadFile(
      base::JoinPath(tests::SourceDir(), "docs/journal_format.md"));
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_TRUE(absl::StrContains(*page, base::ToHex(ChainStart())))
      << base::ToHex(ChainStart());
  EXPECT_TRUE(absl::StrContains(*page, hash)) << hash;
  EXPECT_EQ(DecodeEntry(row).status(), absl::OkStatus());
  EXPECT_EQ(ChainHash(ChainStart(), row), ChainHash(ChainStart(), row));
}

TEST(ChainTest, EveryColumnChangesTheHash) {
  JournalRow row;
  row.sequence = 7;
  row.kind = "ab";
  row.job = "c";
  const auto hash = ChainHash(ChainStart(), row);
  JournalRow moved = row;
  moved.kind = "a";
  moved.job = "bc";  // lengths are hashed, so borders cannot move
  EXPECT_NE(ChainHash(ChainStart(), moved), hash);
  for (int column = 0; column < 4; ++column) {
    JournalRow other = row;
    if (column == 0) other.sequence ^= 1;
    if (column == 1) other.time_us ^= 1;
    if (column == 2) other.round ^= 1;
    if (column == 3) other.body = "x";
    EXPECT_NE(ChainHash(ChainStart(), other), hash) << column;
  }
}

TEST(DecodeEntryTest, RefusesColumnsThatContradictTheBody) {
  JournalRow row;
  row.sequence = 9;
  row.kind = "round_started";
  row.job = "demo";
  row.round = 4;
  row.body = Started(4).SerializeAsString();
  EXPECT_TRUE(DecodeEntry(row).ok());
  for (int column = 0; column < 4; ++column) {
    JournalRow other = row;
    if (column == 0) other.kind = "round_lost";
    if (column == 1) other.job = "Demo";
    if (column == 2) other.round = 5;
    if (column == 3) other.body = "\xff\xff";
    const auto entry = DecodeEntry(other);
    EXPECT_EQ(entry.status().code(), absl::StatusCode::kDataLoss) << column;
    EXPECT_TRUE(absl::StrContains(entry.status().message(), "event 9"));
  }
}

TEST(ColumnsOfTest, FindsJobAndRoundInEveryKindOfRecord) {
  v1::JournalRecord record;
  record.mutable_update_accepted()->mutable_key()->set_job("a");
  record.mutable_update_accepted()->mutable_key()->set_round(3);
  EXPECT_EQ(ColumnsOf(record).kind, "update_accepted");
  EXPECT_EQ(ColumnsOf(record).job, "a");
  EXPECT_EQ(ColumnsOf(record).round, 3u);
  record.mutable_evaluation_started()->set_job("b");
  record.mutable_evaluation_started()->set_version(5);
  EXPECT_EQ(ColumnsOf(record).job, "b");
  EXPECT_EQ(ColumnsOf(record).round, 5u);
  record.mutable_job_submitted()->mutable_config()->set_name("c");
  EXPECT_EQ(ColumnsOf(record).job, "c");
  record.mutable_token_created();
  EXPECT_EQ(ColumnsOf(record).job, "");
}

}  // namespace
}  // namespace choir::store
