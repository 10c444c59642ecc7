// The agent in secret sums: its coordinator's side is a real session with four
// more clients; the connection fails at any call, and the agent dies at any.
#include <cmath>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/files.h"
#include "base/log.h"
#include "client/agent/agent.h"
#include "client/session/secure_participation.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "privacy/secagg/contribution.h"
#include "privacy/secagg/round_spec.h"
#include "privacy/secagg/server_session.h"
#include "proto/codec/plan_digest.h"
#include "tests/support/golden.h"
#include "tests/unit/client/fakes.h"

namespace choir::client {
namespace {

constexpr int kPeers = 4;

absl::Time Start() { return absl::FromUnixSeconds(1900000000); }

const crypto::CertificateAuthority& TestCa() {
  static const auto& ca = *new crypto::CertificateAuthority([] {
    SeededRandom random(1);
    return *crypto::CertificateAuthority::Create("ca", absl::Hours(20000),
                                                 Start(), random);
  }());
  return ca;
}

// Another client of the round.
struct Peer {
  Peer(const std::string& peer_name, const base::Clock& clock) {
    name = peer_name;
    crypto::SigningKey key = *crypto::SigningKey::Generate(random);
    const std::string request = *crypto::MakeSigningRequest(key, name);
    signer = *secagg::CertifiedSigner::Create(
        std::move(key),
        *TestCa().IssueSigner(request, name, absl::Hours(1000), clock.Now(),
                              random),
        TestCa().certificate_pem());
    verifier =
        *secagg::CertifiedPeers::Create(TestCa().certificate_pem(), clock);
  }
  std::string name;
  base::SystemRandom random;
  std::unique_ptr<secagg::CertifiedSigner> signer;
  std::unique_ptr<secagg::CertifiedPeers> verifier;
  secagg::RecentHistory history;
  absl::optional<secagg::ClientSession> session;
};

class World {
 public:
  World() {
    base::SetLogLevel(base::LogLevel::kOff);
    options.name = "alice";
    options.state = base::JoinPath(tests::NewTempDir(), "state");
    options.token_file = base::JoinPath(tests::NewTempDir(), "token");
    std::ofstream(options.token_file) << "secret-token\n";
    options.ca_certificate = base::JoinPath(tests::NewTempDir(), "ca.crt");
    std::ofstream(options.ca_certificate) << TestCa().certificate_pem();
    coordinator.on_exchange = [this](const v1::SecureExchangeRequest& request,
                                     v1::SecureExchangeResponse* response) {
      return OnExchange(request, response);
    };
    MakePlan();
    coordinator.plans.push_back(plan);
  }

  v1::BlobRef Put(const std::string& bytes) {
    const v1::BlobRef ref = RefOf(bytes);
    coordinator.blobs[ref.digest()] = bytes;
    return ref;
  }

  void MakePlan() {
    plan.mutable_key()->set_job("job");
    plan.mutable_key()->set_round(1);
    plan.mutable_key()->set_attempt(1);
    plan.mutable_key()->set_kind(v1::TASK_KIND_TRAIN);
    plan.set_seed(11);
    plan.set_deadline_ms(600000);
    v1::ModelFile* file = plan.add_base_model();
    file->set_name("config.json");
    *file->mutable_blob() = Put("config.json");
    *plan.mutable_adapter() = Put("adapter");
    plan.mutable_aggregation()->set_fixed_point_bits(24);
    plan.mutable_aggregation()->set_weighting("examples");
    plan.mutable_aggregation()->set_max_examples_per_client(100);
    plan.mutable_secure_aggregation()->set_value_bits(32);
    plan.mutable_secure_aggregation()->set_rounding("nearest");
    v1::SecureSession& session = *plan.mutable_secure_session();
    session.set_session_id(std::string(32, 's'));
    session.set_job("job");
    session.set_round(1);
    session.set_attempt(1);
    session.set_max_clients(kPeers + 1);
    session.set_model_digest(codec::ModelDigest(plan));
    session.set_config_digest(codec::ConfigDigest(plan));
    v1::SecureAssumptions& assumptions = *session.mutable_assumptions();
    assumptions.set_adversary(v1::SecureAssumptions::SEMI_MALICIOUS);
    assumptions.set_dropout_fraction(0.2);
    assumptions.set_min_clients(3);
    const secagg::ContributionSpec spec = Spec();
    session.set_modulus_bits(*secagg::ModulusBits(spec));
    session.set_length(secagg::ContributionLength(spec));
  }
  secagg::ContributionSpec Spec() const {
    return secagg::RoundSpec(plan.aggregation(), plan.secure_aggregation(),
                             plan.secure_session(),
                             FakeRunner::SecureUpdateOf(plan).size());
  }

  void AddPeer() {
    peers.push_back(
        std::make_unique<Peer>("peer" + std::to_string(peers.size()), clock));
  }

  // Everybody else says what is to be said; then the phase is over.
  absl::Status Begin(const v1::AdvertiseKeys& from_agent) {
    std::vector<v1::AdvertiseKeys> keys = {from_agent};
    for (int i = 0; i < kPeers; ++i) {
      if (peers.size() == static_cast<size_t>(i)) AddPeer();
      Peer& peer = *peers[i];
      TaskResult trained;
      trained.secure_update = FakeRunner::SecureUpdateOf(plan);
      trained.report.mutable_train()->set_num_examples(5);
      trained.report.mutable_train()->set_mean_loss(2.0);
      peer.session = *JoinSecureSession(
          plan, trained, {}, 1,
          {*peer.signer, *peer.verifier, peer.history, peer.random});
      keys.push_back(peer.session->Start().message.advertise());
    }
    auto made = secagg::ServerSession::Create(plan.secure_session(), 0, keys,
                                              *peers[0]->verifier);
    if (!made.ok()) return made.status();
    server = *std::move(made);
    Send(server->Start());
    return absl::OkStatus();
  }

  void Send(std::vector<secagg::Outgoing> outgoing) {
    steps.clear();
    for (secagg::Outgoing& out : outgoing) {
      if (out.client == options.name) to_agent = out.message;
      for (const auto& peer : peers) {
        if (peer->name != out.client) continue;
        auto step = peer->session->Handle(out.message);
        if (step.has_value()) steps[peer->name] = *std::move(step);
      }
    }
  }

  absl::Status ClosePhase() {
    for (const auto& [name, step] : steps) {
      const absl::Status taken =
          server->Receive(name, step.message, step.payload);
      if (!taken.ok()) return taken;
    }
    auto outgoing = server->Advance();
    if (!outgoing.ok()) return absl::AbortedError(outgoing.status().message());
    Send(*std::move(outgoing));
    if (server->phase() == secagg::Phase::kDone) {
      sum = *server->Sum(nullptr);
      coordinator.done.insert(FakeCoordinator::KeyText(plan.key()));
    }
    return absl::OkStatus();
  }

  absl::Status OnExchange(const v1::SecureExchangeRequest& request,
                          v1::SecureExchangeResponse* response) {
    const v1::SecureClientMessage& message = request.message();
    if (message.has_refusal()) {
      refusals.push_back(message.refusal().reason());
      coordinator.done.insert(FakeCoordinator::KeyText(plan.key()));
      return absl::AbortedError("the client has left the session");
    }
    const std::string text = message.SerializeAsString();
    const auto known = answers.find(text);
    if (known != answers.end()) {
      *response->mutable_message() = known->second;
      return absl::OkStatus();
    }
    // As often as not, the agent has to ask again.
    if (++asked % 2 == 1) {
      response->set_retry_after_ms(5);
      return absl::OkStatus();
    }
    absl::Status status;
    if (message.has_advertise()) {
      if (server.has_value()) return absl::AbortedError("a second session");
      status = Begin(message.advertise());
    } else {
      if (!server.has_value()) return absl::AbortedError("no session");
      const std::string payload =
          message.has_masked() ? coordinator.uploads[message.masked().digest()]
                               : "";
      if (message.has_masked() && payload.empty()) {
        return absl::NotFoundError("was not uploaded");
      }
      status = server->Receive(options.name, message, payload);
      if (status.ok()) status = ClosePhase();
    }
    if (!status.ok()) return status;
    answers[text] = to_agent;
    *response->mutable_message() = to_agent;
    return absl::OkStatus();
  }

  bool Over() const {
    return coordinator.done.count(FakeCoordinator::KeyText(plan.key())) > 0;
  }

  // One life of the agent.
  absl::StatusOr<AgentSummary> Live(FakeSleeper& sleeper) {
    SeededRandom random(++lives);
    auto state = StateDir::Open(options.state);
    if (!state.ok()) return state.status();
    Agent agent(options, *std::move(state),
                {coordinator, runner, clock, random, sleeper});
    return agent.Run(1);
  }
  absl::StatusOr<AgentSummary> Live() {
    FakeSleeper sleeper(clock);
    sleeper.stop_when = [this] { return Over(); };
    return Live(sleeper);
  }

  void ExpectSum(const std::string& where) {
    ASSERT_TRUE(sum.has_value()) << where;
    const auto decoded = secagg::DecodeSum(Spec(), *sum, kPeers + 1);
    ASSERT_TRUE(decoded.ok()) << where << decoded.status();
    EXPECT_EQ(decoded->total_weight, 5u * (kPeers + 1));
    const std::vector<float> one = FakeRunner::SecureUpdateOf(plan);
    for (size_t i = 0; i < one.size(); ++i) {
      ASSERT_EQ(decoded->sums[i],
                25 * static_cast<int64_t>(std::nearbyint(
                         static_cast<double>(one[i]) * (1 << 24))))
          << where;
    }
  }

  base::ManualClock clock{Start()};
  FakeCoordinator coordinator{TestCa(), clock};
  FakeRunner runner;
  ClientOptions options;
  v1::TaskPlan plan;
  std::vector<std::unique_ptr<Peer>> peers;
  std::map<std::string, secagg::ClientStep> steps;
  std::map<std::string, v1::SecureServerMessage> answers;
  v1::SecureServerMessage to_agent;
  absl::optional<secagg::ServerSession> server;
  absl::optional<secagg::MaskedVector> sum;
  std::vector<v1::SecureRefusal::Reason> refusals;
  uint64_t lives = 0;
  int asked = 0;
};

TEST(SecureAgentTest, HandsItsUpdateOverInSecret) {
  World world;
  const auto summary = world.Live();
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_EQ(summary->rounds, 1u);
  EXPECT_EQ(summary->secure_refusals, 0u);
  EXPECT_EQ(world.coordinator.reports, 0);  // nothing in the open
  world.ExpectSum("undisturbed");
}

TEST(SecureAgentTest, ComesThroughALostConnectionAtEachCall) {
  int points = 0;
  {
    World world;
    world.coordinator.fault = [&](const std::string&, const std::string&) {
      ++points;
      return absl::OkStatus();
    };
    ASSERT_TRUE(world.Live().ok());
  }
  ASSERT_GT(points, 20);
  for (int lost = 1; lost <= points; ++lost) {
    World world;
    int point = 0;
    std::string where;
    world.coordinator.fault = [&](const std::string& call,
                                  const std::string& when) {
      if (++point != lost) return absl::OkStatus();
      where = absl::StrCat("lost ", when, " ", call, " (", lost, ")");
      return absl::UnavailableError("connection lost");
    };
    const auto summary = world.Live();
    ASSERT_TRUE(summary.ok()) << where << ": " << summary.status();
    world.ExpectSum(where);
    ASSERT_EQ(world.runner.runs, 1) << where;
    ASSERT_TRUE(world.refusals.empty()) << where;
  }
}

// Killed at any call, it never takes part in the same session again, and says
// so; if the session had not begun, it does its work.
TEST(SecureAgentTest, KilledAmidASessionItLeavesIt) {
  int failures = 0;
  int sums = 0;
  for (int killed = 1; killed < 40; ++killed) {
    World world;
    int point = 0;
    bool dead = false;
    FakeSleeper first(world.clock);
    world.coordinator.fault = [&](const std::string& call,
                                  const std::string& when) {
      if (++point != killed) return absl::OkStatus();
      dead = true;
      first.stop = true;
      return absl::UnavailableError("killed");
    };
    first.stop_when = [&world] { return world.Over(); };
    ASSERT_TRUE(world.Live(first).ok()) << killed;
    if (!dead) break;
    size_t advertised = 0;
    for (const auto& request : world.coordinator.exchanges) {
      advertised += request.message().has_advertise();
    }
    const size_t before = world.coordinator.exchanges.size();
    if (!world.Over()) {
      ASSERT_TRUE(world.Live().ok()) << killed;
    }
    if (advertised > 0) {
      EXPECT_EQ(world.coordinator.exchanges.size(), before) << killed;
    }
    if (world.sum.has_value()) ++sums;
    for (const auto& report : world.coordinator.accepted) {
      ASSERT_TRUE(report.has_failure());
      EXPECT_THAT(report.failure().reason(),
                  testing::HasSubstr("left this session"));
      ++failures;
    }
    EXPECT_EQ(world.sum.has_value(), world.coordinator.accepted.empty())
        << killed;
  }
  EXPECT_GT(failures, 5);
  EXPECT_GT(sums, 5);
}

TEST(SecureAgentTest, RefusesAnotherModelAndSaysSo) {
  World world;
  world.coordinator.plans[0].mutable_secure_session()->set_model_digest(
      std::string(64, '0'));
  const auto summary = world.Live();
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_EQ(summary->secure_refusals, 1u);
  EXPECT_THAT(world.refusals,
              testing::ElementsAre(v1::SecureRefusal::OTHER_MODEL));
  EXPECT_FALSE(world.sum.has_value());
}

TEST(SecureAgentTest, KeepsItsOwnPolicy) {
  {
    World world;
    world.options.secure.min_clients = 6;
    ASSERT_TRUE(world.Live().ok());
    EXPECT_THAT(world.refusals,
                testing::ElementsAre(v1::SecureRefusal::ROSTER_TOO_SMALL));
  }
  {
    World world;
    world.options.secure.min_corrupt_fraction = 0.1;
    ASSERT_TRUE(world.Live().ok());
    EXPECT_THAT(world.refusals,
                testing::ElementsAre(v1::SecureRefusal::BAD_PARAMETERS));
    EXPECT_FALSE(world.server.has_value());
  }
  World world;
  world.options.secure.required = true;
  world.coordinator.plans[0].clear_secure_session();
  const auto summary = world.Live();
  ASSERT_TRUE(summary.ok()) << summary.status();
  ASSERT_EQ(world.coordinator.accepted.size(), 1u);
  EXPECT_THAT(world.coordinator.accepted[0].failure().reason(),
              testing::HasSubstr("only in secret"));
  EXPECT_EQ(world.runner.runs, 0);
}

v1::TaskPlan EvaluationOf(const World& world, uint32_t version) {
  v1::TaskPlan plan = world.plan;
  plan.mutable_key()->set_round(version);
  plan.mutable_key()->set_kind(v1::TASK_KIND_EVALUATE);
  plan.clear_secure_session();
  plan.clear_secure_aggregation();
  return plan;
}

struct EvaluationPolicy {
  bool required = false;
  absl::optional<bool> open;
  bool evaluates = false;
};

// The results of evaluations are never masked, whatever the plan says.
TEST(SecureAgentTest, EvaluatesOnlyIfItsPolicyAllowsIt) {
  const std::vector<EvaluationPolicy> policies = {
      {true, absl::nullopt, false}, {true, false, false}, {true, true, true},
      {false, absl::nullopt, true}, {false, true, true},  {false, false, false},
  };
  for (size_t i = 0; i < policies.size(); ++i) {
    for (const bool says_secure : {false, true}) {
      const std::string where = absl::StrCat("policy ", i, " ", says_secure);
      World world;
      world.options.secure.required = policies[i].required;
      world.options.secure.open_evaluation = policies[i].open;
      v1::TaskPlan evaluation = EvaluationOf(world, 0);
      if (says_secure) {
        *evaluation.mutable_secure_session() = world.plan.secure_session();
        *evaluation.mutable_secure_aggregation() =
            world.plan.secure_aggregation();
      }
      world.coordinator.plans.push_front(evaluation);
      FakeSleeper sleeper(world.clock);
      sleeper.stop_when = [&world] { return world.Over(); };
      const auto summary = world.Live(sleeper);
      ASSERT_TRUE(summary.ok()) << where << summary.status();
      // The round that follows is none the worse for it.
      world.ExpectSum(where);
      EXPECT_EQ(world.runner.runs, policies[i].evaluates ? 2 : 1) << where;
      EXPECT_EQ(summary->evaluations, policies[i].evaluates ? 1u : 0u) << where;
      ASSERT_EQ(world.coordinator.accepted.size(), 1u) << where;
      const v1::ReportRequest& report = world.coordinator.accepted[0];
      EXPECT_EQ(report.has_evaluation(), policies[i].evaluates) << where;
      if (policies[i].evaluates) continue;
      EXPECT_THAT(report.failure().reason(),
                  testing::AllOf(testing::HasSubstr("does not evaluate"),
                                 testing::HasSubstr("open_evaluation")))
          << where;
      // It is back before the next round begins: no wait as after a failure.
      EXPECT_THAT(sleeper.slept(),
                  testing::Each(testing::Lt(absl::Milliseconds(250))))
          << where;
    }
  }
}

// Finished under another policy, not yet delivered when the agent stopped.
TEST(SecureAgentTest, WithdrawsUnmaskedWorkThatAPolicySetSinceForbids) {
  for (const bool required : {false, true}) {
    for (const v1::TaskKind kind :
         {v1::TASK_KIND_TRAIN, v1::TASK_KIND_EVALUATE}) {
      World world;
      v1::TaskPlan open = EvaluationOf(world, 1);
      open.mutable_key()->set_kind(kind);
      world.coordinator.plans = {open};
      FakeSleeper first(world.clock);
      world.coordinator.fault = [&first](const std::string& call,
                                         const std::string& when) {
        if (call != "Report") return absl::OkStatus();
        first.stop = true;
        return absl::UnavailableError("killed");
      };
      ASSERT_TRUE(world.Live(first).ok());
      ASSERT_EQ(world.runner.runs, 1);
      ASSERT_TRUE(world.coordinator.accepted.empty());

      world.coordinator.fault = nullptr;
      world.options.secure.required = required;
      FakeSleeper second(world.clock);
      second.stop_when = [&world] {
        return !world.coordinator.accepted.empty();
      };
      ASSERT_TRUE(world.Live(second).ok());
      EXPECT_EQ(world.runner.runs, 1);
      ASSERT_EQ(world.coordinator.accepted.size(), 1u);
      EXPECT_EQ(world.coordinator.accepted[0].has_failure(), required) << kind;
    }
  }
}

TEST(SecureAgentTest, RefusesPeersThatItsOwnListRevokes) {
  for (const bool revoked : {true, false}) {
    World world;
    world.AddPeer();
    const std::string serial =
        revoked ? world.peers[0]->signer->info().serial : "abcdef";
    world.options.secure.crl = base::JoinPath(tests::NewTempDir(), "crl.pem");
    std::ofstream(world.options.secure.crl) << *TestCa().SignRevocationList(
        {{serial, world.clock.Now()}}, world.clock.Now());
    ASSERT_TRUE(world.Live().ok());
    if (revoked) {
      EXPECT_THAT(world.refusals,
                  testing::ElementsAre(v1::SecureRefusal::BAD_PEER_KEY));
    } else {
      world.ExpectSum("nobody is revoked");
    }
  }
  // A list that cannot be read, or that somebody else signed, revokes nobody:
  // without it the client does not begin.
  World world;
  world.options.secure.crl = base::JoinPath(tests::NewTempDir(), "crl.pem");
  std::ofstream(world.options.secure.crl) << "nonsense";
  ASSERT_TRUE(world.Live().ok());
  ASSERT_EQ(world.coordinator.accepted.size(), 1u);
  EXPECT_TRUE(world.coordinator.accepted[0].has_failure());
  EXPECT_FALSE(world.server.has_value());
}

TEST(SecureAgentTest, HelpsToRevealOneSumOfAModel) {
  World world;
  world.options.secure.one_sum_per_model = true;
  ASSERT_TRUE(world.Live().ok());
  world.ExpectSum("the first");
  // The coordinator says that it was lost, and asks once more; then in a job
  // of another name.
  for (const bool renamed : {false, true}) {
    const std::string job = renamed ? "another" : "job";
    world.plan.mutable_key()->set_job(job);
    world.plan.mutable_key()->set_attempt(2);
    v1::SecureSession& session = *world.plan.mutable_secure_session();
    session.set_job(job);
    session.set_attempt(2);
    session.set_session_id(std::string(32, renamed ? 'u' : 't'));
    world.coordinator.plans.push_back(world.plan);
    world.server.reset();
    world.refusals.clear();
    ASSERT_TRUE(world.Live().ok());
    EXPECT_THAT(world.refusals,
                testing::ElementsAre(v1::SecureRefusal::REPLAYED))
        << job;
  }
}

TEST(SecureAgentTest, TakesPartInEachAttemptOnceAcrossRestarts) {
  World world;
  ASSERT_TRUE(world.Live().ok());
  world.ExpectSum("the first");
  // The same attempt in another session.
  world.plan.mutable_secure_session()->set_session_id(std::string(32, 't'));
  world.coordinator.plans = {world.plan};
  world.coordinator.done.clear();
  world.server.reset();
  ASSERT_TRUE(world.Live().ok());
  EXPECT_THAT(world.refusals,
              testing::ElementsAre(v1::SecureRefusal::REPLAYED));
  EXPECT_FALSE(world.server.has_value());
}

// A refusal would tell the coordinator, who chooses the bound.
TEST(SecureAgentTest, AWeightBeyondTheBoundCountsAsTheBound) {
  World world;
  world.runner.num_examples = 31337;
  ASSERT_TRUE(world.Live().ok());
  ASSERT_TRUE(world.sum.has_value());
  const auto decoded = secagg::DecodeSum(world.Spec(), *world.sum, kPeers + 1);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->total_weight, 100u + 5u * kPeers);
}

TEST(SecureAgentTest, AsksForASigningCertificateThatItLacks) {
  World world;
  world.coordinator.issues_signers = false;
  const auto without = world.Live();
  ASSERT_TRUE(without.ok()) << without.status();
  ASSERT_EQ(world.coordinator.accepted.size(), 1u);
  EXPECT_THAT(world.coordinator.accepted[0].failure().reason(),
              testing::HasSubstr("signing certificate"));
  // The coordinator is newer now, and the round another.
  world.coordinator.issues_signers = true;
  world.coordinator.plans.clear();
  world.coordinator.done.clear();
  world.plan.mutable_key()->set_round(2);
  world.plan.mutable_secure_session()->set_round(2);
  world.plan.mutable_secure_session()->set_session_id(std::string(32, 't'));
  world.coordinator.plans.push_back(world.plan);
  const auto with = world.Live();
  ASSERT_TRUE(with.ok()) << with.status();
  EXPECT_EQ(with->rounds, 1u);
  EXPECT_EQ(world.coordinator.signers_issued, 1);
  world.ExpectSum("round 2");
}

}  // namespace
}  // namespace choir::client
