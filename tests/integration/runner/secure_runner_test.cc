// Secure rounds through the runner: real sessions, in-process clients.
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "coordinator/aggregate/group_rule.h"
#include "coordinator/runner/secure_round.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/runner/secure_runner_fixture.h"

namespace choir::runner {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

TEST_F(SecureRunnerTest, TheJobEqualsThePlainOneBitForBit) {
  config::JobOptions job = Job(3, 5, 5);
  job.evaluation.every = 1;
  auto fleet = Fleet(job);
  const absl::Status ran = fleet->Run();
  ASSERT_TRUE(ran.ok()) << ran;
  const std::vector<v1::RoundCommitted> secure = Committed(*fleet);
  ASSERT_THAT(secure, SizeIs(3));

  job.secure_aggregation.enabled = false;
  const auto plain_store =
      *store::Store::Open(base::JoinPath(folder_.path(), "plain"),
                          base::Durability::kProcessCrash, clock_);
  FakeFleet plain(Names(5), *plain_store, clock_);
  ASSERT_TRUE(plain.Start(job).ok());
  ASSERT_TRUE(plain.Run().ok());
  size_t round = 0;
  for (const v1::JournalRecord& record : plain.records()) {
    if (!record.has_round_committed()) continue;
    const v1::RoundCommitted& open = record.round_committed();
    EXPECT_EQ(secure[round].aggregate().digest(), open.aggregate().digest());
    EXPECT_EQ(secure[round].adapter().digest(), open.adapter().digest());
    EXPECT_EQ(secure[round].total_weight(), open.total_weight());
    EXPECT_EQ(secure[round].survivors_size(), open.survivors_size());
    EXPECT_NEAR(secure[round].mean_train_loss(), 2.0, 1e-3);
    EXPECT_GT(secure[round].rounding_error_l2(), 0.0);
    EXPECT_LT(secure[round].rounding_error_l2(), 1e-4);
    ++round;
  }
  EXPECT_EQ(round, 3u);
  EXPECT_EQ(MaskedBlobs(), 0);
}

TEST_F(SecureRunnerTest, DropoutsInEveryPhaseLeaveTheExactSumOfTheSurvivors) {
  for (const absl::string_view phase :
       {engine::kAdvertiseKeys, engine::kShareKeys, engine::kMaskedInput,
        engine::kConfirm, engine::kUnmask}) {
    config::JobOptions job = Job(1, 6, 5);
    job.name = absl::StrCat("job-", phase);
    base::ThreadPool pool(2);
    auto fleet = Fleet(job, &pool);
    fleet->vanishes = [&](const std::string& client, const v1::TaskKey&,
                          absl::string_view its_phase) {
      return client == "c102" && its_phase == phase;
    };
    const absl::Status ran = fleet->Run();
    ASSERT_TRUE(ran.ok()) << phase << ": " << ran;
    const std::vector<v1::RoundCommitted> rounds = Committed(*fleet);
    ASSERT_THAT(rounds, SizeIs(1));
    EXPECT_EQ(rounds[0].attempt(), 1u);
    const bool masked_before =
        phase == engine::kConfirm || phase == engine::kUnmask;
    EXPECT_THAT(rounds[0].survivors(), SizeIs(masked_before ? 6 : 5));
    EXPECT_EQ(Aggregate(rounds[0]),
              fleet->PlainSum(1, SurvivorsOf(rounds[0])).Encode());
    std::vector<std::string> dropped;
    for (const v1::JournalRecord& record : fleet->records()) {
      if (!record.has_secure_phase_closed()) continue;
      for (const std::string& client : record.secure_phase_closed().dropped()) {
        dropped.push_back(
            absl::StrCat(record.secure_phase_closed().phase(), client));
      }
    }
    EXPECT_THAT(dropped, ElementsAre(absl::StrCat(phase, "c102")));
    EXPECT_EQ(MaskedBlobs(), 0);
  }
}

TEST_F(SecureRunnerTest, TooFewSurvivorsBeginAgainWithAnotherSession) {
  auto fleet = Fleet(Job(1, 6, 5));
  fleet->vanishes = [](const std::string& client, const v1::TaskKey& key,
                       absl::string_view phase) {
    return key.attempt() == 1 && client >= "c103" &&
           phase == engine::kMaskedInput;
  };
  const absl::Status ran = fleet->Run();
  ASSERT_TRUE(ran.ok()) << ran;
  const std::vector<v1::RoundCommitted> rounds = Committed(*fleet);
  ASSERT_THAT(rounds, SizeIs(1));
  EXPECT_EQ(rounds[0].attempt(), 2u);
  EXPECT_THAT(rounds[0].survivors(), SizeIs(6));
  EXPECT_EQ(Aggregate(rounds[0]),
            fleet->PlainSum(1, SurvivorsOf(rounds[0])).Encode());
}

TEST_F(SecureRunnerTest, GroupsAreSummedByThemselvesAndCombinedRobustly) {
  config::JobOptions job = Job(1, 12, 12);
  job.secure_aggregation.group_size = 4;
  job.secure_aggregation.group_rule = config::GroupRule::kMedian;
  auto fleet = Fleet(job);
  const absl::Status ran = fleet->Run();
  ASSERT_TRUE(ran.ok()) << ran;
  const v1::RoundCommitted round = Committed(*fleet).at(0);
  ASSERT_THAT(round.group_aggregates(), SizeIs(3));
  const std::vector<aggregate::IntegerSum> groups = PlainGroups(*fleet, 1);
  ASSERT_THAT(groups, SizeIs(3));
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(*store_->blobs().Read(round.group_aggregates(i).digest()),
              groups[i].Encode());
  }
  EXPECT_EQ(
      Aggregate(round),
      aggregate::CombineGroups(config::GroupRule::kMedian, groups)->Encode());
}

TEST_F(SecureRunnerTest, ALostGroupCostsItsOwnMembersOnly) {
  config::JobOptions job = Job(1, 16, 12);
  job.secure_aggregation.group_size = 4;
  job.secure_aggregation.group_rule = config::GroupRule::kMean;
  auto fleet = Fleet(job);
  fleet->vanishes = [&](const std::string& client, const v1::TaskKey&,
                        absl::string_view phase) {
    if (phase != engine::kMaskedInput) return false;
    for (const v1::JournalRecord& record : fleet->records()) {
      for (const auto& one : record.secure_phase_closed().clients()) {
        if (one.client() == client && one.group() == 2) return true;
      }
    }
    return false;
  };
  const absl::Status ran = fleet->Run();
  ASSERT_TRUE(ran.ok()) << ran;
  const v1::RoundCommitted round = Committed(*fleet).at(0);
  EXPECT_EQ(round.attempt(), 1u);
  EXPECT_THAT(round.survivors(), SizeIs(12));
  EXPECT_EQ(Aggregate(round), fleet->PlainSum(1, SurvivorsOf(round)).Encode());
}

TEST_F(SecureRunnerTest, RepeatedMessagesChangeNothing) {
  auto fleet = Fleet(Job(1, 5, 5));
  fleet->times = 3;
  const absl::Status ran = fleet->Run();
  ASSERT_TRUE(ran.ok()) << ran;
  const v1::RoundCommitted round = Committed(*fleet).at(0);
  EXPECT_EQ(Aggregate(round), fleet->PlainSum(1, SurvivorsOf(round)).Encode());
  EXPECT_EQ(MaskedBlobs(), 0);
}

// Everything below `root`, whole.
std::string AllBytes(const std::string& root) {
  std::string bytes;
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(root)) {
    if (!entry.is_regular_file()) continue;
    bytes += *base::ReadFile(entry.path().string(), 1 << 28);
    bytes += '\n';
  }
  return bytes;
}

TEST_F(SecureRunnerTest, NothingSecretIsEverWritten) {
  config::JobOptions job = Job(2, 6, 5);
  job.secure_aggregation.phase_deadline = absl::Seconds(5);
  auto fleet = Fleet(job);
  fleet->vanishes = [](const std::string& client, const v1::TaskKey& key,
                       absl::string_view phase) {
    return client == "c104" && key.round() == 1 &&
           phase == engine::kMaskedInput;
  };
  // Looked for while the round goes on as well as afterwards.
  std::string everything;
  const std::string root = store_->root();
  std::string session;
  while (!fleet->runner().finished()) {
    ASSERT_TRUE(fleet->Turn().ok());
    everything += AllBytes(root);
  }
  for (const v1::JournalRecord& record : fleet->records()) {
    if (record.has_round_started()) {
      session = record.round_started().secure_session().session_id();
    }
  }
  fleet->StopRunner();
  ASSERT_TRUE(store_->Close().ok());
  everything += AllBytes(root);
  EXPECT_TRUE(absl::StrContains(everything, session))
      << "the search finds what is there";
  ASSERT_GT(fleet->secrets().size(), 100u);
  for (const std::string& secret : fleet->secrets()) {
    ASSERT_GE(secret.size(), 16u);
    ASSERT_FALSE(absl::StrContains(everything, secret.substr(0, 16)));
    ASSERT_FALSE(absl::StrContains(everything, absl::BytesToHexString(secret)));
  }
}

TEST_F(SecureRunnerTest, JobsThatCannotWorkAreRefusedNamingTheWayOut) {
  config::JobOptions job = Job(1, 24, 12);
  EXPECT_THAT(std::string(CheckSecureJob(job).message()),
              HasSubstr("fewer than 17"));
  job.rounds.min_survivors = 17;
  EXPECT_TRUE(CheckSecureJob(job).ok()) << CheckSecureJob(job);
  job.rounds.min_survivors = 16;
  EXPECT_FALSE(CheckSecureJob(job).ok());
  job.secure_aggregation.enabled = false;
  EXPECT_TRUE(CheckSecureJob(job).ok());
}

// A tenth of five is one, and with two of five gone too few shares are left:
// whether the five are the cohort, a group, or the fewest that may be drawn.
TEST_F(SecureRunnerTest, JobsWithoutParametersAreRefusedHoweverTheyAreDrawn) {
  config::JobOptions job = Job(1, 5, 5);
  job.secure_aggregation.dropout_fraction = 0.4;
  const auto refused = [](const config::JobOptions& its,
                          const std::string& whom) {
    const absl::Status status = CheckSecureJob(its);
    ASSERT_FALSE(status.ok()) << whom;
    EXPECT_THAT(
        std::string(status.message()),
        HasSubstr("'job.secure_aggregation' has no parameters for " + whom));
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("4 of 5 shares must be needed, and only 3 are "
                          "certain to be left; take a larger cohort"));
  };
  refused(job, "a cohort of 5 clients: ");
  job.rounds.selection = config::Selection::kPoisson;
  refused(job,
          "a cohort of 5 clients, which 'job.rounds.min_survivors' allows: ");
  job.rounds.min_survivors = 8;
  EXPECT_TRUE(CheckSecureJob(job).ok()) << CheckSecureJob(job);
  job.secure_aggregation.group_size = 5;
  refused(job, "groups of 5 clients: ");
  job.rounds.selection = config::Selection::kUniform;
  job.rounds.cohort_size = 15;
  refused(job, "groups of 5 clients: ");
  job.rounds.cohort_size = 16;
  job.secure_aggregation.group_size = 8;
  EXPECT_TRUE(CheckSecureJob(job).ok()) << CheckSecureJob(job);
}

TEST_F(SecureRunnerTest, JobsWithoutAModulusAreRefusedHoweverTheyAreDrawn) {
  config::JobOptions job = Job(1, 8, 8);
  job.aggregation.max_examples_per_client = 1000000000;
  for (const auto selection :
       {config::Selection::kUniform, config::Selection::kPoisson}) {
    job.rounds.selection = selection;
    job.rounds.cohort_size = selection == config::Selection::kUniform ? 8 : 0;
    job.secure_aggregation.value_bits = 32;
    EXPECT_EQ(CheckSecureJob(job).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(CheckSecureJob(job).message()), HasSubstr("64"));
    job.secure_aggregation.value_bits = 30;
    EXPECT_TRUE(CheckSecureJob(job).ok()) << CheckSecureJob(job);
  }
}

}  // namespace
}  // namespace choir::runner
