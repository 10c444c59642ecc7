// Journals that lie, with a chain that is right: what the rules find.
#include "coordinator/audit/verify.h"

#include <set>

#include "absl/strings/match.h"
#include "base/clock.h"
#include "gtest/gtest.h"
#include "tests/support/golden.h"
#include "tests/unit/audit/sample_store.h"

namespace choir::audit {
namespace {

using Records = std::vector<v1::JournalRecord>;

VerifyReport VerifyEdited(const std::function<void(Records&)>& edit,
                          bool keep_updates = true) {
  const std::string root = tests::NewTempDir();
  const base::ManualClock clock(absl::FromUnixSeconds(1700000000));
  tests::SampleOptions options;
  options.keep_updates = keep_updates;
  options.edit = edit;
  auto store = tests::MakeSampleStore(root, clock, options);
  EXPECT_TRUE(store->Close().ok());
  const auto report = Verify(root);
  EXPECT_TRUE(report.ok()) << report.status();
  return report.ok() ? *report : VerifyReport();
}

// The `index`-th record of a kind, from 0.
v1::JournalRecord& Nth(Records& records, v1::JournalRecord::RecordCase kind,
                       int index) {
  for (v1::JournalRecord& record : records) {
    if (record.record_case() == kind && index-- == 0) return record;
  }
  ADD_FAILURE() << "no such record";
  return records.front();
}

uint64_t EventOf(const Records& records, const v1::JournalRecord& record) {
  return static_cast<uint64_t>(&record - records.data()) + 2;  // store_created
}

TEST(VerifyTest, AnHonestStoreIsFine) {
  for (const bool keep : {true, false}) {
    const VerifyReport report = VerifyEdited(nullptr, keep);
    EXPECT_TRUE(report.ok) << report.reason;
    EXPECT_EQ(report.rounds, 3u);
    EXPECT_GT(report.events, 30u);
    EXPECT_TRUE(report.sealed);
    EXPECT_EQ(report.first_bad_event, 0u);
  }
}

TEST(VerifyTest, TellsAMissingStoreFromADamagedOne) {
  EXPECT_EQ(Verify(tests::NewTempDir()).status().code(),
            absl::StatusCode::kNotFound);
}

struct Lie {
  const char* name;
  // Edits, and returns the record that is wrong then.
  std::function<v1::JournalRecord*(Records&)> edit;
  const char* reason;
};

using R = v1::JournalRecord;

const Lie kLies[] = {
    {"WeightOfAnUpdate",
     [](Records& r) {
       auto* record = &Nth(r, R::kUpdateAccepted, 2);
       record->mutable_update_accepted()->set_weight(1000);
       return record;
     },
     "weight"},
    {"TotalWeight",
     [](Records& r) {
       auto* record = &Nth(r, R::kRoundCommitted, 1);
       record->mutable_round_committed()->set_total_weight(1);
       return record;
     },
     "total weight"},
    {"SurvivorOutsideTheCohort",
     [](Records& r) {
       auto* record = &Nth(r, R::kRoundCommitted, 0);
       record->mutable_round_committed()->add_survivors("zoe");
       return record;
     },
     "survivor 'zoe' is not in the cohort"},
    {"UpdateLeftOut",
     [](Records& r) {
       auto* record = &Nth(r, R::kRoundCommitted, 0);
       record->mutable_round_committed()->mutable_survivors()->RemoveLast();
       return record;
     },
     "is not in the sum"},
    {"RoundCountedTwice",
     [](Records& r) {
       auto* record = &Nth(r, R::kRoundCommitted, 1);
       record->mutable_round_committed()->set_round(1);
       return record;
     },
     "committed before"},
    {"AttemptNeverStarted",
     [](Records& r) {
       auto* record = &Nth(r, R::kRoundCommitted, 1);
       record->mutable_round_committed()->set_attempt(5);
       return record;
     },
     "not in progress"},
    {"AttemptSkipped",
     [](Records& r) {
       auto* record = &Nth(r, R::kRoundStarted, 2);
       record->mutable_round_started()->set_attempt(3);
       return record;
     },
     "would have been next"},
    {"OtherAdapterBefore",
     [](Records& r) {
       auto* record = &Nth(r, R::kRoundCommitted, 2);
       *record->mutable_round_committed()->mutable_adapter_before() =
           Nth(r, R::kRoundCommitted, 0).round_committed().adapter();
       return record;
     },
     "begins from adapter"},
    {"AdapterThatDoesNotFollow",
     [](Records& r) {
       auto* record = &Nth(r, R::kRoundCommitted, 2);
       *record->mutable_round_committed()->mutable_adapter() =
           Nth(r, R::kRoundCommitted, 0).round_committed().adapter();
       return record;
     },
     "does not follow from the aggregate"},
    {"StateThatDoesNotFollow",
     [](Records& r) {
       auto* record = &Nth(r, R::kRoundCommitted, 2);
       *record->mutable_round_committed()->mutable_server_state() =
           Nth(r, R::kRoundCommitted, 0).round_committed().server_state();
       return record;
     },
     "optimiser state"},
    {"OtherUpdateThanSummed",
     [](Records& r) {
       auto* one = &Nth(r, R::kUpdateAccepted, 0);
       *one->mutable_update_accepted()->mutable_report()->mutable_update() =
           Nth(r, R::kUpdateAccepted, 1).update_accepted().report().update();
       return &Nth(r, R::kRoundCommitted, 0);
     },
     "not the sum of the updates"},
    {"BlobThatIsNotThere",
     [](Records& r) {
       auto* record = &Nth(r, R::kJobStarted, 0);
       record->mutable_job_started()->mutable_adapter_config()->set_digest(
           std::string(64, '0'));
       return record;
     },
     "is not in the store"},
    {"SizeOfABlob",
     [](Records& r) {
       auto* record = &Nth(r, R::kJobStarted, 0);
       record->mutable_job_started()
           ->mutable_base_model(0)
           ->mutable_blob()
           ->set_size(4);
       return record;
     },
     "bytes and has"},
    {"LostAndAccepted",
     [](Records& r) {
       auto* record = &Nth(r, R::kUpdateRefused, 0);
       record->mutable_update_refused()->set_client("ada");
       return record;
     },
     "refused after it was accepted"},
    {"UnsortedCohort",
     [](Records& r) {
       auto* record = &Nth(r, R::kRoundStarted, 0);
       record->mutable_round_started()->mutable_cohort()->SwapElements(0, 1);
       return record;
     },
     "not sorted"},
    {"EvaluationTotals",
     [](Records& r) {
       auto* record = &Nth(r, R::kEvaluationFinished, 1);
       record->mutable_evaluation_finished()->set_loss_sum(0.5);
       return record;
     },
     "totals"},
    {"DoneTooEarly",
     [](Records& r) {
       for (size_t i = r.size(); i-- > 0;) {
         if (r[i].has_round_committed()) {
           r.erase(r.begin() + static_cast<ptrdiff_t>(i));
           break;
         }
       }
       return &Nth(r, R::kEvaluationStarted, 3);
     },
     "is evaluated while"},
    {"NeverSubmitted",
     [](Records& r) {
       r.erase(r.begin());
       return &Nth(r, R::kJobStarted, 0);
     },
     "never submitted"},
};

class VerifyLieTest : public ::testing::TestWithParam<Lie> {};

TEST_P(VerifyLieTest, IsFoundAtItsEvent) {
  uint64_t event = 0;
  const VerifyReport report = VerifyEdited([&](Records& records) {
    const v1::JournalRecord* wrong = GetParam().edit(records);
    event = EventOf(records, *wrong);
  });
  EXPECT_FALSE(report.ok);
  EXPECT_EQ(report.first_bad_event, event) << report.reason;
  bool named = false;
  for (const Finding& finding : report.findings) {
    named |= absl::StrContains(finding.what, GetParam().reason);
  }
  EXPECT_TRUE(named) << report.reason;
}

INSTANTIATE_TEST_SUITE_P(Lies, VerifyLieTest, ::testing::ValuesIn(kLies),
                         [](const auto& info) { return info.param.name; });

TEST(VerifyTest, ATokenIsSpentOnce) {
  const VerifyReport report = VerifyEdited([](Records& records) {
    for (const char* name : {"ada", "bob"}) {
      v1::JournalRecord record;
      record.mutable_client_enrolled()->set_name(name);
      record.mutable_client_enrolled()->set_token_sha256("t");
      records.push_back(record);
    }
  });
  EXPECT_FALSE(report.ok);
  EXPECT_TRUE(absl::StrContains(report.reason, "token")) << report.reason;
}

}  // namespace
}  // namespace choir::audit
