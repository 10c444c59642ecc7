// The states of a client in a session, one class each. A state is left by
// handing it the message it waits for: the method consumes the state (and with
// it the secrets that are no longer needed) and gives the next state and the
// answer, or the reason why the client refuses.
//
//   Advertised  waits for the roster          -> Shared,    ShareKeys
//   Shared      waits for peers' shares       -> Masked,    MaskedInput
//   Masked      waits for the survivors       -> Confirmed, SurvivorsSignature
//   Confirmed   waits for the unmask request  -> Revealed,  UnmaskShares
//   (Masked goes to Revealed at once if nothing is confirmed: curious
//   adversary)
//
// ClientSession (client_session.h) drives them. Threads: one at a time.
#ifndef CHOIR_PRIVACY_SECAGG_CLIENT_STATES_H_
#define CHOIR_PRIVACY_SECAGG_CLIENT_STATES_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "absl/types/variant.h"
#include "choir/v1/secagg.pb.h"
#include "privacy/crypto/key_agreement.h"
#include "privacy/crypto/secret.h"
#include "privacy/secagg/client_session.h"
#include "privacy/secagg/graph.h"
#include "privacy/secagg/masked_vector.h"
#include "privacy/secagg/parameters.h"

namespace choir::secagg {

struct Refusal {
  v1::SecureRefusal::Reason reason = v1::SecureRefusal::REASON_UNSPECIFIED;
  std::string detail;
  // Neighbours because of whose keys the client leaves.
  std::vector<std::string> peers = {};
};
using MaybeRefusal = absl::optional<Refusal>;
template <typename T>
using OrRefusal = absl::variant<T, Refusal>;

// A state and what is said on entering it.
template <typename State, typename Message>
struct Step {
  State state;
  Message message;
};

// A vector whose values are overwritten when it goes.
class SecretVector {
 public:
  explicit SecretVector(MaskedVector vector) : vector_(std::move(vector)) {}
  SecretVector(SecretVector&& other) noexcept
      : vector_(std::move(other.vector_)),
        secret_(std::exchange(other.secret_, false)) {}
  SecretVector& operator=(SecretVector&&) = delete;
  ~SecretVector();
  // It is masked now; nothing needs to be overwritten.
  void NotSecretAnyMore() { secret_ = false; }
  MaskedVector& get() { return vector_; }
  const MaskedVector& get() const { return vector_; }

 private:
  MaskedVector vector_;
  bool secret_ = true;
};

struct Neighbour {
  int position = 0;
  std::string mask_public_key;
  // Ed25519, from its certificate.
  std::string signing_key;
  // Opens what it encrypts for us.
  crypto::SecretString open_key;
  // It sent us shares.
  bool shared = false;
  // What we hold of its secrets; empty if its shares could not be opened.
  crypto::SecretString self_mask_share;
  crypto::SecretString mask_key_share;
};

// What all states know. Secret are only the keys and shares of neighbours.
struct ClientFacts {
  v1::SecureSession session;
  ClientExpectations expectations;
  ClientEnvironment environment;
  std::string session_digest;
  std::string name;
  std::string entry_digest;
  // From the roster on.
  Parameters parameters;
  std::string context;
  int position = 0;
  // Who shared, as the coordinator said (v1::ReceivedShares).
  std::string sharers;
  // Whether we hold shares of our own secrets (complete graph).
  bool holds_own = false;
  std::vector<Neighbour> neighbours;  // by position

  bool confirms() const {
    return session.assumptions().adversary() ==
           v1::SecureAssumptions::SEMI_MALICIOUS;
  }
  Neighbour* FindNeighbour(uint32_t peer);
  // Of what was revealed in this session and must not be for another. Whatever
  // the coordinator calls the job: it could have as many as it likes.
  std::string SumToken() const;
  // Of the attempt at the round. With the settings, so that a job of the same
  // name at a coordinator that began anew can be another one.
  std::string RoundToken() const;
};
// Why `what` cannot be remembered.
Refusal FromHistory(const absl::Status& status, absl::string_view what);
using FactsPtr = std::unique_ptr<ClientFacts>;

// Our own secrets until masking.
struct OwnSecrets {
  crypto::X25519Key mask_key;
  // Until shares are sealed.
  absl::optional<crypto::X25519Key> share_key;
  crypto::SecretString self_mask_seed;
};

class Revealed {};

class Confirmed {
 public:
  // `survivors` were checked (by Masked).
  Confirmed(FactsPtr facts, crypto::SecretString own_share,
            v1::Survivors survivors)
      : facts_(std::move(facts)),
        own_share_(std::move(own_share)),
        survivors_(std::move(survivors)) {}
  OrRefusal<Step<Revealed, v1::UnmaskShares>> OnUnmask(
      const v1::UnmaskRequest& request) &&;

 private:
  MaybeRefusal CheckSignatures(const v1::UnmaskRequest& request) const;

  FactsPtr facts_;
  crypto::SecretString own_share_;
  v1::Survivors survivors_;
};

class Masked {
 public:
  Masked(FactsPtr facts, crypto::SecretString own_share)
      : facts_(std::move(facts)), own_share_(std::move(own_share)) {}
  OrRefusal<Step<Confirmed, v1::SurvivorsSignature>> OnSurvivors(
      const v1::Survivors& survivors) &&;
  // Only if nothing is confirmed.
  OrRefusal<Step<Revealed, v1::UnmaskShares>> OnUnmask(
      const v1::UnmaskRequest& request) &&;

 private:
  MaybeRefusal CheckSurvivors(const v1::Survivors& survivors) const;

  FactsPtr facts_;
  // Our share of our own self-mask seed (complete graph).
  crypto::SecretString own_share_;
};

struct MaskedUpload {
  v1::MaskedInput message;
  std::string payload;
};

class Shared {
 public:
  Shared(FactsPtr facts, OwnSecrets secrets, crypto::SecretString own_share,
         SecretVector input)
      : facts_(std::move(facts)),
        secrets_(std::move(secrets)),
        own_share_(std::move(own_share)),
        input_(std::move(input)) {}
  OrRefusal<Step<Masked, MaskedUpload>> OnShares(
      const v1::ReceivedShares& received) &&;

 private:
  MaybeRefusal CheckSharers(const v1::ReceivedShares& received);
  MaybeRefusal OpenShares(const v1::ReceivedShares& received);

  FactsPtr facts_;
  OwnSecrets secrets_;
  crypto::SecretString own_share_;
  SecretVector input_;
};

class Advertised {
 public:
  static OrRefusal<Step<Advertised, v1::AdvertiseKeys>> Create(
      v1::SecureSession session, ClientExpectations expectations,
      SecretVector input, const ClientEnvironment& environment);
  OrRefusal<Step<Shared, v1::ShareKeys>> OnRoster(const v1::Roster& roster) &&;

 private:
  Advertised(FactsPtr facts, OwnSecrets secrets, SecretVector input)
      : facts_(std::move(facts)),
        secrets_(std::move(secrets)),
        input_(std::move(input)) {}
  MaybeRefusal CheckEntries(const v1::Roster& roster) const;
  MaybeRefusal CheckParameters(const v1::Roster& roster);
  // Fills facts_->neighbours.
  MaybeRefusal CheckNeighbours(const v1::Roster& roster, const Graph& graph);
  MaybeRefusal CheckUnseen(const v1::Roster& roster) const;
  MaybeRefusal CheckPeer(const v1::Roster& roster,
                         const v1::Roster::Neighbour& peer);
  // Also derives the keys that open the neighbours' shares for us.
  absl::StatusOr<v1::ShareKeys> MakeShares(const v1::Roster& roster,
                                           const Graph& graph,
                                           crypto::SecretString& own_share);

  FactsPtr facts_;
  OwnSecrets secrets_;
  SecretVector input_;
};

}  // namespace choir::secagg

#endif  // CHOIR_PRIVACY_SECAGG_CLIENT_STATES_H_
