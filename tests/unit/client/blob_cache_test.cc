#include "client/agent/blob_cache.h"

#include <fstream>

#include "base/files.h"
#include "base/log.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/golden.h"
#include "tests/unit/client/fakes.h"

namespace choir::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class BlobCacheTest : public testing::Test {
 protected:
  BlobCacheTest() {
    base::SetLogLevel(base::LogLevel::kError);
    coordinator_.use_board = false;
  }
  v1::BlobRef Put(const std::string& bytes) {
    const v1::BlobRef ref = RefOf(bytes);
    coordinator_.blobs[ref.digest()] = bytes;
    return ref;
  }
  bool Cached(const v1::BlobRef& ref) const {
    return base::FileExists(base::JoinPath(folder_, ref.digest()));
  }
  absl::StatusOr<std::string> Fetch(const v1::BlobRef& ref,
                                    std::set<std::string> keep = {}) {
    clock_.Advance(absl::Seconds(1));
    return cache_->Fetch(ref, coordinator_, keep);
  }
  void Reopen(uint64_t max_bytes) {
    cache_ = std::make_unique<BlobCache>(folder_, max_bytes, clock_);
  }

  const std::string folder_ = tests::NewTempDir();
  base::ManualClock clock_{FakeStart()};
  FakeCoordinator coordinator_{FakeCa(), clock_};
  std::unique_ptr<BlobCache> cache_ =
      std::make_unique<BlobCache>(folder_, 1000, clock_);
};

TEST_F(BlobCacheTest, DownloadsOnce) {
  const v1::BlobRef ref = Put(std::string(250, 'x'));
  for (int i = 0; i < 3; ++i) {
    const auto path = Fetch(ref);
    ASSERT_TRUE(path.ok()) << path.status();
    EXPECT_EQ(*base::ReadFile(*path), std::string(250, 'x'));
    if (i == 1) Reopen(1000);
  }
  EXPECT_THAT(coordinator_.download_offsets, ElementsAre(0));
}

TEST_F(BlobCacheTest, ResumesWhereADownloadBrokeOff) {
  const v1::BlobRef ref = Put(std::string(350, 'x'));
  int chunks = 0;
  coordinator_.fault = [&](const std::string& call, const std::string&) {
    return call == "DownloadChunk" && ++chunks == 2
               ? absl::UnavailableError("lost")
               : absl::OkStatus();
  };
  EXPECT_EQ(Fetch(ref).status().code(), absl::StatusCode::kUnavailable);
  Reopen(1000);  // as after a kill
  EXPECT_TRUE(Fetch(ref).ok());
  EXPECT_THAT(coordinator_.download_offsets, ElementsAre(0, 200));
  EXPECT_EQ(coordinator_.blobs[ref.digest()].size(), 350u);
}

TEST_F(BlobCacheTest, ThrowsDamageAwayAndStartsAfresh) {
  const v1::BlobRef ref = Put(std::string(250, 'x'));
  coordinator_.damage_downloads = 1;
  EXPECT_EQ(Fetch(ref).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_FALSE(Cached(ref));
  EXPECT_TRUE(Fetch(ref).ok());
  EXPECT_THAT(coordinator_.download_offsets, ElementsAre(0, 0));
}

TEST_F(BlobCacheTest, FindsDamageOnDisk) {
  const v1::BlobRef ref = Put(std::string(250, 'x'));
  ASSERT_TRUE(Fetch(ref).ok());
  std::ofstream(base::JoinPath(folder_, ref.digest())) << std::string(250, 'y');
  Reopen(1000);
  const auto path = Fetch(ref);
  ASSERT_TRUE(path.ok());
  EXPECT_EQ(*base::ReadFile(*path), std::string(250, 'x'));
}

TEST_F(BlobCacheTest, RemovesTheLeastRecentlyUsed) {
  const v1::BlobRef a = Put(std::string(400, 'a'));
  const v1::BlobRef b = Put(std::string(400, 'b'));
  const v1::BlobRef c = Put(std::string(400, 'c'));
  ASSERT_TRUE(Fetch(a).ok());
  ASSERT_TRUE(Fetch(b).ok());
  ASSERT_TRUE(Fetch(a).ok());
  ASSERT_TRUE(Fetch(c).ok());
  EXPECT_TRUE(Cached(a));
  EXPECT_FALSE(Cached(b));
  EXPECT_TRUE(Cached(c));
  // `a` is older now, but in use.
  ASSERT_TRUE(Fetch(b, {a.digest()}).ok());
  EXPECT_TRUE(Cached(a));
  EXPECT_FALSE(Cached(c));
}

TEST_F(BlobCacheTest, RefusesWhatDoesNotFit) {
  const v1::BlobRef a = Put(std::string(600, 'a'));
  const v1::BlobRef b = Put(std::string(600, 'b'));
  ASSERT_TRUE(Fetch(a).ok());
  const auto result = Fetch(b, {a.digest(), b.digest()});
  EXPECT_EQ(result.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(result.status().message(), HasSubstr("cache_mib"));
}

TEST_F(BlobCacheTest, RefusesDigestsThatAreNoFileNames) {
  v1::BlobRef ref = Put("x");
  for (const std::string& bad :
       {std::string("../../etc/passwd"), std::string(""),
        "sha256:" + ref.digest(), std::string(64, 'A')}) {
    ref.set_digest(bad);
    EXPECT_EQ(Fetch(ref).status().code(), absl::StatusCode::kInvalidArgument)
        << bad;
  }
}

}  // namespace
}  // namespace choir::client
