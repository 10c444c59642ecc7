// The states of the coordinator in a session, one class each. A state collects
// one kind of answer; Close() ends it and gives the next.
//
//   Sharing     collects sealed shares       -> Masking
//   Masking     adds up masked vectors       -> Confirming, or Unmasking
//   Confirming  collects signatures          -> Unmasking
//   Unmasking   collects shares for masks    -> Summing
//   Summing     collects nothing; the sum can be had (server_unmask.h)
//
// ServerSession (server_session.h) drives them. Threads: one at a time.
#ifndef CHOIR_PRIVACY_SECAGG_SERVER_STATES_H_
#define CHOIR_PRIVACY_SECAGG_SERVER_STATES_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "choir/v1/secagg.pb.h"
#include "privacy/crypto/secret.h"
#include "privacy/secagg/credentials.h"
#include "privacy/secagg/graph.h"
#include "privacy/secagg/masked_vector.h"
#include "privacy/secagg/parameters.h"
#include "privacy/secagg/server_session.h"

namespace choir::secagg {

// What all states know. Does not change after the session has begun.
struct ServerFacts {
  v1::SecureSession session;
  std::string session_digest;
  std::string context;
  Parameters parameters;
  Graph graph;
  // Without what is the receiver's own: position and neighbours.
  v1::Roster roster;
  std::vector<v1::AdvertiseKeys> keys;  // by position
  const PeerVerifier& verifier;

  bool confirms() const {
    return session.assumptions().adversary() ==
           v1::SecureAssumptions::SEMI_MALICIOUS;
  }
  const std::string& name(int position) const {
    return keys[position].client();
  }
};

// Shares of one client's secret, by the points of their holders. Wiped when
// they go; there is room for those of all holders from the beginning, because a
// string that grows leaves copies.
struct CollectedShares {
  CollectedShares() = default;
  CollectedShares(CollectedShares&&) noexcept = default;
  CollectedShares& operator=(CollectedShares&&) = delete;
  ~CollectedShares() { crypto::Wipe(shares); }

  std::vector<uint32_t> points;
  std::string shares;  // kSecretBytes each
};

// What the phases leave behind.
struct Harvest {
  std::vector<bool> sharers;
  std::vector<bool> survivors;
  MaskedVector sum;
  std::vector<CollectedShares> collected;  // by position
  // Positions of those who have cost the session its sum: their secrets do not
  // come back although enough of those who hold shares of them answered, and
  // that cannot be the work of one liar among these (where shares are missing,
  // of as many as collude).
  std::vector<int> blamed;
};

class ServerState {
 public:
  explicit ServerState(const ServerFacts& facts, std::vector<bool> expected)
      : facts_(facts),
        expected_(std::move(expected)),
        answered_(expected_.size()) {}
  virtual ~ServerState() = default;

  virtual Phase phase() const = 0;
  // The answer that is waited for.
  virtual v1::SecureClientMessage::MessageCase answer() const = 0;
  // What `position` is told; called only for those that are expected.
  virtual v1::SecureServerMessage MessageFor(int position) const = 0;
  // Of the right kind, from a client that is expected and has not answered.
  // INVALID_ARGUMENT leaves the state unchanged.
  virtual absl::Status Receive(int position,
                               const v1::SecureClientMessage& message,
                               absl::string_view payload) = 0;
  // Consumes the state. Errors: ABORTED if too few are left.
  virtual absl::StatusOr<std::unique_ptr<ServerState>> Close() = 0;

  bool expected(int position) const { return expected_[position]; }
  bool answered(int position) const { return answered_[position]; }
  void SetAnswered(int position) { answered_[position] = true; }
  // What is known about survivors; null before that.
  virtual Harvest* harvest() { return nullptr; }

 protected:
  // ABORTED unless enough clients are in `left`.
  absl::Status CheckEnough(const std::vector<bool>& left,
                           absl::string_view did_what) const;
  // ABORTED unless for each of `sharers` enough of those who hold its shares
  // are in `left`.
  absl::Status CheckHolders(const std::vector<bool>& sharers,
                            const std::vector<bool>& left,
                            absl::string_view did_what) const;

  const ServerFacts& facts_;
  std::vector<bool> expected_;
  std::vector<bool> answered_;
};

class Sharing final : public ServerState {
 public:
  explicit Sharing(const ServerFacts& facts);
  Phase phase() const override { return Phase::kShareKeys; }
  v1::SecureClientMessage::MessageCase answer() const override {
    return v1::SecureClientMessage::kShare;
  }
  v1::SecureServerMessage MessageFor(int position) const override;
  absl::Status Receive(int position, const v1::SecureClientMessage& message,
                       absl::string_view payload) override;
  absl::StatusOr<std::unique_ptr<ServerState>> Close() override;

 private:
  // By position of the sender: one sealed share per neighbour, in order.
  std::vector<std::string> shares_;
};

class Masking final : public ServerState {
 public:
  Masking(const ServerFacts& facts, std::vector<bool> sharers,
          std::vector<std::string> shares);
  Phase phase() const override { return Phase::kMaskedInput; }
  v1::SecureClientMessage::MessageCase answer() const override {
    return v1::SecureClientMessage::kMasked;
  }
  v1::SecureServerMessage MessageFor(int position) const override;
  absl::Status Receive(int position, const v1::SecureClientMessage& message,
                       absl::string_view payload) override;
  absl::StatusOr<std::unique_ptr<ServerState>> Close() override;

 private:
  std::vector<std::string> shares_;
  MaskedVector sum_;
};

// The states that follow Masking.
class AfterMasking : public ServerState {
 public:
  AfterMasking(const ServerFacts& facts, Harvest harvest,
               std::vector<bool> expected);
  Harvest* harvest() override { return &harvest_; }

 protected:
  Harvest harvest_;
  v1::Survivors survivors_;  // as clients are told
};

class Confirming final : public AfterMasking {
 public:
  Confirming(const ServerFacts& facts, Harvest harvest,
             std::vector<bool> expected);
  Phase phase() const override { return Phase::kConfirm; }
  v1::SecureClientMessage::MessageCase answer() const override {
    return v1::SecureClientMessage::kConfirm;
  }
  v1::SecureServerMessage MessageFor(int position) const override;
  absl::Status Receive(int position, const v1::SecureClientMessage& message,
                       absl::string_view payload) override;
  absl::StatusOr<std::unique_ptr<ServerState>> Close() override;

 private:
  std::vector<std::string> signatures_;  // by position
};

class Unmasking final : public AfterMasking {
 public:
  // `signatures`: by position, empty for those who did not sign.
  Unmasking(const ServerFacts& facts, Harvest harvest,
            std::vector<bool> expected, std::vector<std::string> signatures);
  Phase phase() const override { return Phase::kUnmask; }
  v1::SecureClientMessage::MessageCase answer() const override {
    return v1::SecureClientMessage::kUnmask;
  }
  v1::SecureServerMessage MessageFor(int position) const override;
  absl::Status Receive(int position, const v1::SecureClientMessage& message,
                       absl::string_view payload) override;
  absl::StatusOr<std::unique_ptr<ServerState>> Close() override;

 private:
  absl::Status CheckShares(int holder, const v1::UnmaskShares& shares) const;
  bool SharedRubbish(int position) const;

  std::vector<std::string> signatures_;
};

class Summing final : public AfterMasking {
 public:
  Summing(const ServerFacts& facts, Harvest harvest)
      : AfterMasking(facts, std::move(harvest),
                     std::vector<bool>(facts.keys.size(), false)) {}
  Phase phase() const override { return Phase::kDone; }
  v1::SecureClientMessage::MessageCase answer() const override {
    return v1::SecureClientMessage::MESSAGE_NOT_SET;
  }
  v1::SecureServerMessage MessageFor(int position) const override;
  absl::Status Receive(int position, const v1::SecureClientMessage& message,
                       absl::string_view payload) override;
  absl::StatusOr<std::unique_ptr<ServerState>> Close() override;
};

}  // namespace choir::secagg

#endif  // CHOIR_PRIVACY_SECAGG_SERVER_STATES_H_
