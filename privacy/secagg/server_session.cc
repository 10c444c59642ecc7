#include "privacy/secagg/server_session.h"

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "privacy/crypto/key_agreement.h"
#include "privacy/crypto/secret.h"
#include "privacy/crypto/signing.h"
#include "privacy/secagg/server_states.h"
#include "privacy/secagg/server_unmask.h"
#include "privacy/secagg/transcript.h"

namespace choir::secagg {

absl::string_view PhaseName(Phase phase) {
  switch (phase) {
    case Phase::kShareKeys:
      return "share_keys";
    case Phase::kMaskedInput:
      return "masked_input";
    case Phase::kConfirm:
      return "confirm";
    case Phase::kUnmask:
      return "unmask";
    case Phase::kDone:
      return "done";
    case Phase::kFailed:
      return "failed";
  }
  return "unknown";
}

absl::Status CheckAdvertisement(const v1::SecureSession& session,
                                absl::string_view client,
                                const v1::AdvertiseKeys& keys,
                                const PeerVerifier& verifier) {
  if (keys.ByteSizeLong() > kMaxAdvertisementBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "client '", client, "': its advertised keys have ", keys.ByteSizeLong(),
        " bytes; the limit is ", kMaxAdvertisementBytes));
  }
  if (keys.client() != client) {
    return absl::PermissionDeniedError(absl::StrCat(
        "client '", client, "' advertises keys of '", keys.client(), "'"));
  }
  if (keys.mask_public_key().size() != crypto::kX25519Bytes ||
      keys.share_public_key().size() != crypto::kX25519Bytes ||
      keys.mask_public_key() == keys.share_public_key() ||
      keys.self_mask_commitment().size() != kDigestBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("client '", client,
                     "': two keys and a commitment of 32 bytes are needed"));
  }
  // Nobody can agree on anything with such a key: every neighbour would have to
  // leave the session.
  if (crypto::HasLowOrder(keys.mask_public_key()) ||
      crypto::HasLowOrder(keys.share_public_key())) {
    return absl::InvalidArgumentError(absl::StrCat(
        "client '", client, "' advertises a key that is a point of low order"));
  }
  CHOIR_ASSIGN_OR_RETURN(const std::string key,
                         verifier.PublicKeyOf(client, keys.certificate()));
  if (!crypto::SignatureIsValid(
          key, AdvertiseText(SessionDigest(session), EntryDigest(keys)),
          keys.signature())) {
    return absl::PermissionDeniedError(absl::StrCat(
        "client '", client, "' did not sign these keys for this session"));
  }
  return absl::OkStatus();
}

class ServerSession::Impl {
 public:
  Impl(ServerFacts facts)
      : facts_(std::move(facts)),
        gone_(facts_.keys.size()),
        accepted_(facts_.keys.size()) {
    for (size_t i = 0; i < facts_.keys.size(); ++i) {
      positions_[facts_.keys[i].client()] = static_cast<int>(i);
    }
    state_ = std::make_unique<Sharing>(facts_);
  }

  const ServerFacts& facts() const { return facts_; }
  const absl::flat_hash_map<std::string, int>& positions() const {
    return positions_;
  }
  Phase phase() const { return state_ ? state_->phase() : Phase::kFailed; }

  absl::optional<v1::SecureServerMessage> MessageFor(
      absl::string_view client) const {
    const auto found = positions_.find(client);
    if (found == positions_.end() || gone_[found->second]) {
      return absl::nullopt;
    }
    const int position = found->second;
    if (state_ == nullptr) {
      v1::SecureServerMessage message;
      message.mutable_abort()->set_reason(reason_);
      return message;
    }
    if (!state_->expected(position) && state_->phase() != Phase::kDone) {
      return absl::nullopt;
    }
    return state_->MessageFor(position);
  }

  std::vector<Outgoing> AllMessages() const {
    std::vector<Outgoing> all;
    for (const v1::AdvertiseKeys& keys : facts_.keys) {
      auto message = MessageFor(keys.client());
      if (message) all.push_back({keys.client(), *std::move(message)});
    }
    return all;
  }

  absl::Status Receive(absl::string_view client,
                       const v1::SecureClientMessage& message,
                       absl::string_view payload) {
    const auto found = positions_.find(client);
    if (found == positions_.end()) {
      return absl::NotFoundError(
          absl::StrCat("client '", client, "' is not in this session"));
    }
    const int position = found->second;
    if (message.has_refusal()) {
      gone_[position] = true;
      return absl::OkStatus();
    }
    const size_t kind = message.message_case();
    if (kind == 0) return absl::InvalidArgumentError("an empty message");
    std::string text = message.SerializeAsString();
    const base::Sha256Digest digest = base::Sha256Of(text);
    if (message.has_unmask()) crypto::Wipe(text);
    Accepted& accepted = accepted_[position];
    for (int i = 0; i < accepted.count; ++i) {
      if (accepted.kinds[i] != kind) continue;
      if (accepted.digests[i] == digest) return absl::OkStatus();
      return absl::FailedPreconditionError(absl::StrCat(
          "client '", client, "' has given another answer before"));
    }
    if (state_ == nullptr || gone_[position] ||
        static_cast<size_t>(state_->answer()) != kind ||
        !state_->expected(position)) {
      return absl::FailedPreconditionError(
          absl::StrCat("nothing of this kind is expected from client '", client,
                       "' in phase ", PhaseName(phase())));
    }
    CHOIR_RETURN_IF_ERROR(state_->Receive(position, message, payload));
    state_->SetAnswered(position);
    accepted.kinds[accepted.count] = kind;
    accepted.digests[accepted.count++] = digest;
    return absl::OkStatus();
  }

  std::vector<std::string> Names(bool answered) const {
    std::vector<std::string> names;
    if (state_ == nullptr) return names;
    for (size_t i = 0; i < facts_.keys.size(); ++i) {
      const int position = static_cast<int>(i);
      if (!state_->expected(position) ||
          state_->answered(position) != answered || (!answered && gone_[i])) {
        continue;
      }
      names.push_back(facts_.name(position));
    }
    absl::c_sort(names);
    return names;
  }

  absl::Status Close() {
    if (state_ == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat("the session has failed: ", reason_));
    }
    absl::StatusOr<std::unique_ptr<ServerState>> next = state_->Close();
    if (!next.ok()) {
      if (absl::IsAborted(next.status())) Fail(next.status());
      return next.status();
    }
    RememberSurvivors();
    state_ = *std::move(next);
    RememberSurvivors();
    return absl::OkStatus();
  }

  absl::StatusOr<MaskedVector> Sum(base::ThreadPool* pool) {
    if (phase() != Phase::kDone || summed_) {
      return absl::FailedPreconditionError(absl::StrCat(
          summed_ ? "the sum was taken already" : "there is no sum in phase ",
          summed_ ? "" : PhaseName(phase())));
    }
    summed_ = true;
    Harvest& harvest = *state_->harvest();
    if (absl::Status status = RemoveMasks(facts_, harvest, pool);
        !status.ok()) {
      Fail(status);
      return status;
    }
    return std::move(harvest.sum);
  }

  std::vector<std::string> survivors() const { return survivors_; }
  std::vector<std::string> blamed() const { return blamed_; }

 private:
  // Digests of the answers that counted, to know their repetitions: at most
  // one for each phase.
  struct Accepted {
    int count = 0;
    std::array<size_t, 4> kinds;
    std::array<base::Sha256Digest, 4> digests;
  };

  void Fail(const absl::Status& status) {
    reason_ = std::string(status.message());
    if (const Harvest* harvest = state_->harvest()) {
      for (const int position : harvest->blamed) {
        blamed_.push_back(facts_.name(position));
      }
      absl::c_sort(blamed_);
    }
    state_.reset();
  }

  void RememberSurvivors() {
    if (!survivors_.empty() || state_->harvest() == nullptr) return;
    const std::vector<bool>& survivors = state_->harvest()->survivors;
    for (size_t i = 0; i < survivors.size(); ++i) {
      if (survivors[i]) survivors_.push_back(facts_.name(static_cast<int>(i)));
    }
    absl::c_sort(survivors_);
  }

  const ServerFacts facts_;
  absl::flat_hash_map<std::string, int> positions_;
  // Refused.
  std::vector<bool> gone_;
  std::vector<Accepted> accepted_;
  // Null once failed.
  std::unique_ptr<ServerState> state_;
  std::string reason_;
  bool summed_ = false;
  std::vector<std::string> survivors_;
  std::vector<std::string> blamed_;
};

namespace {

absl::Status CheckDistinct(const std::vector<v1::AdvertiseKeys>& keys) {
  std::set<absl::string_view> names;
  std::set<absl::string_view> public_keys;
  for (const v1::AdvertiseKeys& entry : keys) {
    if (!names.insert(entry.client()).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("client '", entry.client(), "' advertised twice"));
    }
    if (!public_keys.insert(entry.mask_public_key()).second ||
        !public_keys.insert(entry.share_public_key()).second) {
      return absl::InvalidArgumentError(absl::StrCat(
          "client '", entry.client(), "' advertises a key of another"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ServerSession> ServerSession::Create(
    v1::SecureSession session, uint32_t group,
    std::vector<v1::AdvertiseKeys> keys, const PeerVerifier& verifier) {
  CHOIR_RETURN_IF_ERROR(CheckSession(session));
  CHOIR_RETURN_IF_ERROR(CheckDistinct(keys));
  if (keys.size() > session.max_clients()) {
    return absl::InvalidArgumentError(
        absl::StrCat(keys.size(), " clients in a session for at most ",
                     session.max_clients()));
  }
  CHOIR_ASSIGN_OR_RETURN(
      const Parameters parameters,
      ChooseParameters(static_cast<int>(keys.size()), session.assumptions()));
  std::vector<std::pair<std::string, size_t>> order;
  for (size_t i = 0; i < keys.size(); ++i) {
    order.emplace_back(EntryDigest(keys[i]), i);
  }
  absl::c_sort(order);
  std::vector<v1::AdvertiseKeys> sorted;
  v1::Roster roster;
  roster.set_group(group);
  roster.set_degree(parameters.degree);
  roster.set_threshold(parameters.threshold);
  for (auto& [digest, index] : order) {
    roster.add_entry_digests(std::move(digest));
    sorted.push_back(std::move(keys[index]));
    // Neighbours get what was signed and nothing else.
    sorted.back().DiscardUnknownFields();
  }
  const std::string session_digest = SessionDigest(session);
  const std::string roster_digest = RosterDigest(roster);
  CHOIR_ASSIGN_OR_RETURN(
      Graph graph, Graph::Create(parameters.num_clients, parameters.degree,
                                 GraphSeed(session_digest, roster_digest)));
  return ServerSession(std::make_unique<Impl>(ServerFacts{
      std::move(session), session_digest,
      ContextDigest(session_digest, roster_digest, parameters), parameters,
      std::move(graph), std::move(roster), std::move(sorted), verifier}));
}

ServerSession::ServerSession(std::unique_ptr<Impl> impl)
    : impl_(std::move(impl)) {}
ServerSession::~ServerSession() = default;
ServerSession::ServerSession(ServerSession&&) noexcept = default;
ServerSession& ServerSession::operator=(ServerSession&&) noexcept = default;

const Parameters& ServerSession::parameters() const {
  return impl_->facts().parameters;
}
const Graph& ServerSession::graph() const { return impl_->facts().graph; }
const absl::flat_hash_map<std::string, int>& ServerSession::positions() const {
  return impl_->positions();
}
Phase ServerSession::phase() const { return impl_->phase(); }
std::vector<Outgoing> ServerSession::Start() { return impl_->AllMessages(); }
absl::optional<v1::SecureServerMessage> ServerSession::MessageFor(
    absl::string_view client) const {
  return impl_->MessageFor(client);
}
absl::Status ServerSession::Receive(absl::string_view client,
                                    const v1::SecureClientMessage& message,
                                    absl::string_view payload) {
  return impl_->Receive(client, message, payload);
}
std::vector<std::string> ServerSession::Waiting() const {
  return impl_->Names(/*answered=*/false);
}
std::vector<std::string> ServerSession::Answered() const {
  return impl_->Names(/*answered=*/true);
}
absl::Status ServerSession::Close() { return impl_->Close(); }
absl::StatusOr<std::vector<Outgoing>> ServerSession::Advance() {
  CHOIR_RETURN_IF_ERROR(impl_->Close());
  return impl_->AllMessages();
}
absl::StatusOr<MaskedVector> ServerSession::Sum(base::ThreadPool* pool) {
  return impl_->Sum(pool);
}
std::vector<std::string> ServerSession::survivors() const {
  return impl_->survivors();
}
std::vector<std::string> ServerSession::blamed() const {
  return impl_->blamed();
}

}  // namespace choir::secagg
