// In-process clients of secure rounds: their updates are those of FakeFleet,
// their sessions the real ones.
#ifndef CHOIR_TESTS_INTEGRATION_RUNNER_SECURE_FLEET_H_
#define CHOIR_TESTS_INTEGRATION_RUNNER_SECURE_FLEET_H_

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/optional.h"
#include "coordinator/aggregate/integer_sum.h"
#include "tests/integration/runner/fake_fleet.h"
#include "tests/support/secagg_world.h"

namespace choir::runner {

// What client `client` adds to a round of this plan.
struct ClientUpdate {
  std::vector<float> values;
  uint64_t weight = 0;
};

class SecureFleet {
 public:
  // `store` outlives the fleet.
  SecureFleet(std::vector<std::string> clients, store::Store& store,
              base::ManualClock& clock, uint64_t seed = 1);
  ~SecureFleet();

  absl::Status Start(const config::JobOptions& options,
                     const RunnerOptions& runner_options = {},
                     base::ThreadPool* pool = nullptr);
  // Everyone does what it can, in turn, until the job is finished.
  absl::Status Run();
  absl::Status Turn();
  // One client's turn; whether it did anything but ask for work.
  absl::StatusOr<bool> Act(const std::string& client);
  // Hands in the message that the client has ready.
  absl::Status Deliver(const std::string& client);

  // Asked before a client sends a message of a phase: true makes it vanish
  // until the attempt is over.
  std::function<bool(const std::string& client, const v1::TaskKey& key,
                     absl::string_view phase)>
      vanishes;
  // May change what a client sends.
  std::function<void(const std::string& client,
                     v1::SecureExchangeRequest& request, std::string& payload)>
      tamper;
  // May change what a client is told: a session, or what follows in it.
  std::function<void(const std::string& client, v1::SecureSession& session)>
      mislead_at_start;
  std::function<void(const std::string& client,
                     v1::SecureServerMessage& message)>
      mislead;
  secagg::MemoryHistory& history(const std::string& client) {
    return clients_.at(client).history;
  }
  // The coordinator says this to a client, out of turn.
  void Tell(const std::string& client, v1::SecureServerMessage message) {
    clients_.at(client).answer = std::move(message);
  }
  const secagg::TestSigner& signer(const std::string& client) const {
    return *clients_.at(client).signer;
  }
  // These do not answer anew when a message of theirs was refused as broken.
  std::set<std::string> stubborn;
  // Certificates of these have expired, whoever asks.
  std::set<std::string>& expired() { return verifier_.expired; }
  // Every message is handed in so many times.
  int times = 1;

  JobRunner& runner() { return *runner_; }
  void StopRunner() { runner_.reset(); }
  const std::vector<v1::JournalRecord>& records() const { return records_; }
  const codec::Layout& layout() const { return layout_; }
  absl::StatusOr<ClientUpdate> UpdateOf(const v1::TaskPlan& plan) const;
  // The plain sum of what `names` were asked for in round `round`.
  aggregate::IntegerSum PlainSum(uint32_t round,
                                 const std::vector<std::string>& names) const;
  // What must stay secret: random bytes of clients, shares they revealed, and
  // bytes of their updates.
  const std::vector<std::string>& secrets() const { return secrets_; }
  std::vector<v1::SecureRefusal> refusals;

 private:
  class Recorder;
  class ExpiringVerifier final : public secagg::PeerVerifier {
   public:
    explicit ExpiringVerifier(const secagg::PeerVerifier& verifier)
        : verifier_(verifier) {}
    absl::StatusOr<std::string> PublicKeyOf(
        absl::string_view name, absl::string_view certificate) const override {
      if (expired.count(std::string(name)) > 0) {
        return absl::PermissionDeniedError("the certificate has expired");
      }
      return verifier_.PublicKeyOf(name, certificate);
    }
    std::set<std::string> expired;

   private:
    const secagg::CachingVerifier verifier_;
  };
  struct Client {
    std::unique_ptr<secagg::TestSigner> signer;
    secagg::MemoryHistory history;
    std::unique_ptr<Recorder> random;
    absl::optional<v1::TaskPlan> plan;
    absl::optional<secagg::ClientSession> session;
    absl::optional<secagg::ClientStep> ready;  // not answered yet
    absl::optional<absl::StatusOr<v1::SecureServerMessage>> answer;
    absl::optional<v1::TaskKey> gone;  // until this attempt is over
  };

  absl::Status Begin(Client& client);
  void End(Client& client);
  void NoteSecrets(const secagg::ClientStep& step);

  std::vector<std::string> names_;
  store::Store& store_;
  base::ManualClock& clock_;
  secagg::TestAuthority authority_;
  ExpiringVerifier verifier_;
  secagg::SeededRandom random_;
  config::JobOptions options_;
  codec::Layout layout_;
  std::map<std::string, Client> clients_;
  // By round and client.
  std::map<uint32_t, std::map<std::string, ClientUpdate>> updates_;
  std::vector<v1::JournalRecord> records_;
  std::vector<std::string> secrets_;
  std::unique_ptr<JobRunner> runner_;
};

}  // namespace choir::runner

#endif  // CHOIR_TESTS_INTEGRATION_RUNNER_SECURE_FLEET_H_
