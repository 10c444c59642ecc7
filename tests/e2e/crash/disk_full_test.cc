// A full disk under the coordinator's store: a clear error, nothing lost, and
// the job goes on when there is space again.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/files.h"
#include "tests/support/cluster.h"
#include "tests/support/golden.h"

namespace choir::tests {
namespace {

// A small file system of its own, unmounted by the destructor.
class SmallDisk {
 public:
  SmallDisk() : path_(NewTempDir()) {
    mounted_ = mount("tmpfs", path_.c_str(), "tmpfs", 0, "size=8m") == 0;
  }
  ~SmallDisk() {
    if (mounted_) umount2(path_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  bool mounted_ = false;
};

// Takes all the space that is left.
void FillUp(const std::string& path) {
  const std::string chunk(4096, 'x');
  FILE* file = std::fopen(path.c_str(), "w");
  ASSERT_NE(file, nullptr);
  std::setvbuf(file, nullptr, _IONBF, 0);
  while (std::fwrite(chunk.data(), 1, chunk.size(), file) == chunk.size()) {
  }
  std::fclose(file);
}

TEST(DiskFullTest, TheJobWaitsAndGoesOn) {
  SmallDisk disk;
  if (!disk.mounted()) {
    GTEST_SKIP() << "mounting a tmpfs is not allowed here";
  }
  constexpr int kAgents = 2;
  constexpr int kRounds = 40;
  Cluster cluster(base::JoinPath(disk.path(), "store"));
  cluster.StartCoordinator();
  cluster.StartAgents(kAgents);
  cluster.Submit(MicroJob("full", kRounds, kAgents));
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  while (cluster.ShowJob("full").rounds_committed < 2 &&
         absl::Now() < deadline) {
  }
  const std::string filler = base::JoinPath(disk.path(), "filler");
  FillUp(filler);
  // Until the coordinator has said that it cannot go on.
  while (!absl::StrContains(
             base::ReadFile(cluster.PathOf("coordinator.log")).value_or(""),
             "space") &&
         absl::Now() < deadline) {
    absl::SleepFor(absl::Milliseconds(20));
  }
  EXPECT_TRUE(absl::StrContains(
      *base::ReadFile(cluster.PathOf("coordinator.log")), "space"))
      << cluster.Logs();
  ASSERT_FALSE(cluster.coordinator()->Ended()) << cluster.Logs();
  ASSERT_EQ(std::remove(filler.c_str()), 0);
  const JobView view = cluster.AwaitJob("full", absl::Seconds(120));
  EXPECT_EQ(view.state, "done") << cluster.Logs();
  EXPECT_EQ(view.rounds_committed, kRounds);
  cluster.coordinator()->Signal(SIGTERM);
  ASSERT_TRUE(cluster.coordinator()->Wait(absl::Seconds(30)));
  EXPECT_EQ(VerifyProblem(cluster.store()), "");
}

}  // namespace
}  // namespace choir::tests
