// Clients, a coordinator and an authority for tests of secure aggregation. All
// randomness follows from a seed, so that a test can make the same client
// twice: an honest client never acts twice, and with a second copy a test has
// one that does.
#ifndef CHOIR_TESTS_SUPPORT_SECAGG_WORLD_H_
#define CHOIR_TESTS_SUPPORT_SECAGG_WORLD_H_

#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "base/secure_random.h"
#include "base/thread_pool.h"
#include "privacy/crypto/signing.h"
#include "privacy/crypto/symmetric.h"
#include "privacy/secagg/client_session.h"
#include "privacy/secagg/credentials.h"
#include "privacy/secagg/server_session.h"

namespace choir::secagg {

// A stream of AES-256 in counter mode, its key made from `seed`.
class SeededRandom final : public base::SecureRandom {
 public:
  explicit SeededRandom(uint64_t seed);
  void Fill(absl::Span<uint8_t> out) override;

 private:
  crypto::AesCtrStream stream_;
};

// Binds names to keys with a signature of its own, in the place of X.509.
class TestAuthority final : public PeerVerifier {
 public:
  // `padding`: bytes that make its certificates as long as real ones.
  explicit TestAuthority(uint64_t seed, size_t padding = 0);
  std::string Issue(absl::string_view name, absl::string_view public_key) const;
  absl::StatusOr<std::string> PublicKeyOf(
      absl::string_view name, absl::string_view certificate) const override;

 private:
  crypto::SigningKey key_;
  std::string public_key_;
  size_t padding_;
};

// Verifies each certificate once. Threads: one.
class CachingVerifier final : public PeerVerifier {
 public:
  explicit CachingVerifier(const PeerVerifier& verifier)
      : verifier_(verifier) {}
  absl::StatusOr<std::string> PublicKeyOf(
      absl::string_view name, absl::string_view certificate) const override;

 private:
  const PeerVerifier& verifier_;
  mutable std::set<std::string> known_;
};

// The defence switched off: believes every certificate of a TestAuthority.
class GullibleVerifier final : public PeerVerifier {
 public:
  absl::StatusOr<std::string> PublicKeyOf(
      absl::string_view name, absl::string_view certificate) const override;
};

class TestSigner final : public Signer {
 public:
  TestSigner(std::string name, uint64_t seed, const TestAuthority& authority);
  const std::string& name() const override { return name_; }
  const std::string& certificate() const override { return certificate_; }
  absl::StatusOr<std::string> Sign(absl::string_view text) const override;

 private:
  std::string name_;
  crypto::SigningKey key_;
  std::string certificate_;
};

class MemoryHistory final : public SessionHistory {
 public:
  absl::Status Remember(absl::string_view token) override;
  bool Remembers(absl::string_view token) const override {
    return seen_.count(std::string(token)) > 0;
  }
  // The defence switched off.
  void ForgetAll() { seen_.clear(); }
  // From now on nothing can be remembered.
  void Break(absl::Status fault) { fault_ = std::move(fault); }

 private:
  absl::Status fault_;
  std::set<std::string> seen_;
};

struct WorldOptions {
  int clients = 5;
  v1::SecureAssumptions::Adversary adversary =
      v1::SecureAssumptions::SEMI_MALICIOUS;
  double corrupt_fraction = 0.1;
  double dropout_fraction = 0.1;
  int min_clients = 3;
  int modulus_bits = 20;
  uint64_t length = 17;
  uint64_t seed = 1;
  size_t certificate_padding = 0;
};

class World {
 public:
  explicit World(const WorldOptions& options);

  int size() const { return static_cast<int>(signers_.size()); }
  const std::string& name(int i) const { return signers_[i]->name(); }
  // Position in `names`, or -1.
  int IndexOf(absl::string_view name) const;

  // What it adds: values below 2^modulus_bits / clients.
  MaskedVector Input(int i) const;
  // The sum of the inputs of `names`, as plain integers.
  std::vector<uint64_t> PlainSum(const std::vector<std::string>& names) const;

  ClientExpectations expectations() const;
  // Client i with fresh secrets; the same ones for the same `life`.
  ClientSession Client(int i, int life = 0);
  ClientSession Client(int i, MaskedVector input, int life = 0);
  // Of its randomness.
  uint64_t ClientSeed(int i, int life = 0) const;
  ClientEnvironment Environment(int i, base::SecureRandom& random);
  TestSigner& signer(int i) { return *signers_[i]; }
  MemoryHistory& history(int i) { return histories_[i]; }
  const PeerVerifier& verifier() const { return *verifier_; }
  void set_verifier(const PeerVerifier& verifier) { verifier_ = &verifier; }
  const TestAuthority& authority() const { return authority_; }

  v1::SecureSession session;

 private:
  WorldOptions options_;
  TestAuthority authority_;
  CachingVerifier caching_;
  const PeerVerifier* verifier_;
  std::vector<std::unique_ptr<TestSigner>> signers_;
  std::vector<MemoryHistory> histories_;
  std::vector<std::unique_ptr<SeededRandom>> randoms_;
};

// When a client falls silent: before it answers what opens that phase.
enum class Fate { kStays, kNoShares, kNoMasked, kNoConfirm, kNoUnmask };

// Clients that have advertised their keys, and the coordinator's session.
struct Federation {
  std::vector<ClientSession> clients;
  std::vector<v1::AdvertiseKeys> keys;
  absl::optional<ServerSession> server;
};
// All clients of `world`. The server is none if it cannot be created.
Federation Advertise(World& world);

// Answers of all clients to the current phase, those of `fates` excepted.
// Returns the first error of the server.
absl::Status AnswerPhase(const World& world, Federation& federation,
                         const std::vector<Fate>& fates);

struct RoundResult {
  absl::Status status;
  // The phase that could not be closed, or kDone.
  Phase ended_in = Phase::kDone;
  absl::optional<MaskedVector> sum;
  std::vector<std::string> survivors;
};
RoundResult RunRound(World& world, const std::vector<Fate>& fates,
                     base::ThreadPool* pool = nullptr);

// Empty if equal, or where they differ.
std::string Difference(const MaskedVector& sum,
                       const std::vector<uint64_t>& plain);

}  // namespace choir::secagg

#endif  // CHOIR_TESTS_SUPPORT_SECAGG_WORLD_H_
