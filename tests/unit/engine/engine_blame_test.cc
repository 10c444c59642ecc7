// Clients that leave a session because of another's keys, and name it.
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/property/engine/fake_world.h"

namespace choir::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class EngineBlameTest : public ::testing::Test {
 protected:
  // 10 clients, of whom one may collude: two have to say it.
  static config::JobOptions Job() {
    config::JobOptions options = TestJob(1, 10);
    options.evaluation.every = 0;
    options.rounds.min_survivors = 8;
    options.rounds.min_available = 10;
    options.secure_aggregation.enabled = true;
    options.secure_aggregation.min_clients = 3;
    options.secure_aggregation.corrupt_fraction = 0.1;
    options.secure_aggregation.dropout_fraction = 0.2;
    return options;
  }
  static std::vector<std::string> Clients() { return ClientNames(10); }

  // The keys of all are advertised.
  static v1::TaskKey Begin(FakeWorld& world) {
    world.ArriveAll(Clients());
    for (const std::string& client : Clients()) {
      EXPECT_TRUE(world.DoSecure(client)) << client;
    }
    return world.journal().back().secure_phase_closed().key();
  }

  static std::vector<v1::ClientBlamed> Blamed(const FakeWorld& world) {
    std::vector<v1::ClientBlamed> blamed;
    for (const v1::JournalRecord& record : world.journal()) {
      if (record.has_client_blamed()) blamed.push_back(record.client_blamed());
    }
    return blamed;
  }
  // The cohorts of all attempts.
  static std::vector<std::vector<std::string>> Cohorts(const FakeWorld& world) {
    std::vector<std::vector<std::string>> cohorts;
    for (const v1::JournalRecord& record : world.journal()) {
      if (!record.has_round_started()) continue;
      const auto& cohort = record.round_started().cohort();
      cohorts.emplace_back(cohort.begin(), cohort.end());
    }
    return cohorts;
  }
};

TEST_F(EngineBlameTest, WhomEnoughNameIsLeftOutOfTheNextAttempt) {
  FakeWorld world(Job());
  const v1::TaskKey key = Begin(world);
  world.Post(SecureRefused{"c101", key, "seen before", {"c105"}});
  EXPECT_THAT(Blamed(world), IsEmpty()) << "one alone is not believed";
  world.Post(SecureRefused{"c102", key, "seen before", {"c105"}});
  ASSERT_THAT(Blamed(world), SizeIs(1));
  EXPECT_EQ(Blamed(world)[0].client(), "c105");
  EXPECT_EQ(Blamed(world)[0].key().attempt(), 1u);
  EXPECT_THAT(Blamed(world)[0].accusers(), ElementsAre("c101", "c102"));
  world.Post(SecureRefused{"c103", key, "seen before", {"c105"}});
  EXPECT_THAT(Blamed(world), SizeIs(1)) << "said once";
  ASSERT_TRUE(world.RunToEnd(Clients()));
  ASSERT_THAT(Cohorts(world), SizeIs(2));
  EXPECT_THAT(Cohorts(world)[1],
              ElementsAre("c100", "c101", "c102", "c103", "c104", "c106",
                          "c107", "c108", "c109"));
  EXPECT_EQ(world.engine().progress().rounds_lost, 1u);
}

TEST_F(EngineBlameTest, OneLiarBlamesNobody) {
  FakeWorld world(Job());
  const v1::TaskKey key = Begin(world);
  // Again and again, itself, strangers, and all others.
  std::vector<std::string> all = Clients();
  all.push_back("stranger");
  all.push_back("c105");
  for (int i = 0; i < 3; ++i) {
    world.Post(SecureRefused{"c101", key, "seen before", all});
  }
  world.Post(SecureRefused{"stranger", key, "seen before", all});
  ASSERT_TRUE(world.RunToEnd(Clients()));
  EXPECT_THAT(Blamed(world), IsEmpty());
  EXPECT_EQ(world.engine().progress().rounds_lost, 0u);
  for (const v1::JournalRecord& record : world.journal()) {
    if (record.has_client_lost()) {
      EXPECT_THAT(record.client_lost().accused(), SizeIs(9))
          << "each once, without itself and strangers";
    }
    if (record.update_refused().client() == "stranger") {
      EXPECT_THAT(record.update_refused().accused(), IsEmpty());
    }
  }
}

// The round cannot go on before enough have spoken; the others speak later.
TEST_F(EngineBlameTest, WordsThatComeAfterTheAttemptIsLostCount) {
  config::JobOptions options = Job();
  options.secure_aggregation.corrupt_fraction = 0.4;  // five have to say it
  options.secure_aggregation.dropout_fraction = 0.2;
  FakeWorld world(options);
  const v1::TaskKey key = Begin(world);
  for (const char* client : {"c101", "c102", "c103"}) {
    world.Post(SecureRefused{client, key, "seen before", {"c105"}});
  }
  ASSERT_EQ(world.engine().progress().rounds_lost, 1u);
  EXPECT_THAT(Blamed(world), IsEmpty());
  for (const char* client : {"c104", "c104", "c104"}) {
    world.Post(SecureRefused{client, key, "seen before", {"c105"}});
  }
  EXPECT_THAT(Blamed(world), IsEmpty()) << "each counts once";
  world.Post(SecureRefused{"c106", key, "seen before", {"c105"}});
  ASSERT_THAT(Blamed(world), SizeIs(1));
  EXPECT_THAT(Blamed(world)[0].accusers(),
              ElementsAre("c101", "c102", "c103", "c104", "c106"));
  ASSERT_TRUE(world.RunToEnd(Clients()));
  ASSERT_THAT(Cohorts(world), SizeIs(2));
  EXPECT_THAT(Cohorts(world)[1], SizeIs(9));
}

TEST_F(EngineBlameTest, WordsOfAnEarlierAttemptDoNotAddUpWithLaterOnes) {
  FakeWorld world(Job());
  const v1::TaskKey first = Begin(world);
  world.Post(SecureRefused{"c101", first, "seen before", {"c105"}});
  for (const char* client : {"c102", "c103"}) {
    world.Post(SecureRefused{client, first, "for another reason"});
  }
  ASSERT_EQ(world.engine().progress().rounds_lost, 1u);
  const v1::TaskKey second = Begin(world);
  ASSERT_EQ(second.attempt(), 2u);
  world.Post(SecureRefused{"c102", first, "seen before", {"c105"}});
  world.Post(SecureRefused{"c103", second, "seen before", {"c105"}});
  ASSERT_TRUE(world.RunToEnd(Clients()));
  EXPECT_THAT(Blamed(world), IsEmpty());
}

TEST_F(EngineBlameTest, GroupsDoNotNameEachOther) {
  config::JobOptions options = Job();
  options.rounds.min_survivors = 6;
  options.secure_aggregation.group_size = 5;
  FakeWorld world(options);
  const v1::TaskKey key = Begin(world);
  const v1::SecurePhaseClosed closed =
      world.journal().back().secure_phase_closed();
  ASSERT_THAT(closed.groups(), SizeIs(2));
  const std::string victim = closed.clients(0).client();
  int said = 0;
  for (const auto& client : closed.clients()) {
    if (client.group() == closed.clients(0).group() || said == 2) continue;
    world.Post(SecureRefused{client.client(), key, "seen before", {victim}});
    ++said;
  }
  ASSERT_EQ(said, 2);
  ASSERT_TRUE(world.RunToEnd(Clients()));
  EXPECT_THAT(Blamed(world), IsEmpty());
}

// Wherever the coordinator is killed, who was blamed stays blamed, and words
// that were journaled count.
TEST_F(EngineBlameTest, ARestartForgetsNobody) {
  FakeWorld first(Job());
  const v1::TaskKey key = Begin(first);
  for (const char* client : {"c101", "c102", "c103"}) {
    first.Post(SecureRefused{client, key, "seen before", {"c105"}});
  }
  ASSERT_EQ(first.engine().progress().rounds_lost, 1u);
  const std::vector<v1::JournalRecord>& journal = first.journal();
  size_t named = 0;
  for (size_t keep = 0; keep < journal.size(); ++keep) {
    named += journal[keep].client_lost().accused_size() > 0 ? 1 : 0;
    if (named < 2) continue;
    FakeWorld again(Job(), {journal.begin(), journal.begin() + keep + 1});
    ASSERT_TRUE(again.RunToEnd(Clients())) << keep;
    EXPECT_THAT(Blamed(again), SizeIs(1)) << keep;
    EXPECT_EQ(Cohorts(again).back().size(), 9u) << keep;
    EXPECT_EQ(StoryFault(again.journal()), "");
  }
  EXPECT_GE(named, 2u);
}

// As those who can be in no session.
TEST_F(EngineBlameTest, WhoIsUnfitLeavesBeforeGroupsAreFormed) {
  FakeWorld world(Job());
  world.unfit = "c104";
  world.ArriveAll(Clients());
  for (const std::string& client : Clients()) {
    ASSERT_TRUE(world.DoSecure(client)) << client;
  }
  const v1::SecurePhaseClosed& closed =
      world.journal().back().secure_phase_closed();
  EXPECT_EQ(closed.phase(), kAdvertiseKeys);
  EXPECT_THAT(closed.clients(), SizeIs(9));
  EXPECT_THAT(closed.dropped(), IsEmpty());
  EXPECT_EQ(closed.groups(0).clients(), 9u);
  const v1::ClientLost& lost =
      world.journal()[world.journal().size() - 2].client_lost();
  EXPECT_EQ(lost.client(), "c104");
  EXPECT_EQ(lost.reason(), "expired");
  ASSERT_TRUE(world.RunToEnd(Clients()));
  EXPECT_EQ(world.engine().progress().rounds_lost, 0u);
  EXPECT_EQ(StoryFault(world.journal()), "");
}

}  // namespace
}  // namespace choir::engine
