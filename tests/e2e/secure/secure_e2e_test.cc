// 48 agents over gRPC with mutual TLS whose updates are summed in secret; a
// fifth of them dies in each round, at any moment of the protocol. Every sum
// must be the plain sum of the survivors' updates, element by element.
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/files.h"
#include "base/log.h"
#include "base/sim_random.h"
#include "client/agent/agent.h"
#include "client/rpc/grpc_transport.h"
#include "coordinator/aggregate/integer_sum.h"
#include "coordinator/store/store.h"
#include "gtest/gtest.h"
#include "model/adapter/lora_layout.h"
#include "model/checkpoint/model_config.h"
#include "model/compute.h"
#include "proto/config/job_options.h"
#include "proto/config/toml_config.h"
#include "tests/support/cluster.h"
#include "tests/support/golden.h"

namespace choir::tests {
namespace {

constexpr int kAgents = 48;
constexpr int kDropping = 10;  // of each round's 48
constexpr int kRounds = 10;
// Longer than phase_deadline.
constexpr absl::Duration kSilence = absl::Seconds(24);

struct Trained {
  std::vector<float> update;
  uint64_t weight = 0;
};

// What all clients trained, by round and attempt, then by name.
class Records {
 public:
  void Add(const v1::TaskKey& key, const std::string& name, Trained trained) {
    absl::MutexLock lock(&mu_);
    all_[{key.round(), key.attempt()}][name] = std::move(trained);
  }
  Trained Get(uint32_t round, uint32_t attempt, const std::string& name) {
    absl::MutexLock lock(&mu_);
    return all_[{round, attempt}][name];
  }

 private:
  absl::Mutex mu_;
  std::map<std::pair<uint32_t, uint32_t>, std::map<std::string, Trained>> all_;
};

// Trains as usual, and notes the update.
class NotingRunner final : public client::TaskRunner {
 public:
  NotingRunner(std::string name, client::TaskRunner& runner, Records& records)
      : name_(std::move(name)), runner_(runner), records_(records) {}
  v1::Capabilities capabilities() const override {
    return runner_.capabilities();
  }
  absl::StatusOr<client::TaskResult> Run(
      const v1::TaskPlan& plan, const std::string& folder,
      absl::string_view digest, absl::string_view adapter,
      const model::ProgressFn& progress) override {
    auto result = runner_.Run(plan, folder, digest, adapter, progress);
    if (result.ok() && result->report.has_train()) {
      EXPECT_TRUE(result->update_bytes.empty());
      records_.Add(
          plan.key(), name_,
          {result->secure_update, result->report.train().num_examples()});
    }
    return result;
  }

 private:
  const std::string name_;
  client::TaskRunner& runner_;
  Records& records_;
};

class LifeSleeper final : public client::Sleeper {
 public:
  void Sleep(absl::Duration duration) override {
    absl::MutexLock lock(&mu_);
    mu_.AwaitWithTimeout(absl::Condition(&stopping_), duration);
  }
  bool stopping() const override {
    absl::MutexLock lock(&mu_);
    return stopping_;
  }
  void Stop() {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }

 private:
  mutable absl::Mutex mu_;
  bool stopping_ = false;
};

// The message that a client does not live to send, in the protocol's order; -1
// if it lives.
int DropAt(uint32_t round, uint32_t attempt, const std::string& name) {
  if (attempt > 1) return -1;
  std::vector<std::pair<uint64_t, std::string>> order;
  for (int i = 0; i < kAgents; ++i) {
    const std::string other = absl::StrFormat("c%02d", i);
    order.emplace_back(base::DeriveSeed(round, {"drops", other}), other);
  }
  std::sort(order.begin(), order.end());
  for (int i = 0; i < kDropping; ++i) {
    if (order[i].second == name) return i % 5;
  }
  return -1;
}

int PhaseOf(const v1::SecureClientMessage& message) {
  if (message.has_advertise()) return 0;
  if (message.has_share()) return 1;
  if (message.has_masked()) return 2;
  if (message.has_confirm()) return 3;
  if (message.has_unmask()) return 4;
  return -1;
}

// Dies where DropAt() says so.
class MortalTransport final : public client::Transport {
 public:
  MortalTransport(std::string name, client::Transport& transport,
                  LifeSleeper& life, std::atomic<int>& deaths)
      : name_(std::move(name)),
        transport_(transport),
        life_(life),
        deaths_(deaths) {}

  absl::StatusOr<v1::SecureExchangeResponse> SecureExchange(
      const v1::SecureExchangeRequest& request) override {
    const v1::TaskKey& key = request.key();
    if (DropAt(key.round(), key.attempt(), name_) ==
        PhaseOf(request.message())) {
      died_in_ = static_cast<int>(key.round());
      ++deaths_;
      life_.Stop();
      return absl::CancelledError("killed");
    }
    return transport_.SecureExchange(request);
  }

  absl::Status UseIdentity(absl::string_view certificate,
                           absl::string_view key) override {
    return transport_.UseIdentity(certificate, key);
  }
  absl::StatusOr<v1::EnrollResponse> Enroll(
      const v1::EnrollRequest& request) override {
    return transport_.Enroll(request);
  }
  absl::StatusOr<v1::RenewCertificateResponse> RenewCertificate(
      const v1::RenewCertificateRequest& request) override {
    return transport_.RenewCertificate(request);
  }
  absl::StatusOr<v1::CheckInResponse> CheckIn(
      const v1::CheckInRequest& request) override {
    return transport_.CheckIn(request);
  }
  absl::Status Download(const v1::DownloadRequest& request,
                        const client::ChunkSink& sink) override {
    return transport_.Download(request, sink);
  }
  absl::StatusOr<v1::UploadStatusResponse> GetUploadStatus(
      const v1::UploadStatusRequest& request) override {
    return transport_.GetUploadStatus(request);
  }
  absl::StatusOr<v1::UploadStatusResponse> Upload(
      const client::ChunkSource& source) override {
    return transport_.Upload(source);
  }
  absl::StatusOr<v1::ReportResponse> Report(
      const v1::ReportRequest& request) override {
    return transport_.Report(request);
  }
  void Cancel() override { transport_.Cancel(); }

  // 0: it has not.
  int died_in() const { return died_in_; }

 private:
  const std::string name_;
  client::Transport& transport_;
  LifeSleeper& life_;
  std::atomic<int>& deaths_;
  int died_in_ = 0;
};

class SecureE2eTest : public testing::Test {
 protected:
  SecureE2eTest() { cluster_.StartCoordinator(); }

  client::ClientOptions AddAgent(const std::string& name) {
    const std::string data = cluster_.PathOf(name + ".jsonl");
    const size_t examples = 3 + base::DeriveSeed(1, {name}) % 20;
    EXPECT_TRUE(base::WriteFileAtomic(
                    data, MakeExamples(name, static_cast<int>(examples)))
                    .ok());
    cluster_.AddAgent(name, data);
    v1::ClientConfig config;
    EXPECT_TRUE(
        config::LoadTomlFile(cluster_.PathOf(name + ".toml"), {}, &config)
            .ok());
    const auto options = client::ResolveClient(config);
    EXPECT_TRUE(options.ok()) << options.status();
    return *options;
  }

  // Lives and dies and lives again, until told to stop.
  void Live(const client::ClientOptions& options) {
    model::PrepareTrainingThread();
    const base::WallClock clock;
    base::SystemRandom random;
    auto local = client::LocalTaskRunner::Create(options, clock);
    ASSERT_TRUE(local.ok()) << local.status();
    NotingRunner runner(options.name, **local, records_);
    client::GrpcTransportOptions dial;
    dial.address = options.coordinator;
    dial.ca_certificate_pem = *base::ReadFile(options.ca_certificate);
    while (!over_) {
      auto grpc = client::MakeGrpcTransport(dial);
      ASSERT_TRUE(grpc.ok());
      LifeSleeper life;
      MortalTransport transport(options.name, **grpc, life, deaths_);
      {
        absl::MutexLock lock(&mu_);
        if (over_) return;
        alive_[options.name] = {&life, grpc->get()};
      }
      auto state = client::StateDir::Open(options.state);
      // A command that the test is just starting may hold the lock's copy.
      while (absl::IsFailedPrecondition(state.status())) {
        absl::SleepFor(absl::Milliseconds(5));
        state = client::StateDir::Open(options.state);
      }
      ASSERT_TRUE(state.ok()) << state.status();
      client::Agent agent(options, *std::move(state),
                          {transport, runner, clock, random, life});
      const auto summary = agent.Run(0);
      {
        absl::MutexLock lock(&mu_);
        alive_.erase(options.name);
      }
      ASSERT_TRUE(summary.ok()) << options.name << ": " << summary.status();
      refusals_ += static_cast<int>(summary->secure_refusals);
      accepted_ += static_cast<int>(summary->rounds);
      // In two rounds one of the dead stays away beyond the phase's end.
      if (transport.died_in() % 5 == 2 &&
          DropAt(transport.died_in(), 1, options.name) == 1 && !over_) {
        absl::SleepFor(kSilence);
      }
    }
  }

  void StopAll() {
    absl::MutexLock lock(&mu_);
    over_ = true;
    for (auto& [name, agent] : alive_) {
      agent.first->Stop();
      agent.second->Cancel();
    }
  }

  Cluster cluster_;
  Records records_;
  std::atomic<bool> over_{false};
  std::atomic<int> deaths_{0};
  std::atomic<int> refusals_{0};
  std::atomic<int> accepted_{0};
  absl::Mutex mu_;
  std::map<std::string, std::pair<LifeSleeper*, client::Transport*>> alive_;
};

// Those whose masked vectors come in the first attempt at a round.
std::vector<std::string> ExpectedSurvivors(uint32_t round) {
  std::vector<std::string> names;
  for (int i = 0; i < kAgents; ++i) {
    const std::string name = absl::StrFormat("c%02d", i);
    const int drop = DropAt(round, 1, name);
    if (drop == -1 || drop > 2) names.push_back(name);
  }
  return names;
}

// The committed sums against plain ones of the updates that were noted. How
// many rounds were committed at the first try, with the deaths that are due.
void CheckSums(const std::string& store_dir, Records& records,
               int* first_tries) {
  const auto config = model::LoadModelConfig(
      base::JoinPath(SourceDir(), "tests/data/micro-llama/config.json"));
  ASSERT_TRUE(config.ok()) << config.status();
  base::WallClock clock;
  const auto store =
      store::Store::Open(store_dir, base::Durability::kProcessCrash, clock);
  ASSERT_TRUE(store.ok()) << store.status();
  codec::Layout layout;
  int rounds = 0;
  const auto check = [&](const store::JournalEntry& entry) {
    if (entry.record.has_job_submitted()) {
      layout = *model::AdapterLayout(
          *config, *config::ResolveAdapter(
                       entry.record.job_submitted().config().adapter()));
    }
    if (!entry.record.has_round_committed()) return absl::OkStatus();
    ++rounds;
    const v1::RoundCommitted& committed = entry.record.round_committed();
    auto plain = aggregate::IntegerSum::Create(layout, 24);
    EXPECT_TRUE(plain.ok());
    for (const std::string& name : committed.survivors()) {
      const Trained trained =
          records.Get(committed.round(), committed.attempt(), name);
      EXPECT_TRUE(plain->Add(trained.update, trained.weight).ok()) << name;
    }
    const auto bytes = (*store)->blobs().Read(committed.aggregate().digest());
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    const auto secret = aggregate::IntegerSum::Decode(bytes.value_or(""));
    EXPECT_TRUE(secret.ok()) << secret.status();
    if (!secret.ok()) return secret.status();
    EXPECT_TRUE(secret->sums() == plain->sums()) << committed.round();
    EXPECT_EQ(secret->total_weight(), plain->total_weight());
    EXPECT_EQ(secret->num_updates(), plain->num_updates());
    EXPECT_GE(committed.survivors_size(), 34);
    if (committed.attempt() == 1) {
      ++*first_tries;
      const auto& survivors = committed.survivors();
      EXPECT_EQ(std::vector<std::string>(survivors.begin(), survivors.end()),
                ExpectedSurvivors(committed.round()))
          << "round " << committed.round();
    }
    return absl::OkStatus();
  };
  EXPECT_TRUE((*store)->journal().ForEach(check).ok());
  EXPECT_EQ(rounds, kRounds);
}

TEST_F(SecureE2eTest, SumsOfSurvivorsAreExactWhoeverDiesWhenever) {
  model::ConfigureCompute(1);
  base::SetLogLevel(base::LogLevel::kOff);
  std::vector<client::ClientOptions> options;
  for (int i = 0; i < kAgents; ++i) {
    options.push_back(AddAgent(absl::StrFormat("c%02d", i)));
  }
  std::vector<std::thread> threads;
  for (const client::ClientOptions& its : options) {
    threads.emplace_back([this, &its] { Live(its); });
  }
  cluster_.Submit(MicroJob("secret", kRounds, kAgents,
                           "min_survivors = 34\nmin_available = 48\n"
                           "[aggregation]\nweighting = \"examples\"\n"
                           "[evaluation]\nevery = 0\n"
                           "[secure_aggregation]\nenabled = true\n"
                           "dropout_fraction = 0.3\nmin_clients = 16\n"
                           "phase_deadline = \"20s\"\n"));
  const JobView job = cluster_.AwaitJob("secret", absl::Seconds(400));
  StopAll();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(job.state, "done") << cluster_.Logs();
  EXPECT_EQ(job.rounds_committed, kRounds);
  EXPECT_EQ(refusals_, 0);
  // The last round's answers may come after the end of all.
  EXPECT_GE(accepted_, (kRounds - 1) * (kAgents - kDropping));
  EXPECT_EQ(VerifyProblem(cluster_.store()), "");
  cluster_.coordinator()->Signal(SIGTERM);
  ASSERT_TRUE(cluster_.coordinator()->Wait(absl::Seconds(20)));
  int first_tries = 0;
  CheckSums(cluster_.store(), records_, &first_tries);
  EXPECT_GE(first_tries, kRounds - 2);
  EXPECT_GE(deaths_, first_tries * kDropping);
}

}  // namespace
}  // namespace choir::tests
