#include "privacy/secagg/client_session.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/types/variant.h"
#include "base/sha256.h"
#include "privacy/crypto/secret.h"
#include "privacy/secagg/client_states.h"

namespace choir::secagg {
namespace {

// Not begun: the first state is made by Start().
struct Waiting {
  SecretVector input;
};
struct Finished {};
using State = absl::variant<Finished, Waiting, Advertised, Shared, Masked,
                            Confirmed, Revealed>;

ClientStep Refuse(Refusal refusal) {
  ClientStep step;
  v1::SecureRefusal& said = *step.message.mutable_refusal();
  said.set_reason(refusal.reason);
  said.set_detail(std::move(refusal.detail));
  const size_t named = std::min(refusal.peers.size(), kMaxPeersNamed);
  for (size_t i = 0; i < named; ++i) {
    said.add_peers(std::move(refusal.peers[i]));
  }
  return step;
}

ClientStep Say(v1::AdvertiseKeys message) {
  ClientStep step;
  *step.message.mutable_advertise() = std::move(message);
  return step;
}
ClientStep Say(v1::ShareKeys message) {
  ClientStep step;
  *step.message.mutable_share() = std::move(message);
  return step;
}
ClientStep Say(MaskedUpload upload) {
  ClientStep step;
  *step.message.mutable_masked() = std::move(upload.message);
  step.payload = std::move(upload.payload);
  return step;
}
ClientStep Say(v1::SurvivorsSignature message) {
  ClientStep step;
  *step.message.mutable_confirm() = std::move(message);
  return step;
}
ClientStep Say(v1::UnmaskShares message) {
  ClientStep step;
  *step.message.mutable_unmask() = std::move(message);
  return step;
}

}  // namespace

void WipeShares(v1::SecureClientMessage& message) {
  if (!message.has_unmask()) return;
  for (auto& share : *message.mutable_unmask()->mutable_shares()) {
    if (share.has_self_mask()) crypto::Wipe(*share.mutable_self_mask());
    if (share.has_mask_key()) crypto::Wipe(*share.mutable_mask_key());
  }
}

class ClientSession::Impl {
 public:
  Impl(v1::SecureSession session, ClientExpectations expectations,
       MaskedVector input, const ClientEnvironment& environment)
      : session_(std::move(session)),
        expectations_(std::move(expectations)),
        environment_(environment),
        state_(absl::in_place_type<Waiting>,
               Waiting{SecretVector(std::move(input))}) {}

  ClientStep Start() {
    Waiting* waiting = absl::get_if<Waiting>(&state_);
    if (waiting == nullptr) {
      return Refuse({v1::SecureRefusal::OUT_OF_ORDER, "begun already"});
    }
    auto result =
        Advertised::Create(std::move(session_), std::move(expectations_),
                           std::move(waiting->input), environment_);
    return Enter(std::move(result));
  }

  absl::optional<ClientStep> Handle(const v1::SecureServerMessage& message) {
    if (finished()) return absl::nullopt;
    if (message.has_done() || message.has_abort()) {
      End();
      return absl::nullopt;
    }
    const std::string digest = base::Sha256Hex(message.SerializeAsString());
    if (!answered_.empty() && answered_.back() == digest) return last_;
    if (absl::c_linear_search(answered_, digest)) return absl::nullopt;
    last_ = Answer(message);
    answered_.push_back(digest);
    return last_;
  }

  bool finished() const { return absl::holds_alternative<Finished>(state_); }

 private:
  void End() {
    state_.emplace<Finished>();
    last_.reset();
  }

  // Takes the new state over, or ends.
  template <typename NewState, typename Message>
  ClientStep Enter(OrRefusal<Step<NewState, Message>> result) {
    if (Refusal* refusal = absl::get_if<Refusal>(&result)) {
      End();
      return Refuse(std::move(*refusal));
    }
    auto& step = absl::get<Step<NewState, Message>>(result);
    state_.template emplace<NewState>(std::move(step.state));
    return Say(std::move(step.message));
  }

  ClientStep Answer(const v1::SecureServerMessage& message) {
    if (auto* state = absl::get_if<Advertised>(&state_);
        state != nullptr && message.has_roster()) {
      return Enter(std::move(*state).OnRoster(message.roster()));
    }
    if (auto* state = absl::get_if<Shared>(&state_);
        state != nullptr && message.has_shares()) {
      return Enter(std::move(*state).OnShares(message.shares()));
    }
    if (auto* state = absl::get_if<Masked>(&state_); state != nullptr) {
      if (message.has_survivors()) {
        return Enter(std::move(*state).OnSurvivors(message.survivors()));
      }
      if (message.has_unmask()) {
        return Enter(std::move(*state).OnUnmask(message.unmask()));
      }
    }
    if (auto* state = absl::get_if<Confirmed>(&state_);
        state != nullptr && message.has_unmask()) {
      return Enter(std::move(*state).OnUnmask(message.unmask()));
    }
    End();
    if (message.message_case() == v1::SecureServerMessage::MESSAGE_NOT_SET) {
      return Refuse({v1::SecureRefusal::MALFORMED, "an empty message"});
    }
    return Refuse({v1::SecureRefusal::OUT_OF_ORDER,
                   "this message is not the one that comes next"});
  }

  v1::SecureSession session_;
  ClientExpectations expectations_;
  ClientEnvironment environment_;
  State state_;
  // Digests of what was answered, and the last answer.
  std::vector<std::string> answered_;
  absl::optional<ClientStep> last_;
};

ClientSession::ClientSession(v1::SecureSession session,
                             ClientExpectations expectations,
                             MaskedVector input,
                             const ClientEnvironment& environment)
    : impl_(std::make_unique<Impl>(std::move(session), std::move(expectations),
                                   std::move(input), environment)) {}
ClientSession::~ClientSession() = default;
ClientSession::ClientSession(ClientSession&&) noexcept = default;
ClientSession& ClientSession::operator=(ClientSession&&) noexcept = default;

ClientStep ClientSession::Start() { return impl_->Start(); }

absl::optional<ClientStep> ClientSession::Handle(
    const v1::SecureServerMessage& message) {
  return impl_->Handle(message);
}

bool ClientSession::finished() const { return impl_->finished(); }

}  // namespace choir::secagg
