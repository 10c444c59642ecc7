#include "base/scoped_fd.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "base/files.h"
#include "gtest/gtest.h"
#include "tests/support/golden.h"

namespace choir::base {
namespace {

ScopedFd OpenNew(const std::string& path) {
  return ScopedFd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
}

bool IsOpen(int fd) { return fcntl(fd, F_GETFD) != -1; }

TEST(ScopedFdTest, ClosesWhatItOwnsAndNothingElse) {
  const std::string dir = tests::NewTempDir();
  int number = -1;
  int released = -1;
  {
    ScopedFd owned = OpenNew(dir + "/owned");
    ScopedFd given = OpenNew(dir + "/given");
    ASSERT_TRUE(owned.is_open());
    number = owned.get();
    released = given.release();
    EXPECT_FALSE(given.is_open());
    const ScopedFd moved = std::move(owned);
    EXPECT_EQ(moved.get(), number);
    EXPECT_TRUE(IsOpen(number));
  }
  EXPECT_FALSE(IsOpen(number));
  EXPECT_TRUE(IsOpen(released));
  ScopedFd(released).Close(dir).IgnoreError();
  EXPECT_FALSE(IsOpen(released));
}

TEST(ScopedFdTest, ClosingTwiceIsAnErrorThatNamesThePath) {
  const std::string path = tests::NewTempDir() + "/file";
  ScopedFd fd = OpenNew(path);
  EXPECT_TRUE(fd.Close(path).ok());
  const absl::Status again = fd.Close(path);
  EXPECT_NE(std::string(again.message()).find(path), std::string::npos)
      << again;
}

TEST(WriteAllAtTest, WritesAtThePlaceAndSaysWhereItCannot) {
  const std::string path = tests::NewTempDir() + "/file";
  const ScopedFd fd = OpenNew(path);
  ASSERT_TRUE(WriteAllAt(fd.get(), 2, "cd", path).ok());
  ASSERT_TRUE(WriteAllAt(fd.get(), 0, "ab", path).ok());
  EXPECT_EQ(ReadFile(path).value_or(""), "abcd");
  const ScopedFd reader(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  const absl::Status refused = WriteAllAt(reader.get(), 0, "x", path);
  EXPECT_NE(std::string(refused.message()).find(path), std::string::npos)
      << refused;
}

TEST(LockFileTest, OneHolderAtATime) {
  const std::string path = tests::NewTempDir() + "/lock";
  {
    const auto first = LockFile(path, 0600);
    ASSERT_TRUE(first.ok()) << first.status();
    EXPECT_EQ(LockFile(path, 0600).status().code(),
              absl::StatusCode::kFailedPrecondition);
  }
  EXPECT_TRUE(LockFile(path, 0600).ok());
  EXPECT_EQ(LockFile(path + "/no", 0600).status().code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace choir::base
