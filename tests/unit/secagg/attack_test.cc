// Attacks on single updates. Each must fail as things are, and succeed once the
// defence that it is up against is switched off in the test: by a verifier that
// believes everything, a history that forgets, or a second copy of clients with
// the same secrets, which makes them act twice.
#include <cmath>
#include <numeric>

#include "base/sim_random.h"
#include "gtest/gtest.h"
#include "privacy/secagg/contribution.h"
#include "tests/support/secagg_world.h"

namespace choir::secagg {
namespace {

using v1::SecureRefusal;

// ---------------------------------------------- what an update reveals ----

double Correlation(const std::vector<double>& a, const std::vector<double>& b) {
  const double n = static_cast<double>(a.size());
  const double mean_a = std::accumulate(a.begin(), a.end(), 0.0) / n;
  const double mean_b = std::accumulate(b.begin(), b.end(), 0.0) / n;
  double ab = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    ab += (a[i] - mean_a) * (b[i] - mean_b);
    aa += (a[i] - mean_a) * (a[i] - mean_a);
    bb += (b[i] - mean_b) * (b[i] - mean_b);
  }
  return ab / std::sqrt(aa * bb);
}

// A linear layer's gradient for one example is g x^T and g: the input is the
// quotient of the two, exactly.
TEST(LinearLayerTest, ThePlainUpdateIsTheInputTheMaskedOneIsNoise) {
  constexpr int kInputs = 400, kOutputs = 6;
  base::SimRandom random(11);
  std::vector<double> x(kInputs);
  for (double& value : x) value = random.Normal();
  std::vector<float> update;
  for (int row = 0; row < kOutputs; ++row) {
    const double g = 0.5 + random.Uniform();
    for (const double value : x)
      update.push_back(static_cast<float>(g * value));
    update.push_back(static_cast<float>(g));
  }
  ContributionSpec spec;
  spec.num_parameters = update.size();
  spec.max_clients = 5;
  const MaskedVector plain =
      *EncodeContribution(spec, {absl::MakeConstSpan(update)});

  WorldOptions options;
  options.modulus_bits = plain.modulus_bits();
  options.length = plain.length();
  World world(options);
  Federation federation = Advertise(world);
  federation.clients[0] = world.Client(0, plain);
  world.history(0).ForgetAll();
  ASSERT_FALSE(federation.clients[0].Start().refused());
  ASSERT_TRUE(AnswerPhase(world, federation, {}).ok());
  ASSERT_TRUE(federation.server->Close().ok());
  const auto step = federation.clients[0].Handle(
      *federation.server->MessageFor(world.name(0)));
  const MaskedVector masked = *MaskedVector::Decode(step->payload);

  const auto guess = [&](const MaskedVector& seen) {
    std::vector<double> out;
    for (int i = 0; i < kInputs; ++i) {
      out.push_back(static_cast<double>(seen.Signed(i)) /
                    static_cast<double>(seen.Signed(kInputs)));
    }
    return out;
  };
  const std::vector<double> from_plain = guess(plain);
  for (int i = 0; i < kInputs; ++i) {
    EXPECT_NEAR(from_plain[i], x[i], 1e-5 * (1 + std::abs(x[i])));
  }
  EXPECT_LT(std::abs(Correlation(guess(masked), x)), 4 / std::sqrt(kInputs));
}

// Chi-square over 256 values of 8 bits, by the normal approximation: deviations
// of a fair source beyond 6 happen once in 10^9.
double ChiSquareDeviations(const MaskedVector& vector, int shift) {
  std::vector<double> count(256);
  for (uint64_t i = 0; i < vector.length(); ++i) {
    ++count[(vector[i] >> shift) & 255];
  }
  const double expected = static_cast<double>(vector.length()) / 256;
  double chi = 0;
  for (const double c : count)
    chi += (c - expected) * (c - expected) / expected;
  return (chi - 255) / std::sqrt(2 * 255.0);
}

TEST(UniformityTest, MaskedUploadsOfAConstantAreUniform) {
  for (const int bits : {20, 32, 45}) {
    WorldOptions options;
    options.modulus_bits = bits;
    options.length = 100000;
    World world(options);
    MaskedVector constant(bits, options.length);
    for (uint64_t i = 0; i < options.length; ++i) constant.Set(i, 12345);
    EXPECT_GT(ChiSquareDeviations(constant, 0), 1000);  // the test can fail
    Federation federation = Advertise(world);
    world.history(0).ForgetAll();
    federation.clients[0] = world.Client(0, constant);
    ASSERT_FALSE(federation.clients[0].Start().refused());
    ASSERT_TRUE(AnswerPhase(world, federation, {}).ok());
    ASSERT_TRUE(federation.server->Close().ok());
    const auto step = federation.clients[0].Handle(
        *federation.server->MessageFor(world.name(0)));
    const MaskedVector masked = *MaskedVector::Decode(step->payload);
    for (const int shift : {0, bits / 2 - 4, bits - 8}) {
      EXPECT_LT(std::abs(ChiSquareDeviations(masked, shift)), 6)
          << bits << " bits, shift " << shift;
    }
  }
}

// ------------------------------------------------------- false peers ----

// The coordinator puts clients of its own in the place of all the others, with
// keys and certificates that it made itself.
absl::optional<MaskedVector> SurroundVictim(World& world,
                                            SecureRefusal::Reason* refused) {
  WorldOptions options;
  options.seed = 666;
  World fakes(options);
  fakes.session = world.session;
  GullibleVerifier gullible;
  fakes.set_verifier(gullible);
  Federation federation;
  for (int i = 0; i < 5; ++i) {
    federation.clients.push_back(i == 0 ? world.Client(0)
                                        : fakes.Client(i, fakes.Input(i)));
    federation.keys.push_back(
        federation.clients.back().Start().message.advertise());
  }
  federation.server =
      *ServerSession::Create(world.session, 0, federation.keys, gullible);
  ServerSession& server = *federation.server;
  while (server.phase() != Phase::kDone) {
    for (int i = 0; i < 5; ++i) {
      const auto step =
          federation.clients[i].Handle(*server.MessageFor(fakes.name(i)));
      if (step->refused()) {
        *refused = step->message.refusal().reason();
        return absl::nullopt;
      }
      EXPECT_TRUE(
          server.Receive(fakes.name(i), step->message, step->payload).ok());
    }
    EXPECT_TRUE(server.Close().ok());
  }
  MaskedVector stolen = *server.Sum(nullptr);
  for (int i = 1; i < 5; ++i) {
    const MaskedVector known = fakes.Input(i);
    for (uint64_t k = 0; k < stolen.length(); ++k) {
      stolen.Set(k, stolen[k] - known[k]);
    }
  }
  return stolen;
}

TEST(KeySubstitutionTest, FailsWithCertificatesAndSucceedsWithout) {
  SecureRefusal::Reason reason = SecureRefusal::REASON_UNSPECIFIED;
  World careful(WorldOptions{});
  EXPECT_FALSE(SurroundVictim(careful, &reason).has_value());
  EXPECT_EQ(reason, SecureRefusal::BAD_PEER_KEY);

  World careless(WorldOptions{});
  GullibleVerifier gullible;
  careless.set_verifier(gullible);
  const auto stolen = SurroundVictim(careless, &reason);
  ASSERT_TRUE(stolen.has_value());
  EXPECT_EQ(Difference(*stolen, careless.PlainSum({careless.name(0)})), "");
}

// ------------------------------------------------------- split rosters ----

// The coordinator makes two cohorts out of one, to learn two small sums.
TEST(SplitRosterTest, HalvesBelowTheMinimumAreRefused) {
  for (const bool defended : {true, false}) {
    WorldOptions options;
    options.clients = 8;
    options.min_clients = 4;
    options.dropout_fraction = 0;
    World world(options);
    ClientExpectations expectations = world.expectations();
    expectations.min_clients = defended ? 8 : 4;
    Federation half;
    std::vector<std::unique_ptr<SeededRandom>> randoms;
    for (int i = 0; i < 4; ++i) {
      randoms.push_back(std::make_unique<SeededRandom>(i));
      half.clients.emplace_back(world.session, expectations, world.Input(i),
                                world.Environment(i, *randoms[i]));
      half.keys.push_back(half.clients[i].Start().message.advertise());
    }
    half.server =
        *ServerSession::Create(world.session, 0, half.keys, world.verifier());
    if (defended) {
      for (int i = 0; i < 4; ++i) {
        const auto step =
            half.clients[i].Handle(*half.server->MessageFor(world.name(i)));
        ASSERT_TRUE(step->refused());
        EXPECT_EQ(step->message.refusal().reason(),
                  SecureRefusal::ROSTER_TOO_SMALL);
      }
      continue;
    }
    while (half.server->phase() != Phase::kDone) {
      ASSERT_TRUE(AnswerPhase(world, half, {}).ok());
      ASSERT_TRUE(half.server->Close().ok());
    }
    // What four of eight have, by themselves.
    EXPECT_EQ(Difference(*half.server->Sum(nullptr),
                         world.PlainSum({world.name(0), world.name(1),
                                         world.name(2), world.name(3)})),
              "");
  }
}

// Or tells the halves different things and mixes what they answer: they cannot
// open each other's shares, and nobody sends a vector.
TEST(SplitRosterTest, HalvesToldDifferentRostersDoNotShare) {
  for (const bool split : {true, false}) {
    WorldOptions options;
    options.clients = 8;
    World world(options);
    Federation federation = Advertise(world);
    auto other = *ServerSession::Create(world.session, split ? 1 : 0,
                                        federation.keys, world.verifier());
    ServerSession& server = *federation.server;
    for (int i = 0; i < 8; ++i) {
      ServerSession& told = i < 4 ? server : other;
      const auto step =
          federation.clients[i].Handle(*told.MessageFor(world.name(i)));
      ASSERT_TRUE(step->message.has_share());
      ASSERT_TRUE(server.Receive(world.name(i), step->message, "").ok());
    }
    ASSERT_TRUE(server.Close().ok());
    for (int i = 0; i < 8; ++i) {
      const auto step =
          federation.clients[i].Handle(*server.MessageFor(world.name(i)));
      if (split) {
        EXPECT_EQ(step->message.refusal().reason(), SecureRefusal::BAD_SHARE);
      } else {
        EXPECT_TRUE(step->message.has_masked());
      }
    }
  }
}

// -------------------------------------------------------------- replay ----

// A session run twice with the same masks gives the difference of two updates.
TEST(ReplayTest, TheDifferenceOfUpdatesLeaksOnlyToAClientThatForgets) {
  World world(WorldOptions{});
  Federation federation = Advertise(world);
  const auto roster = *federation.server->MessageFor(world.name(0));
  ASSERT_TRUE(AnswerPhase(world, federation, {}).ok());
  ASSERT_TRUE(federation.server->Close().ok());
  const auto shares = *federation.server->MessageFor(world.name(0));
  const MaskedVector first =
      *MaskedVector::Decode(federation.clients[0].Handle(shares)->payload);

  MaskedVector next_round(20, 17);
  for (uint64_t k = 0; k < 17; ++k) next_round.Set(k, 1000 * k);
  // As things are.
  ClientSession again = world.Client(0, next_round);
  EXPECT_EQ(again.Start().message.refusal().reason(), SecureRefusal::REPLAYED);

  // Without a history, and with the secrets of before.
  world.history(0).ForgetAll();
  ClientSession forgetful = world.Client(0, next_round);
  ASSERT_FALSE(forgetful.Start().refused());
  ASSERT_TRUE(forgetful.Handle(roster)->message.has_share());
  const auto step = forgetful.Handle(shares);
  ASSERT_TRUE(step->message.has_masked());
  const MaskedVector second = *MaskedVector::Decode(step->payload);
  const MaskedVector input = world.Input(0);
  for (uint64_t k = 0; k < 17; ++k) {
    MaskedVector difference(20, 1);
    difference.Set(0, second[k] - first[k] + input[k]);
    EXPECT_EQ(difference[0], next_round[k]);
  }

  // Without a history, but with fresh secrets: it is not in the old roster.
  world.history(0).ForgetAll();
  ClientSession fresh = world.Client(0, next_round, /*life=*/1);
  ASSERT_FALSE(fresh.Start().refused());
  EXPECT_EQ(fresh.Handle(roster)->message.refusal().reason(),
            SecureRefusal::NOT_IN_ROSTER);
}

// The coordinator has a sum, says that it was lost, and asks for another one of
// the same model, without one client: the difference is that client's vector.
TEST(TwoSumsTest, TheDifferenceIsTheVictimsVectorUnlessClientsHelpOnce) {
  for (const bool defended : {true, false}) {
    WorldOptions options;
    options.clients = 6;
    options.dropout_fraction = 0.2;
    World world(options);
    std::vector<std::unique_ptr<SeededRandom>> randoms;
    int refusals = 0;
    const auto sum_of = [&](int attempt, int members) {
      world.session.set_attempt(attempt);
      // Under whatever name.
      world.session.set_job(attempt == 1 ? "test" : "another job");
      world.session.set_session_id(
          std::string(32, static_cast<char>('a' + attempt)));
      Federation federation;
      for (int i = 0; i < members; ++i) {
        randoms.push_back(std::make_unique<SeededRandom>(100 * attempt + i));
        ClientExpectations expectations = world.expectations();
        expectations.one_sum_per_model = defended;
        federation.clients.emplace_back(world.session, expectations,
                                        world.Input(i),
                                        world.Environment(i, *randoms.back()));
        const ClientStep step = federation.clients.back().Start();
        if (step.refused()) {
          EXPECT_EQ(step.message.refusal().reason(), SecureRefusal::REPLAYED);
          ++refusals;
        }
        federation.keys.push_back(step.message.advertise());
      }
      if (refusals > 0) return std::vector<uint64_t>();
      federation.server = *ServerSession::Create(
          world.session, 0, federation.keys, world.verifier());
      while (federation.server->phase() != Phase::kDone) {
        EXPECT_TRUE(AnswerPhase(world, federation, {}).ok());
        EXPECT_TRUE(federation.server->Close().ok());
      }
      const MaskedVector sum = *federation.server->Sum(nullptr);
      std::vector<uint64_t> out;
      for (uint64_t k = 0; k < sum.length(); ++k) out.push_back(sum[k]);
      return out;
    };
    const std::vector<uint64_t> all = sum_of(1, 6);
    const std::vector<uint64_t> others = sum_of(2, 5);
    EXPECT_EQ(refusals, defended ? 5 : 0);
    if (defended) continue;
    MaskedVector stolen(20, 17);
    for (uint64_t k = 0; k < 17; ++k) stolen.Set(k, all[k] - others[k]);
    EXPECT_EQ(Difference(stolen, world.PlainSum({world.name(5)})), "");
  }
}

// Two sessions of one model at the same time: the second is refused at its end.
TEST(TwoSumsTest, SessionsSideBySideRevealOneSum) {
  World world(WorldOptions{});
  Federation federation = Advertise(world);
  SeededRandom random(77);
  ClientExpectations expectations = world.expectations();
  expectations.one_sum_per_model = true;
  world.history(0).ForgetAll();
  federation.clients[0] =
      ClientSession(world.session, expectations, world.Input(0),
                    world.Environment(0, random));
  federation.keys[0] = federation.clients[0].Start().message.advertise();
  federation.server = *ServerSession::Create(world.session, 0, federation.keys,
                                             world.verifier());
  while (federation.server->phase() != Phase::kUnmask) {
    ASSERT_TRUE(AnswerPhase(world, federation, {}).ok());
    ASSERT_TRUE(federation.server->Close().ok());
  }
  ASSERT_TRUE(world.history(0).Remember("sum model").ok());
  EXPECT_EQ(federation.clients[0]
                .Handle(*federation.server->MessageFor(world.name(0)))
                ->message.refusal()
                .reason(),
            SecureRefusal::REPLAYED);
}

// -------------------------------------------------- model inconsistency ----

// All but the victim get a model whose gradient is zero; the sum would be the
// victim's update.
TEST(ModelInconsistencyTest, TheSumIsTheVictimsOnlyIfNobodyChecksTheModel) {
  for (const bool defended : {true, false}) {
    World world(WorldOptions{});
    Federation federation;
    std::vector<std::unique_ptr<SeededRandom>> randoms;
    for (int i = 0; i < 5; ++i) {
      randoms.push_back(std::make_unique<SeededRandom>(i));
      ClientExpectations expectations = world.expectations();
      // What it really trained with.
      if (i > 0 && defended) expectations.model_digest = "dead model";
      federation.clients.emplace_back(
          world.session, expectations,
          i == 0 ? world.Input(0) : MaskedVector(20, 17),
          world.Environment(i, *randoms.back()));
      const ClientStep step = federation.clients.back().Start();
      if (i > 0 && defended) {
        EXPECT_EQ(step.message.refusal().reason(), SecureRefusal::OTHER_MODEL);
      } else {
        federation.keys.push_back(step.message.advertise());
      }
    }
    if (defended) continue;
    federation.server = *ServerSession::Create(
        world.session, 0, federation.keys, world.verifier());
    while (federation.server->phase() != Phase::kDone) {
      ASSERT_TRUE(AnswerPhase(world, federation, {}).ok());
      ASSERT_TRUE(federation.server->Close().ok());
    }
    EXPECT_EQ(Difference(*federation.server->Sum(nullptr),
                         world.PlainSum({world.name(0)})),
              "");
  }
}

// Nor does it help to tell each client the model that it has: they sign
// different sessions, and do not take each other's keys.
TEST(ModelInconsistencyTest, ClientsOfDifferentModelsAreNoPeers) {
  World world(WorldOptions{});
  Federation federation = Advertise(world);
  v1::SecureSession dead = world.session;
  dead.set_model_digest("dead model");
  ClientExpectations expectations = world.expectations();
  expectations.model_digest = "dead model";
  SeededRandom random(5);
  MemoryHistory history;
  ClientSession other(dead, expectations, world.Input(1),
                      {world.signer(1), world.verifier(), history, random});
  federation.keys[1] = other.Start().message.advertise();
  auto server = *ServerSession::Create(world.session, 0, federation.keys,
                                       world.verifier());
  EXPECT_EQ(federation.clients[0]
                .Handle(*server.MessageFor(world.name(0)))
                ->message.refusal()
                .reason(),
            SecureRefusal::BAD_PEER_KEY);
}

}  // namespace
}  // namespace choir::secagg
