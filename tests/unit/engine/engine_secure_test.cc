// Rounds that are summed in secret: phases, deadlines, groups, lost attempts.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/property/engine/fake_world.h"

namespace choir::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

config::JobOptions SecureJob(int rounds, int cohort_size, int min_survivors) {
  config::JobOptions options = TestJob(rounds, cohort_size);
  options.evaluation.every = 0;
  options.rounds.min_survivors = min_survivors;
  options.secure_aggregation.enabled = true;
  options.secure_aggregation.min_clients = 3;
  return options;
}

std::vector<std::string> Phases(const FakeWorld& world) {
  std::vector<std::string> phases;
  for (const v1::JournalRecord& record : world.journal()) {
    if (record.has_secure_phase_closed()) {
      phases.push_back(record.secure_phase_closed().phase());
    }
  }
  return phases;
}

const v1::JournalRecord& Last(const FakeWorld& world) {
  return world.journal().back();
}

void EachSpeaks(FakeWorld& world, const std::vector<std::string>& clients) {
  for (const std::string& client : clients) {
    ASSERT_TRUE(world.DoSecure(client)) << client;
  }
}

TEST(EngineSecureTest, ARoundGoesThroughThePhasesInOrder) {
  FakeWorld world(SecureJob(1, 4, 4));
  const std::vector<std::string> clients = ClientNames(4);
  world.ArriveAll(clients);
  ASSERT_TRUE(Last(world).round_started().has_secure_session());
  EXPECT_EQ(Last(world).round_started().secure_session().max_clients(), 4u);
  const v1::TaskPlan plan = world.tasks().at(clients[0]);
  EXPECT_TRUE(plan.has_secure_session());
  EXPECT_EQ(plan.secure_aggregation().min_clients(), 3u);
  EXPECT_EQ(world.engine().secure_session()->session_id(),
            plan.secure_session().session_id());
  for (int phase = 0; phase < 5; ++phase) {
    EXPECT_FALSE(world.finished());
    EachSpeaks(world, clients);
  }
  EXPECT_THAT(Phases(world), ElementsAre("advertise_keys", "share_keys",
                                         "masked_input", "confirm", "unmask"));
  ASSERT_TRUE(world.finished());
  const v1::RoundCommitted& committed =
      world.journal()[world.journal().size() - 2].round_committed();
  EXPECT_THAT(committed.survivors(), SizeIs(4));
  EXPECT_EQ(committed.bytes_up(), 5u * 4u * 100u);
  EXPECT_EQ(committed.bytes_down(), 4u * 5u);
  EXPECT_EQ(committed.secure_session().session_id(),
            plan.secure_session().session_id());
  EXPECT_EQ(world.engine().secure_session(), nullptr);
}

TEST(EngineSecureTest, ACuriousCoordinatorNeedsNoConfirmation) {
  config::JobOptions options = SecureJob(1, 3, 3);
  options.secure_aggregation.adversary = config::SecureAdversary::kCurious;
  FakeWorld world(options);
  ASSERT_TRUE(world.RunToEnd(ClientNames(3)));
  EXPECT_THAT(Phases(world), ElementsAre("advertise_keys", "share_keys",
                                         "masked_input", "unmask"));
}

// Devices may decline to evaluate, which no mask protects.
TEST(EngineSecureTest, AJobGoesOnWhoeverDeclinesToEvaluate) {
  for (const size_t evaluators : {0u, 1u}) {
    config::JobOptions options = SecureJob(2, 3, 3);
    options.evaluation.every = 1;
    FakeWorld world(options);
    const std::vector<std::string> clients = ClientNames(3);
    for (uint32_t version = 0; version <= 2; ++version) {
      world.ArriveAll(clients);
      ASSERT_TRUE(Last(world).has_evaluation_started()) << version;
      for (size_t i = 0; i < clients.size(); ++i) {
        if (i < evaluators) {
          ASSERT_TRUE(world.DoTask(clients[i]));
          continue;
        }
        const v1::TaskKey key = world.tasks().at(clients[i]).key();
        ASSERT_EQ(key.kind(), v1::TASK_KIND_EVALUATE);
        const v1::ReportResponse answer =
            world.Post(TaskFailed{clients[i], key, "does not evaluate"});
        EXPECT_EQ(answer.verdict(), v1::ReportResponse::ACCEPTED);
      }
      if (version == 2) break;
      world.ArriveAll(clients);
      for (int phase = 0; phase < 5; ++phase) EachSpeaks(world, clients);
      ASSERT_TRUE(Last(world).has_round_committed()) << version;
    }
    ASSERT_TRUE(world.finished());
    EXPECT_EQ(world.engine().progress().result.state(), v1::JobFinished::DONE);
    // No deadline had to pass.
    EXPECT_EQ(world.now(), absl::UnixEpoch());
    int finished = 0;
    int declined = 0;
    for (const v1::JournalRecord& record : world.journal()) {
      if (record.has_client_lost()) {
        EXPECT_EQ(record.client_lost().reason(), "does not evaluate");
        ++declined;
      }
      if (!record.has_evaluation_finished()) continue;
      ++finished;
      EXPECT_EQ(record.evaluation_finished().clients(), evaluators);
      EXPECT_EQ(record.evaluation_finished().tokens(), 10 * evaluators);
    }
    EXPECT_EQ(finished, 3);
    EXPECT_EQ(declined, static_cast<int>(3 * (3 - evaluators)));
    EXPECT_EQ(std::isnan(world.engine().progress().heldout_loss),
              evaluators == 0);
  }
}

TEST(EngineSecureTest, TheRecordSaysWhoAnsweredAndWhoDidNot) {
  FakeWorld world(SecureJob(1, 4, 3));
  const std::vector<std::string> clients = ClientNames(4);
  world.ArriveAll(clients);
  EachSpeaks(world, clients);
  EachSpeaks(world, {"c100", "c101", "c103"});
  EXPECT_EQ(world.engine().progress().waiting_for,
            "phase share_keys: 3 of 4 answers");
  ASSERT_TRUE(world.FireTimer());
  const v1::SecurePhaseClosed& closed = Last(world).secure_phase_closed();
  EXPECT_EQ(closed.phase(), "share_keys");
  EXPECT_THAT(closed.clients(), SizeIs(3));
  EXPECT_EQ(closed.clients(0).bytes(), 100u);
  EXPECT_THAT(closed.dropped(), ElementsAre("c102"));
  EXPECT_EQ(closed.seconds(), 60.0);
  EXPECT_EQ(world.now(), absl::UnixEpoch() + absl::Seconds(60));
  EXPECT_FALSE(world.engine().WantsSecure("c102", closed.key()));
  EXPECT_TRUE(world.engine().WantsSecure("c100", closed.key()));
}

TEST(EngineSecureTest, WhoDropsOutAfterMaskingIsStillInTheSum) {
  FakeWorld world(SecureJob(1, 4, 3));
  const std::vector<std::string> clients = ClientNames(4);
  world.ArriveAll(clients);
  for (int phase = 0; phase < 3; ++phase) EachSpeaks(world, clients);
  EachSpeaks(world, {"c100", "c101", "c102"});
  ASSERT_TRUE(world.FireTimer());
  EachSpeaks(world, {"c100", "c101", "c102"});
  ASSERT_TRUE(world.finished());
  EXPECT_THAT(
      world.journal()[world.journal().size() - 2].round_committed().survivors(),
      SizeIs(4));
}

TEST(EngineSecureTest, OverSelectionSumsTheFirstAndDropsTheRest) {
  config::JobOptions options = SecureJob(1, 3, 3);
  options.rounds.over_selection = 2.0;
  options.rounds.min_available = 5;
  FakeWorld world(options);
  const std::vector<std::string> clients = ClientNames(5);
  world.ArriveAll(clients);
  EachSpeaks(world, {"c104", "c100", "c102"});
  const v1::SecurePhaseClosed& closed = Last(world).secure_phase_closed();
  EXPECT_THAT(closed.dropped(), ElementsAre("c101", "c103"));
  EXPECT_FALSE(world.engine().WantsSecure("c101", closed.key()));
  EXPECT_EQ(world.told().count("c101"), 0u);
}

TEST(EngineSecureTest, TooFewReadyAtTheDeadlineLosesTheRound) {
  FakeWorld world(SecureJob(1, 4, 3));
  world.ArriveAll(ClientNames(4));
  EachSpeaks(world, {"c100", "c101"});
  EXPECT_EQ(world.engine().progress().waiting_for,
            "2 of 4 clients ready to be summed");
  ASSERT_TRUE(world.FireTimer());
  EXPECT_THAT(Last(world).round_lost().reason(),
              HasSubstr("only 2 of the 3 clients needed were ready"));
  EXPECT_THAT(world.aborted(), SizeIs(1));
  EXPECT_THAT(Phases(world), IsEmpty());
}

TEST(EngineSecureTest, TheDeadlineWithEnoughGoesOnWithThem) {
  FakeWorld world(SecureJob(1, 4, 3));
  world.ArriveAll(ClientNames(4));
  EachSpeaks(world, {"c100", "c101", "c103"});
  ASSERT_TRUE(world.FireTimer());
  EXPECT_THAT(Phases(world), ElementsAre("advertise_keys"));
  EXPECT_EQ(world.timer()->at, world.now() + absl::Seconds(60));
}

TEST(EngineSecureTest, TooFewInAPhaseLosesTheAttemptAndTheNextIsAnother) {
  FakeWorld world(SecureJob(1, 4, 3));
  const std::vector<std::string> clients = ClientNames(4);
  world.ArriveAll(clients);
  const std::string first = world.engine().secure_session()->session_id();
  EachSpeaks(world, clients);
  EachSpeaks(world, {"c100", "c101"});
  ASSERT_TRUE(world.FireTimer());
  EXPECT_THAT(Last(world).round_lost().reason(),
              HasSubstr("before the phase masked_input: only 2 of the 3"));
  EXPECT_THAT(world.aborted(), SizeIs(1));
  world.ArriveAll(clients);
  ASSERT_NE(world.engine().secure_session(), nullptr);
  EXPECT_EQ(world.engine().secure_session()->attempt(), 2u);
  EXPECT_NE(world.engine().secure_session()->session_id(), first);
  ASSERT_TRUE(world.RunToEnd(clients));
}

// Who has cost an attempt its sum is left out of the next ones of this round,
// also after a restart, unless too few would be left; not of the next round.
TEST(EngineSecureTest, WhoIsToBlameIsLeftOutOfTheRoundsNextAttempt) {
  for (const int clients : {5, 3}) {
    FakeWorld world(SecureJob(2, clients, 3));
    const std::vector<std::string> names = ClientNames(clients);
    world.ArriveAll(names);
    world.lose_group_in = "unmask";
    world.blame = "c101";
    for (int phase = 0; phase < 5; ++phase) EachSpeaks(world, names);
    ASSERT_TRUE(Last(world).has_round_lost());
    world.lose_group_in = "";
    world.Crash(world.journal().size());
    world.ArriveAll(names);
    const auto in_cohort = [&] {
      for (auto it = world.journal().rbegin();; ++it) {
        if (!it->has_round_started()) continue;
        const auto& cohort = it->round_started().cohort();
        return std::count(cohort.begin(), cohort.end(), "c101") > 0;
      }
    };
    ASSERT_NE(world.engine().secure_session(), nullptr);
    EXPECT_EQ(world.engine().secure_session()->attempt(), 2u);
    EXPECT_EQ(in_cohort(), clients == 3);
    ASSERT_TRUE(world.RunToEnd(names));
    EXPECT_EQ(world.engine().progress().rounds_lost, 1u);
    EXPECT_TRUE(in_cohort()) << "the second round goes without it";
  }
}

TEST(EngineSecureTest, ARefusalCountsAtOnce) {
  FakeWorld world(SecureJob(1, 4, 3));
  const std::vector<std::string> clients = ClientNames(4);
  world.ArriveAll(clients);
  EachSpeaks(world, clients);
  EachSpeaks(world, {"c100", "c101", "c102"});
  world.Post(SecureRefused{"c103", Last(world).secure_phase_closed().key(),
                           "refused: ROSTER_TOO_SMALL"});
  EXPECT_THAT(Phases(world), ElementsAre("advertise_keys", "share_keys"))
      << "nobody is waited for any more";
  const v1::JournalRecord& lost = world.journal()[world.journal().size() - 2];
  EXPECT_EQ(lost.client_lost().client(), "c103");
  EXPECT_THAT(lost.client_lost().reason(), HasSubstr("ROSTER_TOO_SMALL"));
}

// "client: reason" of each refusal: who was waited for, and who was not.
std::vector<std::string> Lost(const FakeWorld& world) {
  std::vector<std::string> lost;
  for (const v1::JournalRecord& record : world.journal()) {
    if (!record.has_client_lost()) continue;
    lost.push_back(record.client_lost().client() + ": " +
                   record.client_lost().reason());
  }
  return lost;
}
std::vector<std::string> LateRefusals(const FakeWorld& world) {
  std::vector<std::string> late;
  for (const v1::JournalRecord& record : world.journal()) {
    if (!record.has_update_refused()) continue;
    late.push_back(record.update_refused().client() + ": " +
                   record.update_refused().reason());
  }
  return late;
}

TEST(EngineSecureTest, ARefusalInTheLastPhaseIsJournaledBeforeTheSum) {
  FakeWorld world(SecureJob(1, 4, 3));
  const std::vector<std::string> clients = ClientNames(4);
  world.ArriveAll(clients);
  for (int phase = 0; phase < 4; ++phase) EachSpeaks(world, clients);
  const v1::TaskKey key = Last(world).secure_phase_closed().key();
  EachSpeaks(world, {"c100"});
  world.Post(SecureRefused{"c100", key, "asked twice"});
  world.Post(SecureRefused{"c100", key, "asked twice"});
  EXPECT_THAT(Lost(world), IsEmpty()) << "it has answered this phase";
  EachSpeaks(world, {"c101", "c102", "c103"});
  ASSERT_TRUE(world.finished());
  EXPECT_THAT(Lost(world), ElementsAre("c100: asked twice"));
  EXPECT_THAT(LateRefusals(world), IsEmpty());
  EXPECT_THAT(
      world.journal()[world.journal().size() - 2].round_committed().survivors(),
      SizeIs(4));
  EXPECT_EQ(StoryFault(world.journal()), "");
}

TEST(EngineSecureTest, ARefusalIsJournaledThoughTheRoundIsLost) {
  FakeWorld world(SecureJob(1, 4, 3));
  const std::vector<std::string> clients = ClientNames(4);
  world.ArriveAll(clients);
  EachSpeaks(world, clients);
  const v1::TaskKey key = Last(world).secure_phase_closed().key();
  EachSpeaks(world, {"c100", "c101"});
  world.Post(SecureRefused{"c100", key, "asked twice"});
  ASSERT_TRUE(world.FireTimer());
  EXPECT_TRUE(Last(world).has_round_lost());
  EXPECT_THAT(Lost(world), ElementsAre("c100: asked twice"));
}

TEST(EngineSecureTest, ARefusalIsJournaledThoughTheJobIsStopped) {
  FakeWorld world(SecureJob(1, 4, 3));
  const std::vector<std::string> clients = ClientNames(4);
  world.ArriveAll(clients);
  EachSpeaks(world, clients);
  const v1::TaskKey key = Last(world).secure_phase_closed().key();
  EachSpeaks(world, {"c100"});
  world.Post(SecureRefused{"c100", key, "asked twice"});
  world.Post(StopRequested{"enough"});
  ASSERT_TRUE(world.finished());
  EXPECT_THAT(Lost(world), ElementsAre("c100: asked twice"));
  world.Post(SecureRefused{"c101", key, "after the end"});
  EXPECT_TRUE(Last(world).has_job_finished()) << "nothing follows that";
}

TEST(EngineSecureTest, ARefusalIsJournaledThoughTheGroupIsLost) {
  config::JobOptions options = SecureJob(1, 16, 12);
  options.secure_aggregation.group_size = 4;
  FakeWorld world(options);
  const std::vector<std::string> clients = ClientNames(16);
  world.ArriveAll(clients);
  EachSpeaks(world, clients);
  const v1::SecurePhaseClosed& closed = Last(world).secure_phase_closed();
  const v1::TaskKey key = closed.key();
  world.lose_group_in = "share_keys";
  world.lose_group = closed.clients(5).group();
  const std::string member = closed.clients(5).client();
  EachSpeaks(world, {member});
  world.Post(SecureRefused{member, key, "asked twice"});
  for (const std::string& client : clients) {
    if (client != member) EachSpeaks(world, {client});
  }
  EXPECT_THAT(Lost(world), IsEmpty());
  EXPECT_THAT(LateRefusals(world), ElementsAre(member + ": asked twice"));
  ASSERT_TRUE(world.RunToEnd(clients));
  EXPECT_EQ(world.engine().progress().rounds_lost, 0u);
}

// Once for each client and phase, so that nobody fills the journal.
TEST(EngineSecureTest, RefusalsThatComeTooLateAreJournaledAndChangeNothing) {
  FakeWorld world(SecureJob(2, 4, 3));
  const std::vector<std::string> clients = ClientNames(4);
  const std::vector<std::string> others = {"c100", "c101", "c102"};
  world.ArriveAll(clients);
  EachSpeaks(world, clients);
  const v1::TaskKey first = Last(world).secure_phase_closed().key();
  EachSpeaks(world, others);
  ASSERT_TRUE(world.FireTimer());  // c103 is out
  for (int i = 0; i < 3; ++i) {
    world.Post(SecureRefused{"c103", first, "too late"});
  }
  EXPECT_THAT(LateRefusals(world), ElementsAre("c103: too late"));
  for (int phase = 0; phase < 3; ++phase) EachSpeaks(world, others);
  ASSERT_EQ(world.engine().progress().rounds_committed, 1u);
  v1::TaskKey other = first;
  other.set_round(9);
  world.Post(SecureRefused{"c102", other, "of a round to come"});
  other.set_round(1);
  other.set_job("another");
  world.Post(SecureRefused{"c102", other, "of another job"});
  for (int i = 0; i < 3; ++i) {
    world.Post(SecureRefused{"c102", first, "asked again"});
  }
  EXPECT_THAT(LateRefusals(world),
              ElementsAre("c103: too late", "c102: asked again"));
  EXPECT_THAT(Lost(world), IsEmpty());
  world.Crash(world.journal().size());
  ASSERT_TRUE(world.RunToEnd(clients));
  EXPECT_EQ(StoryFault(world.journal()), "");
  EXPECT_EQ(world.engine().progress().rounds_lost, 0u);
}

TEST(EngineSecureTest, WhoAnsweredAndThenVanishedCountsForThisPhaseOnly) {
  FakeWorld world(SecureJob(1, 4, 3));
  const std::vector<std::string> clients = ClientNames(4);
  world.ArriveAll(clients);
  EachSpeaks(world, clients);
  EachSpeaks(world, clients);
  EachSpeaks(world, {"c100"});
  world.Arrive("c100");  // its process was started again
  EXPECT_EQ(world.engine().progress().waiting_for,
            "phase masked_input: 1 of 4 answers");
  EachSpeaks(world, {"c101", "c102", "c103"});
  EXPECT_EQ(Last(world).client_lost().client(), "c100");
  EXPECT_EQ(world.engine().progress().waiting_for,
            "phase confirm: 0 of 3 answers");
  EachSpeaks(world, {"c101", "c102", "c103"});
  EachSpeaks(world, {"c101", "c102", "c103"});
  ASSERT_TRUE(world.finished());
  EXPECT_THAT(
      world.journal()[world.journal().size() - 2].round_committed().survivors(),
      SizeIs(4));
}

TEST(EngineSecureTest, ARestartWhileTrainingGoesOnWithTheSameSession) {
  FakeWorld world(SecureJob(1, 3, 3));
  const std::vector<std::string> clients = ClientNames(3);
  world.ArriveAll(clients);
  const std::string session = world.engine().secure_session()->session_id();
  EachSpeaks(world, {"c100"});
  world.Crash(world.journal().size());
  EXPECT_EQ(world.engine().secure_session()->session_id(), session);
  EXPECT_THAT(world.tasks(), SizeIs(3));
  ASSERT_TRUE(world.RunToEnd(clients));
  EXPECT_EQ(world.engine().progress().rounds_lost, 0u);
}

TEST(EngineSecureTest, ARestartInASecurePhaseAbandonsTheAttempt) {
  const std::vector<std::string> clients = ClientNames(3);
  for (int spoken = 1; spoken <= 4; ++spoken) {
    FakeWorld world(SecureJob(1, 3, 3));
    world.ArriveAll(clients);
    const std::string session = world.engine().secure_session()->session_id();
    for (int phase = 0; phase < spoken; ++phase) EachSpeaks(world, clients);
    world.Crash(world.journal().size());
    EXPECT_THAT(Last(world).round_lost().reason(),
                HasSubstr("the coordinator was restarted in phase"));
    world.ArriveAll(clients);
    ASSERT_NE(world.engine().secure_session(), nullptr);
    EXPECT_NE(world.engine().secure_session()->session_id(), session);
    ASSERT_TRUE(world.RunToEnd(clients));
    EXPECT_EQ(StoryFault(world.journal()), "");
  }
}

TEST(EngineSecureTest, ASumLostInACrashIsBegunAgain) {
  FakeWorld world(SecureJob(1, 3, 3));
  const std::vector<std::string> clients = ClientNames(3);
  world.manual_aggregation = true;
  world.ArriveAll(clients);
  for (int phase = 0; phase < 5; ++phase) EachSpeaks(world, clients);
  EXPECT_EQ(world.engine().progress().waiting_for,
            "the sum of 3 masked updates");
  world.Crash(world.journal().size());
  EXPECT_THAT(Last(world).round_lost().reason(), HasSubstr("in phase sum"));
  world.manual_aggregation = false;
  ASSERT_TRUE(world.RunToEnd(clients));
}

TEST(EngineSecureTest, GroupsAreFormedAndOneMayBeLost) {
  config::JobOptions options = SecureJob(1, 16, 12);
  options.secure_aggregation.group_size = 4;
  options.secure_aggregation.group_rule = config::GroupRule::kMedian;
  FakeWorld world(options);
  world.lose_group_in = "share_keys";
  world.lose_group = 2;
  const std::vector<std::string> clients = ClientNames(16);
  world.ArriveAll(clients);
  EXPECT_EQ(world.engine().secure_session()->max_clients(), 7u);
  EachSpeaks(world, clients);
  const v1::SecurePhaseClosed closed = Last(world).secure_phase_closed();
  ASSERT_THAT(closed.groups(), SizeIs(4));
  EXPECT_EQ(closed.groups(0).group(), 1u);
  EXPECT_EQ(closed.groups(0).clients(), 4u);
  EachSpeaks(world, clients);
  EXPECT_EQ(world.engine().progress().waiting_for,
            "phase masked_input: 0 of 12 answers");
  ASSERT_TRUE(world.RunToEnd(clients));
  EXPECT_EQ(world.engine().progress().rounds_lost, 0u);
  EXPECT_THAT(
      world.journal()[world.journal().size() - 2].round_committed().survivors(),
      SizeIs(12));
}

TEST(EngineSecureTest, FewerGroupsThanTheRuleNeedsLosesTheRound) {
  config::JobOptions options = SecureJob(1, 12, 9);
  options.secure_aggregation.group_size = 4;
  options.secure_aggregation.group_rule = config::GroupRule::kMedian;
  FakeWorld world(options);
  world.lose_group_in = "masked_input";
  world.lose_group = 1;
  const std::vector<std::string> clients = ClientNames(12);
  world.ArriveAll(clients);
  for (int phase = 0; phase < 3; ++phase) EachSpeaks(world, clients);
  EXPECT_THAT(Last(world).round_lost().reason(),
              HasSubstr("only 2 of the 3 groups that median needs"));
}

TEST(EngineSecureTest, TooFewReadyForTheGroupsLosesTheRoundAtOnce) {
  config::JobOptions options = SecureJob(1, 12, 5);
  options.secure_aggregation.group_size = 6;
  options.secure_aggregation.group_rule = config::GroupRule::kMean;
  FakeWorld world(options);
  world.ArriveAll(ClientNames(12));
  EachSpeaks(world, {"c100", "c101", "c102", "c103", "c104"});
  ASSERT_TRUE(world.FireTimer());
  EXPECT_THAT(Last(world).round_lost().reason(),
              HasSubstr("5 clients that were ready make only 0 of the 1"));
  EXPECT_THAT(Phases(world), IsEmpty());
}

TEST(EngineSecureTest, GroupsDependOnSeedAndNamesAlone) {
  config::JobOptions options = SecureJob(1, 12, 9);
  options.secure_aggregation.group_size = 4;
  std::vector<std::string> first;
  for (const bool backwards : {false, true}) {
    FakeWorld world(options);
    std::vector<std::string> clients = ClientNames(12);
    world.ArriveAll(clients);
    if (backwards) std::reverse(clients.begin(), clients.end());
    EachSpeaks(world, clients);
    std::vector<std::string> groups;
    for (const auto& one : Last(world).secure_phase_closed().clients()) {
      groups.push_back(one.client() + " " + std::to_string(one.group()));
    }
    ASSERT_THAT(groups, SizeIs(12));
    if (backwards) {
      EXPECT_EQ(groups, first);
    }
    first = groups;
  }
}

TEST(EngineSecureTest, AnUpdateInTheOpenIsRefused) {
  FakeWorld world(SecureJob(1, 3, 3));
  world.ArriveAll(ClientNames(3));
  const v1::TaskPlan plan = world.tasks().at("c100");
  const v1::ReportResponse response =
      world.Post(UpdateReceived{"c100", plan.key(), TrainFor(plan, "c100")});
  EXPECT_EQ(response.verdict(), v1::ReportResponse::REFUSED);
  EXPECT_THAT(response.reason(), HasSubstr("in the open"));
}

TEST(EngineSecureTest, AnUpdateInTheOpenDoesNotTakeBackWhatWasMasked) {
  FakeWorld world(SecureJob(1, 4, 3));
  const std::vector<std::string> clients = ClientNames(4);
  world.ArriveAll(clients);
  const v1::TaskPlan plan = world.tasks().at("c100");
  EachSpeaks(world, clients);
  EachSpeaks(world, clients);
  EachSpeaks(world, {"c100"});
  EXPECT_EQ(
      world.Post(UpdateReceived{"c100", plan.key(), TrainFor(plan, "c100")})
          .verdict(),
      v1::ReportResponse::REFUSED);
  EachSpeaks(world, {"c101", "c102", "c103"});
  EXPECT_EQ(Last(world).client_lost().client(), "c100");
  ASSERT_TRUE(world.RunToEnd(clients));
  EXPECT_EQ(world.engine().progress().rounds_lost, 0u);
  EXPECT_THAT(
      world.journal()[world.journal().size() - 2].round_committed().survivors(),
      SizeIs(4));
}

TEST(EngineSecureTest, WhoIsRefusedAfterAdvertisingIsInNoSession) {
  FakeWorld world(SecureJob(1, 4, 3));
  const std::vector<std::string> clients = ClientNames(4);
  world.ArriveAll(clients);
  const v1::TaskPlan plan = world.tasks().at("c100");
  EachSpeaks(world, {"c100", "c101", "c102"});
  world.Post(UpdateReceived{"c100", plan.key(), TrainFor(plan, "c100")});
  EXPECT_TRUE(Last(world).has_update_refused());
  EachSpeaks(world, {"c103"});
  EXPECT_THAT(Last(world).secure_phase_closed().clients(), SizeIs(3));
  EXPECT_EQ(world.told().count("c100"), 0u);
  ASSERT_TRUE(world.RunToEnd(clients));
}

TEST(EngineSecureTest, StoppingTellsEverybody) {
  FakeWorld world(SecureJob(2, 3, 3));
  world.ArriveAll(ClientNames(3));
  EachSpeaks(world, ClientNames(3));
  world.Post(StopRequested{"enough"});
  EXPECT_TRUE(world.finished());
  EXPECT_THAT(world.aborted(), ElementsAre("enough"));
  EXPECT_FALSE(world.timer().has_value());
}

TEST(EngineSecureTest, AJournalOfAnotherKindIsNotAccepted) {
  FakeWorld world(SecureJob(1, 3, 3));
  ASSERT_TRUE(world.RunToEnd(ClientNames(3)));
  config::JobOptions plain = SecureJob(1, 3, 3);
  plain.secure_aggregation.enabled = false;
  Engine engine(plain, TestFacts(plain));
  EXPECT_TRUE(absl::IsDataLoss(engine.Replay(world.journal()[0])));
  const std::vector<v1::JournalRecord>& journal = world.journal();
  for (size_t missing = 0; missing + 1 < journal.size(); ++missing) {
    Engine other(SecureJob(1, 3, 3), TestFacts(plain));
    absl::Status status;
    for (size_t i = 0; i < journal.size() && status.ok(); ++i) {
      if (i != missing) status = other.Replay(journal[i]);
    }
    EXPECT_TRUE(absl::IsDataLoss(status)) << missing;
  }
}

}  // namespace
}  // namespace choir::engine
