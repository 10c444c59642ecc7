#include "coordinator/audit/output.h"

#include <sstream>

#include "absl/strings/match.h"
#include "base/clock.h"
#include "coordinator/audit/export.h"
#include "gtest/gtest.h"
#include "tests/support/golden.h"
#include "tests/unit/audit/sample_store.h"

namespace choir::audit {
namespace {

class OutputTest : public ::testing::Test {
 protected:
  void SetUp() override {
    store_ = tests::MakeSampleStore(root_, clock_);
    auto history = ReadHistory(root_);  // while the store is open
    ASSERT_TRUE(history.ok()) << history.status();
    history_ = *std::move(history);
  }
  const std::string root_ = tests::NewTempDir();
  const base::ManualClock clock_{absl::FromUnixSeconds(1700000000)};
  std::unique_ptr<store::Store> store_;
  History history_;
};

TEST_F(OutputTest, RoundsHaveTheDocumentedFields) {
  const auto json = RoundsJson(history_, "");
  ASSERT_TRUE(json.ok());
  const auto& rounds = (*json)["rounds"];
  ASSERT_EQ(rounds.size(), 3u) << "one row per round, not per attempt";
  EXPECT_EQ(rounds[0]["round"], 1);
  EXPECT_EQ(rounds[0]["state"], "committed");
  EXPECT_EQ(rounds[0]["selected"], 3);
  EXPECT_EQ(rounds[0]["survivors"], 2);
  EXPECT_EQ(rounds[0]["refused"], 1);
  EXPECT_EQ(rounds[0]["bytes_down"], 200);
  EXPECT_TRUE(rounds[0]["epsilon"].is_null());
  EXPECT_TRUE(rounds[0]["seconds"].is_number());
  EXPECT_DOUBLE_EQ(rounds[0]["heldout_loss"].get<double>(),
                   (33.3 / 2 + 33.3 / 2) / 20);
  EXPECT_EQ(rounds[1]["attempt"], 2);
  EXPECT_EQ(RoundsJson(history_, "other").status().code(),
            absl::StatusCode::kNotFound);
  const std::string csv = *RoundsCsv(history_, "demo");
  EXPECT_TRUE(absl::StrContains(csv, "\ndemo,2,committed,2,3,2,1,0,")) << csv;
  EXPECT_TRUE(absl::StrContains(*RoundsText(history_, ""), "committed"));
}

TEST_F(OutputTest, ShowsRefusalsLossesAndCohorts) {
  ShowOptions options;
  const auto all = ShowJson(history_, options);
  ASSERT_TRUE(all.ok());
  EXPECT_EQ((*all)["refusals"][0]["peer"], "mallory");
  EXPECT_EQ((*all)["jobs"][0]["state"], "done");
  EXPECT_EQ((*all)["jobs"][0]["attempts_lost"], 1);
  options.round = 2;
  const auto round = ShowJson(history_, options);
  ASSERT_TRUE(round.ok());
  const auto& attempts = (*round)["attempts"];
  ASSERT_EQ(attempts.size(), 2u);
  EXPECT_EQ(attempts[0]["state"], "lost");
  EXPECT_EQ(attempts[0]["reason"], "too few survivors");
  EXPECT_EQ(attempts[0]["clients"][0]["outcome"], "lost");
  EXPECT_EQ(attempts[0]["clients"][2]["outcome"], "waiting");
  EXPECT_EQ(attempts[1]["clients"][1]["reason"], "not finite");
  EXPECT_EQ(attempts[1]["clients"][0]["weight"], 20);
  EXPECT_TRUE(absl::StrContains(*ShowText(history_, options), "not finite"));
  options.round = 9;
  EXPECT_EQ(ShowJson(history_, options).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(OutputTest, ExportsEveryEventAsAJsonLine) {
  std::ostringstream out;
  const auto events = ExportEvents(root_, out);
  ASSERT_TRUE(events.ok()) << events.status();
  EXPECT_EQ(*events, store_->journal().num_entries());
  std::istringstream lines(out.str());
  std::string line;
  uint64_t sequence = 0;
  while (std::getline(lines, line)) {
    const auto json = nlohmann::json::parse(line);
    EXPECT_EQ(json["sequence"], ++sequence);
    EXPECT_EQ(json["hash"].get<std::string>().size(), 64u);
    EXPECT_EQ(json["time"], "2023-11-14T22:13:20.000000Z");
    EXPECT_TRUE(json["record"].contains(json["kind"].get<std::string>()))
        << line;
  }
  EXPECT_EQ(sequence, *events);
}

TEST_F(OutputTest, VerdictsHaveTheDocumentedFields) {
  VerifyReport report;
  report.ok = true;
  report.events = 5;
  EXPECT_EQ(VerifyJson(report).dump(),
            R"({"ok":true,"events":5,"rounds":0,"blobs":0,"sealed":false})");
  report.ok = false;
  report.first_bad_event = 3;
  report.reason = "why";
  EXPECT_EQ(VerifyJson(report)["first_bad_event"], 3);
  EXPECT_EQ(VerifyJson(report)["reason"], "why");
  report.first_bad_event = 0;
  EXPECT_TRUE(VerifyJson(report)["first_bad_event"].is_null());
}

}  // namespace
}  // namespace choir::audit
