#include "coordinator/store/store.h"

#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "gtest/gtest.h"
#include "tests/support/golden.h"

namespace choir::store {
namespace {

using base::Durability;

v1::JournalRecord Refused(const std::string& reason) {
  v1::JournalRecord record;
  record.mutable_peer_refused()->set_peer("p");
  record.mutable_peer_refused()->set_reason(reason);
  return record;
}

TEST(StoreTest, ANewStoreBeginsWithItsCreation) {
  const std::string root = tests::NewTempDir() + "/a/store";
  const base::ManualClock clock;
  for (int opening = 0; opening < 2; ++opening) {
    auto store = Store::Open(root, Durability::kPowerLoss, clock);
    ASSERT_TRUE(store.ok()) << store.status();
    EXPECT_EQ((*store)->journal().num_entries(), 1u);
    EXPECT_EQ((*store)->root(), root);
    ASSERT_TRUE((*store)
                    ->journal()
                    .ForEach([](const JournalEntry& entry) {
                      EXPECT_TRUE(entry.record.has_store_created());
                      return absl::OkStatus();
                    })
                    .ok());
    ASSERT_TRUE((*store)->Close().ok());
  }
}

TEST(StoreTest, OthersOnTheMachineCannotLookIntoANewStore) {
  const std::string root = tests::NewTempDir() + "/store";
  const base::ManualClock clock;
  ASSERT_TRUE(Store::Open(root, Durability::kProcessCrash, clock).ok());
  const auto mode = [&root] {
    return std::filesystem::status(root).permissions();
  };
  EXPECT_EQ(mode(), std::filesystem::perms::owner_all);
  // A folder that was there, or was opened up, stays as it is.
  std::filesystem::permissions(root, std::filesystem::perms::group_read |
                                         std::filesystem::perms::owner_all);
  const auto chosen = mode();
  ASSERT_TRUE(Store::Open(root, Durability::kProcessCrash, clock).ok());
  EXPECT_EQ(mode(), chosen);
}

TEST(StoreTest, OneProcessAtATime) {
  const std::string root = tests::NewTempDir();
  const base::ManualClock clock;
  auto store = Store::Open(root, Durability::kProcessCrash, clock);
  ASSERT_TRUE(store.ok());
  const absl::Status second =
      Store::Open(root, Durability::kProcessCrash, clock).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(IsStoreLocked(second)) << second;
  EXPECT_FALSE(IsStoreLocked(absl::FailedPreconditionError("else")));
  store->reset();
  EXPECT_TRUE(Store::Open(root, Durability::kProcessCrash, clock).ok());
}

TEST(StoreTest, TheLockOfAKilledProcessIsGone) {
  const std::string root = tests::NewTempDir();
  const base::ManualClock clock;
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    auto store = Store::Open(root, Durability::kProcessCrash, clock);
    const char byte = store.ok() ? 1 : 0;
    if (write(ready[1], &byte, 1) != 1) _exit(1);
    pause();
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  ASSERT_EQ(byte, 1);
  EXPECT_TRUE(IsStoreLocked(
      Store::Open(root, Durability::kProcessCrash, clock).status()));
  kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(Store::Open(root, Durability::kProcessCrash, clock).ok());
}

// In a child with a small file system of its own. Exit code 77: such a thing
// is not allowed here.
int FillDisk(const std::string& root) {
  base::SetLogLevel(base::LogLevel::kOff);
  if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
    return 77;
  }
  mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
  if (mount("tmpfs", root.c_str(), "tmpfs", 0, "size=1m") != 0) return 77;
  const base::ManualClock clock;
  auto store = Store::Open(root, Durability::kPowerLoss, clock);
  if (!store.ok()) return 1;
  Journal& journal = (*store)->journal();
  const std::string reason(2000, 'r');
  uint64_t written = journal.num_entries();
  absl::Status status;
  while ((status = journal.Append({Refused(reason)})).ok()) ++written;
  if (!absl::IsResourceExhausted(status)) return 2;
  if (journal.num_entries() != written) return 3;
  // Blobs too: no part of one stays, and an upload keeps what it had.
  BlobStore& blobs = (*store)->blobs();
  const std::string large(900000, 'b');
  if (!absl::IsResourceExhausted(blobs.Put(large).status())) return 4;
  if (!std::filesystem::is_empty(root + "/incoming")) return 5;
  if (!blobs.List()->empty()) return 6;
  // Space appears: the same objects go on.
  mount("tmpfs", root.c_str(), "tmpfs", MS_REMOUNT, "size=8m");
  if (!journal.Append({Refused("again"), Refused("more")}).ok()) return 7;
  if (journal.num_entries() != written + 2) return 8;
  if (!blobs.Put(large).ok()) return 9;
  if (!(*store)->Close().ok()) return 10;
  store->reset();
  store = Store::Open(root, Durability::kPowerLoss, clock);
  if (!store.ok()) return 11;
  return (*store)->journal().num_entries() == written + 2 ? 0 : 12;
}

TEST(StoreTest, AFullDiskLosesNothingAndHurtsNothing) {
  const std::string root = tests::NewTempDir();
  const pid_t child = fork();
  if (child == 0) _exit(FillDisk(root));
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) {
    GTEST_SKIP() << "needs the right to mount a tmpfs";
  }
  EXPECT_EQ(WEXITSTATUS(status), 0) << "the step of FillDisk() that failed";
}

}  // namespace
}  // namespace choir::store
