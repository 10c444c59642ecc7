// Flips bits and rewrites rows of real stores, closed and crashed, and expects
// the audit to notice and to say where.
#include <signal.h>
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/files.h"
#include "base/sim_random.h"
#include "coordinator/audit/verify.h"
#include "coordinator/store/head_file.h"
#include "coordinator/store/journal_reader.h"
#include "gtest/gtest.h"
#include "tests/support/golden.h"
#include "tests/unit/audit/sample_store.h"

namespace choir::audit {
namespace {

namespace fs = std::filesystem;

std::map<std::string, std::string> Contents(const std::string& root) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(root)) {
    if (!entry.is_regular_file()) continue;
    files[fs::relative(entry.path(), root).string()] =
        *base::ReadFile(entry.path().string());
  }
  return files;
}

void Write(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

// The folder of a store as kill -9 leaves it.
std::string CrashedStore() {
  const std::string root = tests::NewTempDir() + "/store";
  int ready[2];
  EXPECT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const base::ManualClock clock(absl::FromUnixSeconds(1700000000));
    auto store = tests::MakeSampleStore(root, clock);
    if (write(ready[1], "x", 1) != 1) _exit(1);
    pause();
  }
  char byte;
  EXPECT_EQ(read(ready[0], &byte, 1), 1);
  kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  return root;
}

std::string ClosedStore() {
  const std::string root = tests::NewTempDir() + "/store";
  const base::ManualClock clock(absl::FromUnixSeconds(1700000000));
  auto store = tests::MakeSampleStore(root, clock);
  EXPECT_TRUE(store->Close().ok());
  return root;
}

// What the journal says, with hashes; empty if it cannot be read.
std::vector<std::string> Rows(const std::string& root) {
  std::vector<std::string> rows;
  const auto reader = store::JournalReader::Open(root);
  if (!reader.ok()) return rows;
  const absl::Status status =
      (*reader)->ForEachRow([&](const store::JournalRow& row) {
        rows.push_back(absl::StrCat(row.sequence, "|", row.time_us, "|",
                                    row.kind, "|", row.job, "|", row.round, "|",
                                    row.body, "|", row.hash));
        return absl::OkStatus();
      });
  if (!status.ok()) rows.clear();
  return rows;
}

TEST(TamperTest, EveryFlippedBitOfAClosedStoreIsFoundAndLocated) {
  const std::string root = ClosedStore();
  const auto files = Contents(root);
  ASSERT_EQ(files.count("seal"), 1u);
  ASSERT_EQ(files.count("choir.db-wal"), 0u);
  ASSERT_TRUE(Verify(root)->ok);
  base::SimRandom random(20261122);
  for (const auto& [name, bytes] : files) {
    if (bytes.empty()) continue;  // the lock
    const std::string path = base::JoinPath(root, name);
    const int trials = name == "choir.db" ? 150 : 12;
    for (int i = 0; i < trials; ++i) {
      const uint64_t bit = random.Below(8 * bytes.size());
      std::string bad = bytes;
      bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
      Write(path, bad);
      const auto report = Verify(root);
      ASSERT_TRUE(report.ok()) << report.status();
      ASSERT_FALSE(report->ok) << name << " bit " << bit;
      std::string all;
      for (const Finding& finding : report->findings) all += finding.what;
      if (name == "choir.db") {
        EXPECT_TRUE(absl::StrContains(
            all, absl::StrCat("page ", bit / 8 / 4096 + 1, " ")))
            << "bit " << bit << ": " << all;
      } else if (absl::StartsWith(name, "blobs/")) {
        EXPECT_TRUE(absl::StrContains(all, name.substr(6, 2) + name.substr(9)))
            << all;
      } else {
        EXPECT_TRUE(absl::StrContains(all, absl::StrCat("'", name, "'")))
            << all;
      }
    }
    Write(path, bytes);
  }
  EXPECT_TRUE(Verify(root)->ok);
}

TEST(TamperTest, EveryBitThatSaysSomethingInACrashedStoreIsFound) {
  const std::string root = CrashedStore();
  auto files = Contents(root);
  ASSERT_EQ(files.count("seal"), 0u);
  ASSERT_GT(files["choir.db-wal"].size(), 0u);
  ASSERT_TRUE(Verify(root)->ok) << Verify(root)->reason;
  const auto rows = Rows(root);
  ASSERT_GT(rows.size(), 30u);
  base::SimRandom random(4);
  int found = 0;
  for (const auto& [name, bytes] : files) {
    // The index in shared memory is rebuilt; it says nothing of its own.
    if (bytes.empty() || name == "choir.db-shm") continue;
    const std::string path = base::JoinPath(root, name);
    const bool database = absl::StartsWith(name, "choir.db");
    for (int i = 0; i < (database ? 150 : 6); ++i) {
      const uint64_t bit = random.Below(8 * bytes.size());
      std::string bad = bytes;
      bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
      Write(path, bad);
      const auto report = Verify(root);
      ASSERT_TRUE(report.ok()) << report.status();
      if (report->ok) {
        EXPECT_TRUE(database) << name << " bit " << bit;
        EXPECT_EQ(Rows(root), rows) << name << " bit " << bit;
      } else {
        ++found;
      }
    }
    Write(path, bytes);
  }
  EXPECT_GT(found, 100) << "most bits say something";
  EXPECT_TRUE(Verify(root)->ok);
}

TEST(TamperTest, VerifyingChangesNoByte) {
  for (const std::string& root : {ClosedStore(), CrashedStore()}) {
    const auto before = Contents(root);
    EXPECT_TRUE(Verify(root)->ok);
    EXPECT_EQ(Contents(root), before);
    // A copy of the essential files, on a medium that cannot be written.
    const std::string copy = tests::NewTempDir() + "/copy";
    fs::copy(root, copy, fs::copy_options::recursive);
    fs::remove(copy + "/choir.db-shm");
    for (const auto& entry : fs::recursive_directory_iterator(copy)) {
      fs::permissions(entry.path(), fs::perms::owner_write,
                      fs::perm_options::remove);
    }
    fs::permissions(copy, fs::perms::owner_write, fs::perm_options::remove);
    const auto files = Contents(copy);
    const auto report = Verify(copy);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_TRUE(report->ok) << report->reason;
    EXPECT_EQ(Contents(copy), files);
    fs::permissions(copy, fs::perms::owner_all, fs::perm_options::add);
    for (const auto& entry : fs::recursive_directory_iterator(copy)) {
      fs::permissions(entry.path(), fs::perms::owner_write,
                      fs::perm_options::add);
    }
  }
}

TEST(TamperTest, AStoreInUseIsVerifiedAndGoesOn) {
  const std::string root = tests::NewTempDir();
  const base::ManualClock clock(absl::FromUnixSeconds(1700000000));
  auto store = tests::MakeSampleStore(root, clock);
  const auto report = Verify(root);
  ASSERT_TRUE(report.ok());
  EXPECT_TRUE(report->ok) << report->reason;
  EXPECT_FALSE(report->sealed);
  v1::JournalRecord record;
  record.mutable_peer_refused()->set_peer("p");
  EXPECT_TRUE(store->journal().Append({record}).ok());
  EXPECT_EQ(Verify(root)->events, report->events + 1);
}

// Rewrites the journal with SQL, triggers put back afterwards, as somebody
// would who knows the format and not the chain.
class RewriteTest : public ::testing::Test {
 protected:
  void SetUp() override { fs::remove(root_ + "/seal"); }
  void Sql(const std::string& sql) {
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open((root_ + "/choir.db").c_str(), &db), SQLITE_OK);
    std::vector<std::string> triggers;
    const auto collect = [](void* out, int, char** values, char**) {
      static_cast<std::vector<std::string>*>(out)->push_back(values[0]);
      static_cast<std::vector<std::string>*>(out)->push_back(values[1]);
      return 0;
    };
    sqlite3_exec(db,
                 "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'",
                 collect, &triggers, nullptr);
    std::string script;
    for (size_t i = 0; i < triggers.size(); i += 2) {
      script += "DROP TRIGGER " + triggers[i] + ";";
    }
    script += sql + ";";
    for (size_t i = 1; i < triggers.size(); i += 2) {
      script += triggers[i] + ";";
    }
    char* error = nullptr;
    EXPECT_EQ(sqlite3_exec(db, script.c_str(), nullptr, nullptr, &error),
              SQLITE_OK)
        << error;
    sqlite3_close(db);
  }
  VerifyReport Report() {
    const auto report = Verify(root_);
    EXPECT_TRUE(report.ok()) << report.status();
    return report.ok() ? *report : VerifyReport();
  }
  const std::string root_ = ClosedStore();
};

TEST_F(RewriteTest, NothingChangedIsFine) {
  Sql("SELECT 1");
  EXPECT_TRUE(Report().ok) << Report().reason;
}

TEST_F(RewriteTest, ADeletedEventIsFound) {
  Sql("DELETE FROM events WHERE sequence = 12");
  const VerifyReport report = Report();
  EXPECT_FALSE(report.ok);
  EXPECT_EQ(report.first_bad_event, 13u);
  EXPECT_TRUE(absl::StrContains(report.reason, "event 12 is missing"))
      << report.reason;
}

TEST_F(RewriteTest, ACutOffEndIsFound) {
  Sql("DELETE FROM events WHERE sequence > 20");
  const VerifyReport report = Report();
  EXPECT_FALSE(report.ok);
  EXPECT_EQ(report.first_bad_event, 21u) << report.reason;
}

TEST_F(RewriteTest, SwappedEventsAreFound) {
  Sql("UPDATE events SET sequence = -1 WHERE sequence = 12;"
      "UPDATE events SET sequence = 12 WHERE sequence = 13;"
      "UPDATE events SET sequence = 13 WHERE sequence = -1");
  EXPECT_EQ(Report().first_bad_event, 12u);
}

TEST_F(RewriteTest, AnEditedColumnIsFound) {
  for (const char* edit :
       {"time_us = time_us + 1", "kind = kind || 'x'", "job = 'other'",
        "round = round + 1", "body = CAST(body || x'00' AS BLOB)",
        "hash = zeroblob(32)"}) {
    const auto files = Contents(root_);
    Sql(absl::StrCat("UPDATE events SET ", edit, " WHERE sequence = 15"));
    const VerifyReport report = Report();
    EXPECT_FALSE(report.ok) << edit;
    EXPECT_EQ(report.first_bad_event, 15u) << edit << ": " << report.reason;
    Write(root_ + "/choir.db", files.at("choir.db"));
  }
}

TEST_F(RewriteTest, ADroppedTriggerAndAnAddedTableAreFound) {
  Sql("CREATE TABLE extra (x)");
  EXPECT_TRUE(absl::StrContains(Report().reason, "extra")) << Report().reason;
}

TEST_F(RewriteTest, ARecomputedChainContradictsTheHead) {
  // Changes event 5 and gives all events after it hashes that fit.
  std::vector<store::JournalRow> rows;
  {
    const auto reader = store::JournalReader::Open(root_);
    ASSERT_TRUE((*reader)
                    ->ForEachRow([&](const store::JournalRow& row) {
                      rows.push_back(row);
                      return absl::OkStatus();
                    })
                    .ok());
  }
  rows[4].time_us += 1000;
  auto previous = store::ChainStart();
  std::string sql;
  for (store::JournalRow& row : rows) {
    previous = store::ChainHash(previous, row);
    absl::StrAppend(&sql, "UPDATE events SET time_us = ", row.time_us,
                    ", hash = x'", base::ToHex(previous),
                    "' WHERE sequence = ", row.sequence, ";");
  }
  Sql(sql);
  const VerifyReport report = Report();
  EXPECT_FALSE(report.ok);
  EXPECT_TRUE(absl::StrContains(report.reason, "head")) << report.reason;
  // With a head made to fit as well, only a copy kept elsewhere could tell.
  Write(root_ + "/head", store::RenderHead({rows.back().sequence, previous}));
  EXPECT_TRUE(Report().ok);
}

TEST(TamperTest, MissingFilesAreFound) {
  const std::string root = ClosedStore();
  fs::rename(root + "/head", root + "/away");
  EXPECT_TRUE(absl::StrContains(Verify(root)->reason, "'head' is gone"));
  fs::rename(root + "/away", root + "/head");
  int needed = 0;
  for (const auto& entry : fs::recursive_directory_iterator(root + "/blobs")) {
    if (!entry.is_regular_file()) continue;
    const std::string path = entry.path().string();
    fs::rename(path, root + "/away");
    // Updates of single clients may be gone; everything else may not.
    const bool update =
        fs::file_size(root + "/away") == 44 + 32 * sizeof(float);
    EXPECT_EQ(Verify(root)->ok, update) << path;
    fs::rename(root + "/away", path);
    needed += update ? 0 : 1;
  }
  EXPECT_GT(needed, 0);
}

}  // namespace
}  // namespace choir::audit
