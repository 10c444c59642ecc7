// One client's part in one secure aggregation, without I/O: messages in,
// messages out. There is one class per state (client_states.h), each made from
// the one before and a checked message; this class holds the current one.
//
// Source: Bonawitz et al. (CCS 2017), with the graph of Bell et al. (CCS 2020)
//         and a signed consistency check.
#ifndef CHOIR_PRIVACY_SECAGG_CLIENT_SESSION_H_
#define CHOIR_PRIVACY_SECAGG_CLIENT_SESSION_H_

#include <memory>
#include <string>

#include "absl/types/optional.h"
#include "base/secure_random.h"
#include "choir/v1/secagg.pb.h"
#include "privacy/secagg/credentials.h"
#include "privacy/secagg/masked_vector.h"

namespace choir::secagg {

// What the client holds the session against.
struct ClientExpectations {
  // Digests of what it really trained with.
  std::string model_digest;
  std::string config_digest;
  // Its own floor; the session's min_clients may ask for more.
  int min_clients = 3;
  // Takes part only if survivors are confirmed by signatures (SEMI_MALICIOUS).
  bool require_confirmation = false;
  // Its own floor for the session's corrupt_fraction, from which neighbours and
  // threshold follow.
  double min_corrupt_fraction = 0.0;
  // Gives nobody's shares away for a second sum of the same model, in whatever
  // job: the difference of two sums over almost the same clients is one's own
  // vector.
  bool one_sum_per_model = false;
};

// All outlive the session.
struct ClientEnvironment {
  const Signer& signer;
  const PeerVerifier& verifier;
  SessionHistory& history;
  base::SecureRandom& random;
};

// Most neighbours that a refusal names.
inline constexpr size_t kMaxPeersNamed = 16;

// Overwrites the shares of others' secrets that `message` reveals, if it does.
void WipeShares(v1::SecureClientMessage& message);

// Wipes the shares in it when it goes.
struct ClientStep {
  ClientStep() = default;
  ClientStep(const ClientStep&) = default;
  ClientStep(ClientStep&&) noexcept = default;
  ClientStep& operator=(const ClientStep& other) {
    return *this = ClientStep(other);
  }
  ClientStep& operator=(ClientStep&&) noexcept = default;
  ~ClientStep() { WipeShares(message); }

  // To be sent; a refusal ends the session.
  v1::SecureClientMessage message;
  // With a MaskedInput: the encoded masked vector, to be uploaded before.
  std::string payload;
  bool refused() const { return message.has_refusal(); }
};

// Threads: one thread at a time. Secrets are wiped as soon as the state that
// needs them is left, and by the destructor. Nothing is ever revealed twice:
// a session answers each message once, and a repeated one with what it said.
class ClientSession {
 public:
  ClientSession(v1::SecureSession session, ClientExpectations expectations,
                MaskedVector input, const ClientEnvironment& environment);
  ~ClientSession();
  ClientSession(ClientSession&&) noexcept;
  ClientSession& operator=(ClientSession&&) noexcept;

  // The first message: AdvertiseKeys, or a refusal.
  ClientStep Start();
  // The answer to the coordinator's message. None to SecureDone and
  // SecureAbort, which end the session, to the repetition of a message older
  // than the last one, and to anything once finished().
  absl::optional<ClientStep> Handle(const v1::SecureServerMessage& message);
  // Done, aborted or refused; nothing secret is left.
  bool finished() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace choir::secagg

#endif  // CHOIR_PRIVACY_SECAGG_CLIENT_SESSION_H_
