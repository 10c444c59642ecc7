#include <fstream>

#include "absl/strings/match.h"
#include "base/files.h"
#include "coordinator/store/file_system.h"
#include "coordinator/store/head_file.h"
#include "coordinator/store/journal_row.h"
#include "coordinator/store/seal_file.h"
#include "gtest/gtest.h"
#include "tests/support/golden.h"

namespace choir::store {
namespace {

TEST(HeadFileTest, EveryFlippedBitIsNoticed) {
  const std::string good = RenderHead({42, base::Sha256Of("x")});
  const auto head = ParseHead(good);
  ASSERT_TRUE(head.ok());
  EXPECT_EQ(head->sequence, 42u);
  EXPECT_EQ(head->hash, base::Sha256Of("x"));
  for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_FALSE(ParseHead(bad).ok()) << "bit " << bit;
  }
  EXPECT_FALSE(ParseHead("").ok());
  EXPECT_FALSE(ParseHead(good + " ").ok());
}

TEST(HeadFileTest, IsRewrittenInPlaceWithTheSameLength) {
  const std::string path = tests::NewTempDir() + "/head";
  ASSERT_TRUE(base::WriteFileAtomic(path, RenderHead({0, ChainStart()})).ok());
  const auto size = base::FileSize(path);
  const auto file = HeadFile::Open(path);
  ASSERT_TRUE(file.ok());
  ASSERT_TRUE((*file)->Write({~0ull, base::Sha256Of("y")}).ok());
  EXPECT_EQ(base::FileSize(path), size);
  EXPECT_EQ(ReadHead(path)->sequence, ~0ull);
  EXPECT_EQ(ReadHead(path + "x").status().code(), absl::StatusCode::kNotFound);
}

TEST(SealTest, FlippedBitsOfFileAndSealAreNoticedAndLocated) {
  const std::string folder = tests::NewTempDir();
  const std::string path = folder + "/db";
  const std::string seal = folder + "/seal";
  std::string bytes(2 * kSealPageBytes + 100, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7);
  const auto write = [](const std::string& to, const std::string& what) {
    std::ofstream(to, std::ios::binary) << what;
  };
  write(path, bytes);
  ASSERT_TRUE(WriteSeal(path, seal, base::Durability::kProcessCrash).ok());
  EXPECT_TRUE(CompareWithSeal(path, seal)->empty());
  for (size_t at = 0; at < bytes.size(); at += 509) {
    std::string bad = bytes;
    bad[at] = static_cast<char>(bad[at] ^ 4);
    write(path, bad);
    const auto differences = CompareWithSeal(path, seal);
    ASSERT_EQ(differences->size(), 1u) << at;
    EXPECT_TRUE(absl::StrContains(
        (*differences)[0],
        "page " + std::to_string(at / kSealPageBytes + 1) + " "))
        << (*differences)[0];
  }
  write(path, bytes + "x");
  EXPECT_FALSE(CompareWithSeal(path, seal)->empty());
  write(path, bytes);
  const std::string sealed = *base::ReadFile(seal);
  for (size_t bit = 0; bit < 8 * sealed.size(); bit += 13) {
    std::string bad = sealed;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    write(seal, bad);
    const auto differences = CompareWithSeal(path, seal);
    ASSERT_EQ(differences->size(), 1u) << "bit " << bit;
    EXPECT_TRUE(
        absl::StrContains((*differences)[0], "is " + std::to_string(bit / 8)))
        << (*differences)[0];
  }
}

TEST(FileSystemTest, RefusesNetworkFileSystemsByName) {
  EXPECT_TRUE(CheckFileSystemType(0xEF53, "", "/x").ok()) << "ext4";
  EXPECT_TRUE(CheckFileSystemType(0x01021994, "", "/x").ok()) << "tmpfs";
  EXPECT_TRUE(CheckFileSystemType(0x65735546, "fuseblk", "/x").ok());
  for (const uint64_t magic : {0x6969ull, 0x517Bull, 0xFF534D42ull}) {
    const absl::Status status = CheckFileSystemType(magic, "", "/x");
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_TRUE(absl::StrContains(status.message(), "/x")) << status;
  }
  EXPECT_FALSE(CheckFileSystemType(0x65735546, "fuse.sshfs", "/x").ok());
  EXPECT_TRUE(CheckFileSystem(tests::NewTempDir()).ok());
}

}  // namespace
}  // namespace choir::store
