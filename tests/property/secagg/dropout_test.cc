// The unmasked sum is the plain sum of the survivors, bit for bit, whoever
// drops out and when; or the session ends cleanly with nothing revealed.
#include <algorithm>
#include <vector>

#include "base/sim_random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/secagg_world.h"

namespace choir::secagg {
namespace {

using v1::SecureAssumptions;

int Count(const std::vector<Fate>& fates, Fate last) {
  return static_cast<int>(std::count_if(
      fates.begin(), fates.end(),
      [&](Fate fate) { return fate == Fate::kStays || fate > last; }));
}

// Where a session on the complete graph must end.
Phase Expected(const Parameters& parameters, const std::vector<Fate>& fates,
               bool confirms) {
  if (Count(fates, Fate::kNoShares) < parameters.min_survivors) {
    return Phase::kShareKeys;
  }
  if (Count(fates, Fate::kNoMasked) <
      std::max(parameters.min_survivors, parameters.threshold)) {
    return Phase::kMaskedInput;
  }
  if (confirms && Count(fates, Fate::kNoConfirm) < parameters.threshold) {
    return Phase::kConfirm;
  }
  if (Count(fates, Fate::kNoUnmask) < parameters.threshold) {
    return Phase::kUnmask;
  }
  return Phase::kDone;
}

struct Tally {
  int sums = 0;
  int aborts = 0;
};

Tally TryAllPatterns(int clients, SecureAssumptions::Adversary adversary) {
  const bool confirms = adversary == SecureAssumptions::SEMI_MALICIOUS;
  std::vector<Fate> kinds = {Fate::kStays, Fate::kNoShares, Fate::kNoMasked};
  if (confirms) kinds.push_back(Fate::kNoConfirm);
  kinds.push_back(Fate::kNoUnmask);
  int patterns = 1;
  for (int i = 0; i < clients; ++i) patterns *= static_cast<int>(kinds.size());
  Tally tally;
  for (int pattern = 0; pattern < patterns; ++pattern) {
    std::vector<Fate> fates;
    for (int i = 0, rest = pattern; i < clients;
         ++i, rest /= static_cast<int>(kinds.size())) {
      fates.push_back(kinds[rest % kinds.size()]);
    }
    WorldOptions options;
    options.clients = clients;
    options.adversary = adversary;
    options.corrupt_fraction = 0.0;
    // None of three, one of four, two of five.
    options.dropout_fraction = clients == 3 ? 0.0 : clients == 4 ? 0.25 : 0.4;
    options.modulus_bits = pattern % 2 == 0 ? 20 : 45;
    options.seed = pattern + 1;
    options.length = 5;
    World world(options);
    const Parameters parameters =
        *ChooseParameters(clients, world.session.assumptions());
    const RoundResult result = RunRound(world, fates);
    const Phase expected = Expected(parameters, fates, confirms);
    EXPECT_EQ(result.ended_in, expected)
        << "pattern " << pattern << ": " << result.status;
    if (expected != Phase::kDone) {
      EXPECT_TRUE(absl::IsAborted(result.status)) << result.status;
      EXPECT_FALSE(result.sum.has_value());
      ++tally.aborts;
      continue;
    }
    std::vector<std::string> survivors;
    for (int i = 0; i < clients; ++i) {
      if (fates[i] == Fate::kStays || fates[i] > Fate::kNoMasked) {
        survivors.push_back(world.name(i));
      }
    }
    EXPECT_EQ(result.survivors, survivors) << "pattern " << pattern;
    EXPECT_TRUE(result.sum.has_value()) << result.status;
    if (result.sum) {
      EXPECT_EQ(Difference(*result.sum, world.PlainSum(survivors)), "")
          << "pattern " << pattern;
    }
    ++tally.sums;
    if (::testing::Test::HasFailure()) break;
  }
  return tally;
}

TEST(DropoutTest, EveryPatternOfThreeToFiveClientsThatAreCurious) {
  for (const int clients : {3, 4, 5}) {
    const Tally tally = TryAllPatterns(clients, SecureAssumptions::CURIOUS);
    EXPECT_GT(tally.sums, 0);
    EXPECT_GT(tally.aborts, 0);
  }
}

TEST(DropoutTest, EveryPatternOfThreeToFiveClientsThatConfirm) {
  for (const int clients : {3, 4, 5}) {
    const Tally tally =
        TryAllPatterns(clients, SecureAssumptions::SEMI_MALICIOUS);
    EXPECT_GT(tally.sums, 0);
    EXPECT_GT(tally.aborts, 0);
  }
}

// Up to `rate` of the clients fall silent, at any phase.
std::vector<Fate> RandomFates(int clients, int silent,
                              base::SimRandom& random) {
  std::vector<Fate> fates(clients, Fate::kStays);
  for (int i = 0; i < silent; ++i) {
    fates[i] = static_cast<Fate>(1 + random.Below(4));
  }
  random.Shuffle(fates);
  return fates;
}

TEST(DropoutTest, RandomPatternsOfUpTo200Clients) {
  base::SimRandom random(20261122);
  base::ThreadPool pool(2);
  for (int trial = 0; trial < 24; ++trial) {
    WorldOptions options;
    options.clients =
        trial == 0
            ? 200
            : 10 + static_cast<int>(random.Below(trial % 4 == 0 ? 191 : 60));
    options.adversary = trial % 2 == 0 ? SecureAssumptions::SEMI_MALICIOUS
                                       : SecureAssumptions::CURIOUS;
    options.dropout_fraction = 0.15;
    options.corrupt_fraction = 0.05;
    options.modulus_bits = 8 + static_cast<int>(random.Below(57));
    options.length = 1 + random.Below(40);
    options.seed = 1000 + trial;
    World world(options);
    const int assumed = static_cast<int>(0.15 * options.clients);
    const std::vector<Fate> fates = RandomFates(
        options.clients, static_cast<int>(random.Below(assumed + 1)), random);
    const RoundResult result =
        RunRound(world, fates, trial % 3 == 0 ? &pool : nullptr);
    ASSERT_TRUE(result.status.ok())
        << "trial " << trial << ", " << options.clients
        << " clients: " << result.status;
    EXPECT_EQ(Difference(*result.sum, world.PlainSum(result.survivors)), "")
        << "trial " << trial;
    int survivors = 0;
    for (const Fate fate : fates) {
      survivors += fate == Fate::kStays || fate > Fate::kNoMasked;
    }
    EXPECT_EQ(static_cast<int>(result.survivors.size()), survivors);
  }
}

// More dropouts than assumed: a sum that is right, or none.
TEST(DropoutTest, TooManyDropoutsNeverGiveAWrongSum) {
  base::SimRandom random(7);
  int aborted = 0;
  for (int trial = 0; trial < 30; ++trial) {
    WorldOptions options;
    options.clients = 8 + static_cast<int>(random.Below(70));
    options.adversary = trial % 2 == 0 ? SecureAssumptions::SEMI_MALICIOUS
                                       : SecureAssumptions::CURIOUS;
    options.seed = 2000 + trial;
    World world(options);
    const std::vector<Fate> fates = RandomFates(
        options.clients,
        static_cast<int>(random.Below(options.clients / 2 + 1)), random);
    const RoundResult result = RunRound(world, fates);
    if (result.status.ok()) {
      EXPECT_EQ(Difference(*result.sum, world.PlainSum(result.survivors)), "");
    } else {
      EXPECT_TRUE(absl::IsAborted(result.status)) << result.status;
      ++aborted;
    }
  }
  EXPECT_GT(aborted, 0);
  EXPECT_LT(aborted, 30);
}

TEST(DropoutTest, TheResultDoesNotDependOnThePool) {
  WorldOptions options;
  options.clients = 40;
  options.dropout_fraction = 0.2;
  base::SimRandom random(3);
  const std::vector<Fate> fates = RandomFates(40, 6, random);
  std::string first;
  for (const int threads : {0, 1, 2, 5}) {
    World world(options);
    std::unique_ptr<base::ThreadPool> pool;
    if (threads > 0) pool = std::make_unique<base::ThreadPool>(threads);
    const RoundResult result = RunRound(world, fates, pool.get());
    ASSERT_TRUE(result.status.ok()) << result.status;
    if (first.empty()) first = result.sum->Encode();
    EXPECT_EQ(result.sum->Encode(), first) << threads << " threads";
  }
}

}  // namespace
}  // namespace choir::secagg
