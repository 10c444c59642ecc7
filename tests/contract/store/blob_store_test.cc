// What every blob store promises, for both kinds of durability.
#include "coordinator/store/blob_store.h"

#include <sys/stat.h>
#include <utime.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/files.h"
#include "base/sha256.h"
#include "gtest/gtest.h"
#include "tests/support/golden.h"

namespace choir::store {
namespace {

class BlobStoreTest : public ::testing::TestWithParam<base::Durability> {
 protected:
  void SetUp() override { Reopen(); }
  void Reopen() {
    store_.reset();
    auto store = BlobStore::Open(root_, GetParam());
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  static v1::BlobRef RefOf(absl::string_view bytes) {
    v1::BlobRef ref;
    ref.set_digest(base::Sha256Hex(bytes));
    ref.set_size(bytes.size());
    return ref;
  }
  size_t IncomingFiles() const {
    return base::ListDirectory(root_ + "/incoming")->size();
  }

  const std::string root_ = tests::NewTempDir();
  std::unique_ptr<BlobStore> store_;
};

TEST_P(BlobStoreTest, PutsAndReadsBlobsOfAllSizes) {
  for (const size_t size : {0, 1, 4096, 3 << 20}) {
    const std::string bytes(size, 'b');
    const auto ref = store_->Put(bytes);
    ASSERT_TRUE(ref.ok()) << ref.status();
    EXPECT_EQ(ref->digest(), base::Sha256Hex(bytes));
    EXPECT_EQ(ref->size(), size);
    EXPECT_TRUE(store_->Contains(ref->digest()));
    EXPECT_EQ(*store_->Read(ref->digest()), bytes);
    EXPECT_EQ((*store_->OpenBlob(ref->digest()))->size(), size);
    EXPECT_TRUE(store_->Put(bytes).ok()) << "again";
  }
  EXPECT_EQ(store_->List()->size(), 4u);
  EXPECT_EQ(IncomingFiles(), 0u);
}

TEST_P(BlobStoreTest, CopiesAFileIn) {
  const std::string path = tests::NewTempDir() + "/file";
  const std::string bytes((1 << 20) + 17, 'f');
  std::ofstream(path, std::ios::binary) << bytes;
  const auto ref = store_->PutFile(path);
  ASSERT_TRUE(ref.ok());
  EXPECT_EQ(*store_->Read(ref->digest()), bytes);
  EXPECT_EQ(store_->PutFile(path + "x").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(IncomingFiles(), 0u);
}

TEST_P(BlobStoreTest, TellsWhatIsAbsentFromWhatIsNoDigest) {
  const std::string absent = base::Sha256Hex("absent");
  EXPECT_FALSE(store_->Contains(absent));
  EXPECT_EQ(store_->Read(absent).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(store_->PathOf(absent).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_TRUE(store_->Remove(absent).ok());
  for (const char* bad : {"", "..", "../../../etc/passwd", "abc"}) {
    EXPECT_FALSE(store_->Contains(bad));
    EXPECT_EQ(store_->OpenBlob(bad).status().code(),
              absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(store_->Remove(bad).code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST_P(BlobStoreTest, RemovesAndListsSorted) {
  const auto a = store_->Put("a");
  const auto b = store_->Put("b");
  auto list = *store_->List();
  ASSERT_EQ(list.size(), 2u);
  EXPECT_LT(list[0], list[1]);
  ASSERT_TRUE(store_->Remove(a->digest()).ok());
  EXPECT_EQ(*store_->List(), std::vector<std::string>{b->digest()});
}

TEST_P(BlobStoreTest, ReadNoticesADamagedBlob) {
  const auto ref = store_->Put("some bytes");
  const std::string path = *store_->PathOf(ref->digest());
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.put('S');
  file.close();
  EXPECT_EQ(store_->Read(ref->digest()).status().code(),
            absl::StatusCode::kDataLoss);
}

TEST_P(BlobStoreTest, AnUploadIsResumedAfterARestart) {
  const std::string bytes = std::string(1 << 20, 'x') + "end";
  {
    auto upload = store_->Receive(RefOf(bytes), "client-1");
    ASSERT_TRUE(upload.ok());
    ASSERT_TRUE((*upload)->Append(bytes.substr(0, 700000)).ok());
  }
  Reopen();
  auto upload = store_->Receive(RefOf(bytes), "client-1");
  ASSERT_TRUE(upload.ok());
  EXPECT_EQ((*upload)->received_bytes(), 700000u);
  EXPECT_FALSE(store_->Contains(RefOf(bytes).digest()));
  ASSERT_TRUE((*upload)->Append(bytes.substr(700000)).ok());
  ASSERT_TRUE((*upload)->Commit().ok());
  EXPECT_TRUE((*upload)->Commit().ok()) << "again";
  EXPECT_EQ(*store_->Read(RefOf(bytes).digest()), bytes);
  EXPECT_EQ(IncomingFiles(), 0u);
}

TEST_P(BlobStoreTest, WhatIsThereAlreadyNeedsNoUpload) {
  ASSERT_TRUE(store_->Put("known").ok());
  auto upload = store_->Receive(RefOf("known"), "c");
  ASSERT_TRUE(upload.ok());
  EXPECT_EQ((*upload)->received_bytes(), 5u);
  EXPECT_EQ((*upload)->Append("more").code(), absl::StatusCode::kOutOfRange);
  EXPECT_TRUE((*upload)->Commit().ok());
}

TEST_P(BlobStoreTest, WrongBytesAreDroppedAndCanBeSentAgain) {
  {
    auto upload = store_->Receive(RefOf("right"), "c");
    ASSERT_TRUE((*upload)->Append("wrong").ok());
    EXPECT_EQ((*upload)->Commit().code(), absl::StatusCode::kDataLoss);
  }
  EXPECT_FALSE(store_->Contains(RefOf("right").digest()));
  auto upload = store_->Receive(RefOf("right"), "c");
  EXPECT_EQ((*upload)->received_bytes(), 0u);
  ASSERT_TRUE((*upload)->Append("right").ok());
  EXPECT_TRUE((*upload)->Commit().ok());
}

TEST_P(BlobStoreTest, TooMuchAndTooLittleAreRefused) {
  auto upload = store_->Receive(RefOf("12345"), "c");
  EXPECT_EQ((*upload)->Append("123456").code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ((*upload)->received_bytes(), 0u);
  ASSERT_TRUE((*upload)->Append("1234").ok());
  EXPECT_EQ((*upload)->Commit().code(), absl::StatusCode::kDataLoss);
  v1::BlobRef bad;
  bad.set_digest("../evil");
  EXPECT_EQ(store_->Receive(bad, "c").status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_P(BlobStoreTest, OwnersDoNotMixAndANewUploadTakesOver) {
  auto one = store_->Receive(RefOf("abcdef"), "one");
  auto other = store_->Receive(RefOf("abcdef"), "other/../x");
  ASSERT_TRUE((*one)->Append("abc").ok());
  EXPECT_EQ((*other)->received_bytes(), 0u);
  auto again = store_->Receive(RefOf("abcdef"), "one");
  EXPECT_EQ((*again)->received_bytes(), 3u);
  EXPECT_EQ((*one)->Append("XXX").code(), absl::StatusCode::kAborted);
  EXPECT_EQ((*one)->Commit().code(), absl::StatusCode::kAborted);
  one->reset();
  ASSERT_TRUE((*again)->Append("def").ok());
  EXPECT_TRUE((*again)->Commit().ok());
  EXPECT_EQ(*store_->Read(RefOf("abcdef").digest()), "abcdef");
  ASSERT_TRUE((*other)->Append("abcdef").ok());
  EXPECT_TRUE((*other)->Commit().ok()) << "both may bring the same bytes";
}

TEST_P(BlobStoreTest, ADiscardedUploadBeginsAnew) {
  const std::string bytes(1000, 'd');
  const v1::BlobRef ref = RefOf(bytes);
  auto first = store_->Receive(ref, "anna");
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE((*first)->Append("ddd").ok());
  // Another upload of the same took over: the first has nothing to drop.
  auto second = store_->Receive(ref, "anna");
  ASSERT_TRUE(second.ok()) << second.status();
  (*first)->Discard();
  EXPECT_EQ((*second)->received_bytes(), 3u);
  ASSERT_TRUE((*second)->Append("d").ok());
  (*second)->Discard();
  EXPECT_FALSE((*second)->Append("d").ok());
  auto third = store_->Receive(ref, "anna");
  ASSERT_TRUE(third.ok()) << third.status();
  EXPECT_EQ((*third)->received_bytes(), 0u);
  ASSERT_TRUE((*third)->Append(bytes).ok());
  ASSERT_TRUE((*third)->Commit().ok());
  (*third)->Discard();
  EXPECT_TRUE(store_->Contains(ref.digest()));
}

TEST_P(BlobStoreTest, StaleUploadsAreRemovedAndOpenOnesKept) {
  base::ManualClock clock(absl::Now());
  auto open = store_->Receive(RefOf("open"), "c");
  ASSERT_TRUE((*open)->Append("op").ok());
  {
    auto left = store_->Receive(RefOf("left"), "c");
    ASSERT_TRUE((*left)->Append("le").ok());
  }
  EXPECT_EQ(*store_->RemoveStaleIncoming(absl::Hours(24), clock), 0);
  clock.Advance(absl::Hours(25));
  EXPECT_EQ(*store_->RemoveStaleIncoming(absl::Hours(24), clock), 1);
  EXPECT_EQ((*store_->Receive(RefOf("left"), "c"))->received_bytes(), 0u);
  ASSERT_TRUE((*open)->Append("en").ok());
  EXPECT_TRUE((*open)->Commit().ok());
}

TEST_P(BlobStoreTest, UploadsOfOneKindAreRemovedWhateverHasCome) {
  for (const char* begun : {"CHV1 mask", "CHV1", "CH", "CHU1 upd", "CHX"}) {
    auto left = store_->Receive(RefOf(absl::StrCat(begun, " and more")), "c");
    ASSERT_TRUE((*left)->Append(begun).ok());
  }
  auto open = store_->Receive(RefOf("CHV1 open"), "c");
  ASSERT_TRUE((*open)->Append("CHV1").ok());
  EXPECT_EQ(*store_->RemoveIncoming("CHV1"), 3);
  EXPECT_EQ(*store_->RemoveIncoming("CHV1"), 0);
  EXPECT_EQ(IncomingFiles(), 3u);
  ASSERT_TRUE((*open)->Append(" open").ok());
  EXPECT_TRUE((*open)->Commit().ok());
}

TEST_P(BlobStoreTest, ADigestHasOneSpelling) {
  const std::string digest = RefOf("x").digest();
  EXPECT_TRUE(IsDigestText(digest));
  EXPECT_FALSE(IsDigestText(absl::AsciiStrToUpper(digest)));
  EXPECT_FALSE(IsDigestText(absl::StrCat("sha256:", digest)));
  EXPECT_FALSE(IsDigestText(digest.substr(1)));
  EXPECT_FALSE(IsDigestText(""));
}

TEST_P(BlobStoreTest, HalfWrittenBlobsOfACrashAreRemoved) {
  std::ofstream(root_ + "/incoming/put-0123456789abcdef") << "half";
  Reopen();
  EXPECT_EQ(IncomingFiles(), 0u);
  EXPECT_TRUE(store_->List()->empty());
}

TEST_P(BlobStoreTest, ManyThreadsPutTheSameAndOtherBlobs) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([this, t] {
      for (int i = 0; i < 20; ++i) {
        EXPECT_TRUE(store_->Put(absl::StrCat("same", i)).ok());
        EXPECT_TRUE(store_->Put(absl::StrCat("own", t, "-", i)).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(store_->List()->size(), 100u);
  EXPECT_EQ(IncomingFiles(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Durabilities, BlobStoreTest,
                         ::testing::Values(base::Durability::kProcessCrash,
                                           base::Durability::kPowerLoss),
                         [](const auto& info) {
                           return info.param == base::Durability::kPowerLoss
                                      ? "PowerLoss"
                                      : "ProcessCrash";
                         });

}  // namespace
}  // namespace choir::store
