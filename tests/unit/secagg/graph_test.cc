#include "privacy/secagg/graph.h"

#include <algorithm>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "privacy/secagg/transcript.h"

namespace choir::secagg {
namespace {

using ::testing::ElementsAre;

TEST(GraphTest, RefusesDegreesThatNoGraphHas) {
  EXPECT_FALSE(Graph::Create(1, 0, "s").ok());
  EXPECT_FALSE(Graph::Create(10, 0, "s").ok());
  EXPECT_FALSE(Graph::Create(10, 3, "s").ok());
  EXPECT_FALSE(Graph::Create(10, 10, "s").ok());
  EXPECT_FALSE(Graph::Create(10, -2, "s").ok());
  EXPECT_TRUE(Graph::Create(10, 9, "s").ok());
  EXPECT_TRUE(Graph::Create(10, 2, "s").ok());
}

TEST(GraphTest, TheCompleteGraphHoldsItsOwnShares) {
  const Graph graph = *Graph::Create(4, 3, "s");
  EXPECT_THAT(graph.NeighboursOf(2), ElementsAre(0, 1, 3));
  EXPECT_THAT(graph.HoldersOf(2), ElementsAre(0, 1, 2, 3));
}

TEST(GraphTest, IsRegularSymmetricAndConnected) {
  for (const auto& [n, k] : std::vector<std::pair<int, int>>{
           {64, 20}, {65, 2}, {100, 32}, {101, 98}, {1000, 96}}) {
    const Graph graph = *Graph::Create(n, k, "seed");
    std::vector<int> queue = {0};
    std::set<int> reached = {0};
    for (int i = 0; i < n; ++i) {
      const std::vector<int> neighbours = graph.NeighboursOf(i);
      EXPECT_EQ(static_cast<int>(neighbours.size()), k);
      EXPECT_TRUE(std::is_sorted(neighbours.begin(), neighbours.end()));
      EXPECT_EQ(std::set<int>(neighbours.begin(), neighbours.end()).size(),
                neighbours.size());
      for (const int other : neighbours) {
        EXPECT_TRUE(graph.AreNeighbours(i, other));
        EXPECT_TRUE(graph.AreNeighbours(other, i));
        EXPECT_NE(other, i);
      }
      EXPECT_EQ(graph.HoldersOf(i), neighbours);
    }
    while (!queue.empty()) {
      const int at = queue.back();
      queue.pop_back();
      for (const int other : graph.NeighboursOf(at)) {
        if (reached.insert(other).second) queue.push_back(other);
      }
    }
    EXPECT_EQ(static_cast<int>(reached.size()), n);
  }
}

TEST(GraphTest, FollowsFromTheSeedAlone) {
  const Graph one = *Graph::Create(100, 10, "one");
  const Graph same = *Graph::Create(100, 10, "one");
  const Graph other = *Graph::Create(100, 10, "other");
  int equal = 0;
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(one.NeighboursOf(i), same.NeighboursOf(i));
    equal += one.NeighboursOf(i) == other.NeighboursOf(i);
  }
  EXPECT_EQ(equal, 0);
}

// Each pair is joined about equally often over many seeds: n = 12, k = 4, 4,400
// seeds give each pair 1,600 times on average, standard deviation 32; 66 pairs,
// 6 deviations: a false alarm once in 10^7.
TEST(GraphTest, TheOrderIsUniform) {
  std::vector<std::vector<int>> count(12, std::vector<int>(12));
  for (int seed = 0; seed < 4400; ++seed) {
    const Graph graph = *Graph::Create(12, 4, std::to_string(seed));
    for (int i = 0; i < 12; ++i) {
      for (const int other : graph.NeighboursOf(i)) ++count[i][other];
    }
  }
  for (int i = 0; i < 12; ++i) {
    for (int j = 0; j < i; ++j) {
      EXPECT_NEAR(count[i][j], 1600, 6 * 32) << i << " " << j;
    }
  }
}

TEST(PositionsTest, PackAndUnpack) {
  const std::vector<bool> positions = {true,  false, true,  false, false,
                                       false, false, false, true};
  EXPECT_EQ(PackPositions(positions), std::string("\x05\x01", 2));
  EXPECT_EQ(*UnpackPositions(std::string("\x05\x01", 2), 9), positions);
  EXPECT_FALSE(UnpackPositions(std::string("\x05\x03", 2), 9).ok());
  EXPECT_FALSE(UnpackPositions(std::string("\x05", 1), 9).ok());
  EXPECT_FALSE(UnpackPositions(std::string("\x05\x01\x00", 3), 9).ok());
}

// Every field counts: another value gives another digest, hence other keys.
TEST(TranscriptTest, TheContextDependsOnEverything) {
  v1::SecureSession session;
  session.set_session_id(std::string(32, 's'));
  session.set_job("job");
  session.set_round(1);
  session.set_attempt(1);
  session.set_model_digest("m");
  session.set_config_digest("c");
  session.set_modulus_bits(20);
  session.set_length(10);
  session.set_max_clients(4);
  const std::string base = SessionDigest(session);
  const auto other = [&](auto change) {
    v1::SecureSession changed = session;
    change(changed);
    return SessionDigest(changed);
  };
  std::set<std::string> digests = {
      base,
      other([](auto& s) { s.set_session_id(std::string(32, 't')); }),
      other([](auto& s) { s.set_job("jo"); }),
      other([](auto& s) { s.set_round(2); }),
      other([](auto& s) { s.set_attempt(2); }),
      other([](auto& s) { s.set_model_digest("mc"); }),
      other([](auto& s) { s.set_config_digest(""); }),
      other([](auto& s) {
        s.set_model_digest("mc");
        s.set_config_digest("");
      }),
      other([](auto& s) { s.set_modulus_bits(21); }),
      other([](auto& s) { s.set_length(11); }),
      other([](auto& s) { s.set_max_clients(5); }),
      other([](auto& s) { s.mutable_assumptions()->set_min_clients(5); }),
      other([](auto& s) { s.mutable_assumptions()->set_corrupt_fraction(.1); }),
      other([](auto& s) { s.mutable_assumptions()->set_dropout_fraction(.1); }),
      other([](auto& s) {
        s.mutable_assumptions()->set_adversary(v1::SecureAssumptions::CURIOUS);
      })};
  EXPECT_EQ(digests.size(), 15u);
  Parameters parameters{10, 9, 7, 7};
  std::set<std::string> contexts = {ContextDigest(base, "r", parameters),
                                    ContextDigest(base, "q", parameters),
                                    ContextDigest("b", "r", parameters)};
  for (int Parameters::*field :
       {&Parameters::num_clients, &Parameters::degree, &Parameters::threshold,
        &Parameters::min_survivors}) {
    Parameters changed = parameters;
    ++(changed.*field);
    contexts.insert(ContextDigest(base, "r", changed));
  }
  EXPECT_EQ(contexts.size(), 7u);
}

TEST(TranscriptTest, KeysDependOnContextPurposeAndPlace) {
  const std::string secret(32, 'k'), context(32, 'c'), other(32, 'd');
  std::set<std::string> keys;
  const auto add = [&](const absl::StatusOr<crypto::SecretString>& key) {
    keys.insert(std::string(key->view()));
  };
  add(PairMaskKey(secret, context, 1, 2));
  add(PairMaskKey(secret, context, 2, 1));  // the same pair
  EXPECT_EQ(keys.size(), 1u);
  add(PairMaskKey(secret, other, 1, 2));
  add(PairMaskKey(secret, context, 1, 3));
  add(SelfMaskKey(secret, context, 1));
  add(SelfMaskKey(secret, other, 1));
  add(ShareKey(secret, context, 1, 2));
  add(ShareKey(secret, context, 2, 1));
  add(ShareKey(secret, other, 1, 2));
  EXPECT_EQ(keys.size(), 8u);
}

}  // namespace
}  // namespace choir::secagg
