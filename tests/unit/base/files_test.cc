#include "base/files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string>

#include "tests/support/golden.h"

namespace choir::base {
namespace {

TEST(WriteFileAtomicTest, ReplacesTheWholeContentsAndLeavesNothingBehind) {
  const std::string dir = tests::NewTempDir();
  const std::string path = JoinPath(dir, "f");
  ASSERT_TRUE(WriteFileAtomic(path, "first, longer").ok());
  ASSERT_TRUE(WriteFileAtomic(path, "second").ok());
  EXPECT_EQ(*ReadFile(path), "second");
  EXPECT_EQ(ListDirectory(dir)->size(), 1u);
}

TEST(WriteFileAtomicTest, GivesTheFileItsMode) {
  const std::string path = JoinPath(tests::NewTempDir(), "secret");
  ASSERT_TRUE(WriteFileAtomic(path, "x", Durability::kPowerLoss, 0600).ok());
  struct stat info;
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST(WriteFileAtomicTest, NamesThePathWhenTheFolderIsMissing) {
  const absl::Status status =
      WriteFileAtomic(JoinPath(tests::NewTempDir(), "no/such"), "x");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(status.message().find("no/such"), std::string::npos);
}

TEST(WriteFileAtomicTest, ReportsAFullDiskAsResourceExhausted) {
  // /dev/full accepts opening and refuses every write; the atomic writer makes
  // its temporary file beside the target, so the errno mapping is what counts.
  EXPECT_EQ(ErrnoStatus(ENOSPC, "write x").code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(ReadFileTest, RefusesWhatIsLongerThanTheLimit) {
  const std::string path = JoinPath(tests::NewTempDir(), "f");
  ASSERT_TRUE(WriteFileAtomic(path, "12345").ok());
  EXPECT_TRUE(ReadFile(path, 5).ok());
  EXPECT_EQ(ReadFile(path, 4).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(ReadFileTest, RefusesAFolder) {
  EXPECT_FALSE(ReadFile(tests::NewTempDir()).ok());
}

TEST(RandomAccessFileTest, ReadsExactlyWhatIsAskedOrFails) {
  const std::string path = JoinPath(tests::NewTempDir(), "f");
  ASSERT_TRUE(WriteFileAtomic(path, "0123456789").ok());
  auto file = RandomAccessFile::Open(path);
  ASSERT_TRUE(file.ok());
  char out[4];
  ASSERT_TRUE((*file)->ReadAt(6, 4, out).ok());
  EXPECT_EQ(std::string(out, 4), "6789");
  EXPECT_EQ((*file)->ReadAt(7, 4, out).code(), absl::StatusCode::kOutOfRange);
}

TEST(MappedFileTest, SeesTheBytesAndAnEmptyFile) {
  const std::string dir = tests::NewTempDir();
  ASSERT_TRUE(WriteFileAtomic(JoinPath(dir, "a"), "bytes").ok());
  ASSERT_TRUE(WriteFileAtomic(JoinPath(dir, "b"), "").ok());
  EXPECT_EQ((*MappedFile::Open(JoinPath(dir, "a")))->bytes(), "bytes");
  EXPECT_EQ((*MappedFile::Open(JoinPath(dir, "b")))->bytes(), "");
  EXPECT_EQ(MappedFile::Open(JoinPath(dir, "c")).status().code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace choir::base
