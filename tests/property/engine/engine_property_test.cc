// What holds for every schedule of arrivals, losses, repetitions and crashes.
#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/sim_random.h"
#include "gtest/gtest.h"
#include "tests/property/engine/fake_world.h"

namespace choir::engine {
namespace {

// Every client takes part in every round, and a round that misses one is lost:
// the adapters then depend on nothing but the job.
config::JobOptions Everybody(int rounds, int clients) {
  config::JobOptions options = TestJob(rounds, clients);
  options.rounds.max_lost_in_a_row = 1000000;
  options.evaluation.every = 2;
  return options;
}

std::vector<std::string> ReferenceAdapters(const config::JobOptions& options,
                                           int clients) {
  FakeWorld world(options);
  EXPECT_TRUE(world.RunToEnd(ClientNames(clients)));
  return CommittedAdapters(world.journal());
}

TEST(EnginePropertyTest, AnyScheduleCommitsTheSameAdapters) {
  constexpr int kClients = 4;
  const config::JobOptions options = Everybody(5, kClients);
  const std::vector<std::string> clients = ClientNames(kClients);
  const std::vector<std::string> expected =
      ReferenceAdapters(options, kClients);
  ASSERT_EQ(expected.size(), 5u);
  int lost = 0;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    base::SimRandom random(seed);
    FakeWorld world(options);
    world.manual_aggregation = seed % 2 == 0;
    for (int step = 0; step < 400 && !world.finished(); ++step) {
      world.RandomStep(clients, random);
    }
    world.manual_aggregation = false;
    ASSERT_TRUE(world.RunToEnd(clients)) << "seed " << seed;
    ASSERT_EQ(StoryFault(world.journal()), "") << "seed " << seed;
    ASSERT_EQ(CommittedAdapters(world.journal()), expected) << "seed " << seed;
    lost += static_cast<int>(world.engine().progress().rounds_lost);
  }
  EXPECT_GT(lost, 100) << "the schedules are too tame to show anything";
}

TEST(EnginePropertyTest, ShuffledArrivalsAndReportsGiveTheSameAdapters) {
  constexpr int kClients = 7;
  const config::JobOptions options = Everybody(3, kClients);
  const std::vector<std::string> expected =
      ReferenceAdapters(options, kClients);
  for (uint64_t seed = 0; seed < 50; ++seed) {
    base::SimRandom random(seed);
    FakeWorld world(options);
    std::vector<std::string> order = ClientNames(kClients);
    for (int turn = 0; turn < 100 && !world.finished(); ++turn) {
      random.Shuffle(order);
      for (const std::string& client : order) world.Arrive(client);
      random.Shuffle(order);
      for (const std::string& client : order) world.DoTask(client);
    }
    ASSERT_TRUE(world.finished()) << "seed " << seed;
    ASSERT_EQ(CommittedAdapters(world.journal()), expected) << "seed " << seed;
  }
}

TEST(EnginePropertyTest, EveryPrefixOfAJournalCanBeFinished) {
  constexpr int kClients = 4;
  const config::JobOptions options = Everybody(3, kClients);
  const std::vector<std::string> clients = ClientNames(kClients);
  const std::vector<std::string> expected =
      ReferenceAdapters(options, kClients);
  for (uint64_t seed = 0; seed < 12; ++seed) {
    base::SimRandom random(seed);
    FakeWorld first(options);
    for (int step = 0; step < 150 && !first.finished(); ++step) {
      first.RandomStep(clients, random);
    }
    for (size_t keep = 0; keep <= first.journal().size(); ++keep) {
      std::vector<v1::JournalRecord> prefix(first.journal().begin(),
                                            first.journal().begin() + keep);
      FakeWorld second(options, prefix);
      ASSERT_TRUE(second.RunToEnd(clients)) << seed << " at " << keep;
      ASSERT_EQ(StoryFault(second.journal()), "") << seed << " at " << keep;
      ASSERT_EQ(CommittedAdapters(second.journal()), expected)
          << seed << " at " << keep;
    }
  }
}

TEST(EnginePropertyTest, PartialCohortsTellAPossibleStory) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    config::JobOptions options = TestJob(6, 4);
    options.seed = seed;
    options.rounds.max_lost_in_a_row = 1000000;
    options.rounds.min_survivors = 2;
    options.rounds.over_selection = 1.5;
    options.evaluation.cohort_size = 3;
    if (seed % 2 == 1) {
      options.rounds.selection = config::Selection::kPoisson;
      options.rounds.sampling_rate = 0.4;
      options.rounds.min_survivors = 1;
      options.rounds.min_available = 5;
    }
    const std::vector<std::string> clients = ClientNames(10);
    base::SimRandom random(seed);
    FakeWorld world(options);
    for (int step = 0; step < 500 && !world.finished(); ++step) {
      world.RandomStep(clients, random);
      ASSERT_EQ(StoryFault(world.journal()), "") << "seed " << seed;
    }
    ASSERT_TRUE(world.RunToEnd(clients)) << "seed " << seed;
    ASSERT_EQ(StoryFault(world.journal()), "") << "seed " << seed;
    ASSERT_EQ(CommittedAdapters(world.journal()).size(), 6u);
    ASSERT_EQ(world.engine().progress().result.state(), v1::JobFinished::DONE);
  }
}

config::JobOptions SecretSums(uint64_t seed) {
  config::JobOptions options = TestJob(4, 8);
  options.seed = seed;
  options.rounds.max_lost_in_a_row = 1000000;
  options.rounds.min_survivors = 5;
  options.rounds.over_selection = 1.25;
  options.rounds.min_available = 10;
  options.evaluation.every = 2;
  options.secure_aggregation.enabled = true;
  options.secure_aggregation.min_clients = 3;
  if (seed % 3 == 1) {
    options.secure_aggregation.adversary = config::SecureAdversary::kCurious;
  }
  if (seed % 4 == 2) {
    options.secure_aggregation.group_size = 4;
    options.secure_aggregation.group_rule = config::GroupRule::kMean;
  }
  return options;
}

TEST(EnginePropertyTest, SecretSumsSurviveStormsOfDropouts) {
  const std::vector<std::string> clients = ClientNames(12);
  int lost = 0;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    base::SimRandom random(seed);
    FakeWorld world(SecretSums(seed));
    world.session_minimum = 3;
    for (int step = 0; step < 600 && !world.finished(); ++step) {
      world.RandomStep(clients, random);
      ASSERT_EQ(StoryFault(world.journal()), "") << "seed " << seed;
    }
    ASSERT_TRUE(world.RunToEnd(clients)) << "seed " << seed;
    ASSERT_EQ(StoryFault(world.journal()), "") << "seed " << seed;
    ASSERT_EQ(CommittedAdapters(world.journal()).size(), 4u);
    std::set<std::string> sessions;
    for (const v1::JournalRecord& record : world.journal()) {
      if (!record.has_round_started()) continue;
      ASSERT_TRUE(
          sessions.insert(record.round_started().secure_session().session_id())
              .second)
          << "a session began twice";
    }
    lost += static_cast<int>(world.engine().progress().rounds_lost);
  }
  EXPECT_GT(lost, 100) << "the storms are too tame to show anything";
}

TEST(EnginePropertyTest, EveryPrefixOfASecureJournalCanBeFinished) {
  const std::vector<std::string> clients = ClientNames(12);
  for (uint64_t seed = 0; seed < 12; ++seed) {
    const config::JobOptions options = SecretSums(seed);
    base::SimRandom random(seed);
    FakeWorld first(options);
    for (int step = 0; step < 300 && !first.finished(); ++step) {
      first.RandomStep(clients, random);
    }
    for (size_t keep = 0; keep <= first.journal().size(); ++keep) {
      std::vector<v1::JournalRecord> prefix(first.journal().begin(),
                                            first.journal().begin() + keep);
      const bool in_secure_phase =
          !prefix.empty() && prefix.back().has_secure_phase_closed();
      FakeWorld second(options, prefix);
      if (in_secure_phase) {
        ASSERT_TRUE(second.journal().size() > keep &&
                    second.journal()[keep].has_round_lost())
            << seed << " at " << keep;
      }
      ASSERT_TRUE(second.RunToEnd(clients)) << seed << " at " << keep;
      ASSERT_EQ(StoryFault(second.journal()), "") << seed << " at " << keep;
    }
  }
}

TEST(EnginePropertyTest, AReplayedEngineIsInTheSameState) {
  const config::JobOptions options = Everybody(3, 3);
  const std::vector<std::string> clients = ClientNames(3);
  for (uint64_t seed = 0; seed < 40; ++seed) {
    base::SimRandom random(seed);
    FakeWorld world(options);
    for (int step = 0; step < 60; ++step) world.RandomStep(clients, random);
    Engine replayed(options, TestFacts(options));
    for (const v1::JournalRecord& record : world.journal()) {
      ASSERT_TRUE(replayed.Replay(record).ok());
    }
    const Progress a = world.engine().progress();
    const Progress b = replayed.progress();
    EXPECT_EQ(a.rounds_committed, b.rounds_committed);
    EXPECT_EQ(a.rounds_lost, b.rounds_lost);
    EXPECT_EQ(a.adapter.digest(), b.adapter.digest());
    EXPECT_EQ(a.bytes_up, b.bytes_up);
    EXPECT_EQ(a.bytes_down, b.bytes_down);
    EXPECT_EQ(a.finished, b.finished);
    EXPECT_EQ(world.engine().updates_in_use().size(),
              replayed.updates_in_use().size());
  }
}

TEST(EnginePropertyTest, AJournalWithARecordMissingIsNotAccepted) {
  const config::JobOptions options = Everybody(2, 3);
  FakeWorld world(options);
  ASSERT_TRUE(world.RunToEnd(ClientNames(3)));
  const std::vector<v1::JournalRecord>& journal = world.journal();
  for (size_t missing = 0; missing + 1 < journal.size(); ++missing) {
    Engine engine(options, TestFacts(options));
    absl::Status status;
    for (size_t i = 0; i < journal.size() && status.ok(); ++i) {
      if (i != missing) status = engine.Replay(journal[i]);
    }
    EXPECT_TRUE(absl::IsDataLoss(status))
        << missing << ": " << journal[missing].ShortDebugString();
  }
}

}  // namespace
}  // namespace choir::engine
