#include "privacy/secagg/server_states.h"

#include <algorithm>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "privacy/crypto/signing.h"
#include "privacy/crypto/symmetric.h"
#include "privacy/secagg/parameters.h"
#include "privacy/secagg/shamir.h"
#include "privacy/secagg/transcript.h"

namespace choir::secagg {
namespace {

// Shares of two secrets.
constexpr size_t kSealedBytes = 2 * kSecretBytes + crypto::kSealOverhead;

}  // namespace

absl::Status ServerState::CheckEnough(const std::vector<bool>& left,
                                      absl::string_view did_what) const {
  const Parameters& parameters = facts_.parameters;
  const int64_t count = absl::c_count(left, true);
  if (count >= parameters.min_survivors) return absl::OkStatus();
  return absl::AbortedError(
      absl::StrCat("only ", count, " of ", parameters.num_clients, " clients ",
                   did_what, "; ", parameters.min_survivors, " are needed"));
}

absl::Status ServerState::CheckHolders(const std::vector<bool>& sharers,
                                       const std::vector<bool>& left,
                                       absl::string_view did_what) const {
  for (size_t i = 0; i < sharers.size(); ++i) {
    if (!sharers[i]) continue;
    const int64_t holders =
        absl::c_count_if(facts_.graph.HoldersOf(static_cast<int>(i)),
                         [&](int holder) { return left[holder]; });
    if (holders < facts_.parameters.threshold) {
      return absl::AbortedError(absl::StrCat(
          "only ", holders, " of those who hold shares of client '",
          facts_.name(static_cast<int>(i)), "' ", did_what, "; ",
          facts_.parameters.threshold, " are needed"));
    }
  }
  return absl::OkStatus();
}

// ---------------------------------------------------------------- Sharing ----

Sharing::Sharing(const ServerFacts& facts)
    : ServerState(facts, std::vector<bool>(facts.keys.size(), true)),
      shares_(facts.keys.size()) {}

v1::SecureServerMessage Sharing::MessageFor(int position) const {
  v1::SecureServerMessage message;
  v1::Roster& roster = *message.mutable_roster();
  roster = facts_.roster;
  roster.set_position(position);
  roster.set_context(facts_.context);
  for (const int peer : facts_.graph.NeighboursOf(position)) {
    v1::Roster::Neighbour& neighbour = *roster.add_neighbours();
    neighbour.set_peer(peer);
    *neighbour.mutable_keys() = facts_.keys[peer];
  }
  return message;
}

absl::Status Sharing::Receive(int position,
                              const v1::SecureClientMessage& message,
                              absl::string_view payload) {
  const auto& shares = message.share().shares();
  const std::vector<int> neighbours = facts_.graph.NeighboursOf(position);
  if (shares.size() != static_cast<int>(neighbours.size())) {
    return absl::InvalidArgumentError(absl::StrCat(
        shares.size(), " shares for ", neighbours.size(), " neighbours"));
  }
  for (int i = 0; i < shares.size(); ++i) {
    if (static_cast<int64_t>(shares[i].peer()) != neighbours[i]) {
      return absl::InvalidArgumentError(absl::StrCat(
          "share ", i, " is for ", shares[i].peer(),
          "; neighbours stand in order, and this is ", neighbours[i]));
    }
    if (shares[i].sealed().size() != kSealedBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("share ", i, " has ", shares[i].sealed().size(),
                       " bytes; sealed shares have ", kSealedBytes));
    }
  }
  for (const v1::EncryptedShare& share : shares) {
    shares_[position] += share.sealed();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ServerState>> Sharing::Close() {
  CHOIR_RETURN_IF_ERROR(CheckEnough(answered_, "shared their keys"));
  return std::make_unique<Masking>(facts_, answered_, std::move(shares_));
}

// ---------------------------------------------------------------- Masking ----

Masking::Masking(const ServerFacts& facts, std::vector<bool> sharers,
                 std::vector<std::string> shares)
    : ServerState(facts, std::move(sharers)),
      shares_(std::move(shares)),
      sum_(static_cast<int>(facts.session.modulus_bits()),
           facts.session.length()) {}

v1::SecureServerMessage Masking::MessageFor(int position) const {
  v1::SecureServerMessage message;
  v1::ReceivedShares& received = *message.mutable_shares();
  received.set_sharers(PackPositions(expected_));
  for (const int peer : facts_.graph.NeighboursOf(position)) {
    if (!expected_[peer]) continue;
    const std::vector<int> order = facts_.graph.NeighboursOf(peer);
    const size_t rank = absl::c_lower_bound(order, position) - order.begin();
    v1::EncryptedShare& share = *received.add_shares();
    share.set_peer(peer);
    share.set_sealed(shares_[peer].substr(rank * kSealedBytes, kSealedBytes));
  }
  return message;
}

absl::Status Masking::Receive(int position,
                              const v1::SecureClientMessage& message,
                              absl::string_view payload) {
  if (message.masked().size() != payload.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the masked vector has ", payload.size(), " bytes; ",
                     message.masked().size(), " were announced"));
  }
  return sum_.AddEncoded(payload);
}

absl::StatusOr<std::unique_ptr<ServerState>> Masking::Close() {
  constexpr char kDidWhat[] = "sent a masked vector";
  CHOIR_RETURN_IF_ERROR(CheckEnough(answered_, kDidWhat));
  CHOIR_RETURN_IF_ERROR(CheckHolders(expected_, answered_, kDidWhat));
  Harvest harvest{std::move(expected_),
                  answered_,
                  std::move(sum_),
                  std::vector<CollectedShares>(answered_.size()),
                  {}};
  if (facts_.confirms()) {
    return std::make_unique<Confirming>(facts_, std::move(harvest), answered_);
  }
  return std::make_unique<Unmasking>(facts_, std::move(harvest), answered_,
                                     std::vector<std::string>());
}

// ------------------------------------------------------------- Confirming ----

AfterMasking::AfterMasking(const ServerFacts& facts, Harvest harvest,
                           std::vector<bool> expected)
    : ServerState(facts, std::move(expected)), harvest_(std::move(harvest)) {
  survivors_.set_survivors(PackPositions(harvest_.survivors));
  survivors_.set_sharers(PackPositions(harvest_.sharers));
}

Confirming::Confirming(const ServerFacts& facts, Harvest harvest,
                       std::vector<bool> expected)
    : AfterMasking(facts, std::move(harvest), std::move(expected)),
      signatures_(facts.keys.size()) {}

v1::SecureServerMessage Confirming::MessageFor(int position) const {
  v1::SecureServerMessage message;
  *message.mutable_survivors() = survivors_;
  return message;
}

absl::Status Confirming::Receive(int position,
                                 const v1::SecureClientMessage& message,
                                 absl::string_view payload) {
  const v1::AdvertiseKeys& keys = facts_.keys[position];
  CHOIR_ASSIGN_OR_RETURN(
      const std::string key,
      facts_.verifier.PublicKeyOf(keys.client(), keys.certificate()));
  if (!crypto::SignatureIsValid(key, SurvivorsText(facts_.context, survivors_),
                                message.confirm().signature())) {
    return absl::InvalidArgumentError(
        "the signature is not one of these survivors");
  }
  signatures_[position] = message.confirm().signature();
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ServerState>> Confirming::Close() {
  // Fewer than the survivors may have signed; then the threshold decides.
  CHOIR_RETURN_IF_ERROR(
      CheckHolders(harvest_.sharers, answered_, "confirmed who survived"));
  return std::make_unique<Unmasking>(facts_, std::move(harvest_), answered_,
                                     std::move(signatures_));
}

// -------------------------------------------------------------- Unmasking ----

Unmasking::Unmasking(const ServerFacts& facts, Harvest harvest,
                     std::vector<bool> expected,
                     std::vector<std::string> signatures)
    : AfterMasking(facts, std::move(harvest), std::move(expected)),
      signatures_(std::move(signatures)) {
  for (size_t i = 0; i < harvest_.collected.size(); ++i) {
    if (!harvest_.sharers[i]) continue;
    const size_t holders = facts_.graph.HoldersOf(static_cast<int>(i)).size();
    harvest_.collected[i].shares.reserve(holders * kSecretBytes);
  }
}

v1::SecureServerMessage Unmasking::MessageFor(int position) const {
  v1::SecureServerMessage message;
  v1::UnmaskRequest& request = *message.mutable_unmask();
  *request.mutable_survivors() = survivors_;
  if (signatures_.empty()) return message;
  // Its own is one of them where it holds shares of itself.
  const int wanted =
      facts_.parameters.threshold - (facts_.graph.complete() ? 1 : 0);
  for (const int peer : facts_.graph.NeighboursOf(position)) {
    if (request.signatures_size() >= wanted) break;
    if (signatures_[peer].empty()) continue;
    v1::UnmaskRequest::Signature& signature = *request.add_signatures();
    signature.set_peer(peer);
    signature.set_signature(signatures_[peer]);
  }
  return message;
}

absl::Status Unmasking::CheckShares(int holder,
                                    const v1::UnmaskShares& shares) const {
  int64_t last = -1;
  for (const v1::UnmaskShares::Share& share : shares.shares()) {
    const int64_t peer = share.peer();
    if (peer <= last || peer >= facts_.parameters.num_clients) {
      return absl::InvalidArgumentError(
          absl::StrCat("a share of ", peer, " after one of ", last, " of ",
                       facts_.parameters.num_clients));
    }
    last = peer;
    const int target = static_cast<int>(peer);
    const bool holds = target == holder
                           ? facts_.graph.complete()
                           : facts_.graph.AreNeighbours(target, holder);
    if (!holds || !harvest_.sharers[target]) {
      return absl::InvalidArgumentError(
          absl::StrCat("client ", holder, " holds no share of ", peer));
    }
    const bool right = harvest_.survivors[target] ? share.has_self_mask()
                                                  : share.has_mask_key();
    const std::string& secret =
        share.has_self_mask() ? share.self_mask() : share.mask_key();
    if (!right || secret.size() != kSecretBytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the share of ", peer, " is not the one that was asked for"));
    }
  }
  return absl::OkStatus();
}

absl::Status Unmasking::Receive(int position,
                                const v1::SecureClientMessage& message,
                                absl::string_view payload) {
  CHOIR_RETURN_IF_ERROR(CheckShares(position, message.unmask()));
  for (const v1::UnmaskShares::Share& share : message.unmask().shares()) {
    CollectedShares& collected = harvest_.collected[share.peer()];
    collected.points.push_back(position + 1);
    collected.shares +=
        share.has_self_mask() ? share.self_mask() : share.mask_key();
  }
  return absl::OkStatus();
}

// Those who answered and have no share of it were given rubbish, or say so: it
// takes more of them than collude.
bool Unmasking::SharedRubbish(int position) const {
  const std::vector<uint32_t>& points = harvest_.collected[position].points;
  int without = 0;
  for (const int holder : facts_.graph.NeighboursOf(position)) {
    if (answered_[holder] && !absl::c_linear_search(points, holder + 1)) {
      ++without;
    }
  }
  return without >=
         AccusersNeeded(facts_.parameters, facts_.session.assumptions());
}

absl::StatusOr<std::unique_ptr<ServerState>> Unmasking::Close() {
  CHOIR_RETURN_IF_ERROR(
      CheckHolders(harvest_.sharers, answered_, "sent shares back"));
  absl::Status first;
  for (size_t i = 0; i < harvest_.sharers.size(); ++i) {
    if (!harvest_.sharers[i]) continue;
    const size_t shares = harvest_.collected[i].points.size();
    if (shares >= static_cast<size_t>(facts_.parameters.threshold)) continue;
    const int position = static_cast<int>(i);
    if (SharedRubbish(position)) harvest_.blamed.push_back(position);
    if (!first.ok()) continue;
    first = absl::AbortedError(absl::StrCat(
        "only ", shares, " shares of client '", facts_.name(position),
        "' came back; ", facts_.parameters.threshold, " are needed"));
  }
  CHOIR_RETURN_IF_ERROR(first);
  return std::make_unique<Summing>(facts_, std::move(harvest_));
}

// ---------------------------------------------------------------- Summing ----

v1::SecureServerMessage Summing::MessageFor(int position) const {
  v1::SecureServerMessage message;
  message.mutable_done();
  return message;
}

absl::Status Summing::Receive(int position,
                              const v1::SecureClientMessage& message,
                              absl::string_view payload) {
  return absl::FailedPreconditionError("the session is over");
}

absl::StatusOr<std::unique_ptr<ServerState>> Summing::Close() {
  return absl::FailedPreconditionError("the session is over");
}

}  // namespace choir::secagg
