#include "coordinator/rpc/refusal_log.h"

#include <gtest/gtest.h>

#include <vector>

#include "absl/strings/str_cat.h"

namespace choir::rpc {
namespace {

class RefusalLogTest : public testing::Test {
 protected:
  base::ManualClock clock_{absl::FromUnixSeconds(1800000000)};
  std::vector<v1::PeerRefused> recorded_;
  RefusalLog log_{clock_, [this](v1::PeerRefused refused) {
                    recorded_.push_back(std::move(refused));
                  }};
};

TEST_F(RefusalLogTest, TheFirstRefusalIsAlwaysRecorded) {
  log_.Refused("anna", "/m", "expired", "expired yesterday");
  log_.Refused("berta", "/m", "expired", "expired today");
  log_.Refused("anna", "/m", "role", "may not");
  ASSERT_EQ(recorded_.size(), 3u);
  EXPECT_EQ(recorded_[0].peer(), "anna");
  EXPECT_EQ(recorded_[0].method(), "/m");
  EXPECT_EQ(recorded_[0].reason(), "expired yesterday");
}

TEST_F(RefusalLogTest, TheSameAgainIsRecordedOnceAMinute) {
  for (int i = 0; i < 100; ++i) {
    log_.Refused("anna", "/m", "expired", absl::StrCat("call ", i));
    clock_.Advance(absl::Seconds(1));
  }
  EXPECT_EQ(recorded_.size(), 2u);
}

TEST_F(RefusalLogTest, AFloodOfManyPeersIsBounded) {
  for (int i = 0; i < 100000; ++i) {
    log_.Refused(absl::StrCat("peer", i), "/m", "unknown CA", "no");
  }
  EXPECT_EQ(recorded_.size(), 120u);
  clock_.Advance(absl::Minutes(1));
  log_.Refused("late", "/m", "unknown CA", "no");
  EXPECT_EQ(recorded_.size(), 121u);
}

TEST_F(RefusalLogTest, TextOfPeersIsCutAndMadePrintable) {
  log_.Refused(std::string("a\xff\n") + std::string(1000, 'x'), "/m", "k",
               "r\x01");
  ASSERT_EQ(recorded_.size(), 1u);
  EXPECT_EQ(recorded_[0].peer().size(), 200u);
  EXPECT_EQ(recorded_[0].peer().substr(0, 4), "a??x");
  EXPECT_EQ(recorded_[0].reason(), "r?");
}

}  // namespace
}  // namespace choir::rpc
