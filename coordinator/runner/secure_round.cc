#include "coordinator/runner/secure_round.h"

#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "privacy/crypto/secret.h"
#include "privacy/secagg/client_session.h"

namespace choir::runner {
namespace {

using Groups = std::vector<v1::SecurePhaseClosed::Group>;

// Phases in their order.
int Rank(absl::string_view phase) {
  constexpr absl::string_view kPhases[] = {
      engine::kAdvertiseKeys, engine::kShareKeys, engine::kMaskedInput,
      engine::kConfirm,       engine::kUnmask,    engine::kSum};
  int rank = 0;
  for (const absl::string_view known : kPhases) {
    if (known == phase) return rank;
    ++rank;
  }
  return -1;
}

}  // namespace

std::string DigestOf(const v1::SecureClientMessage& message) {
  std::string text = message.SerializeAsString();
  std::string digest = base::Sha256Hex(text);
  crypto::Wipe(text);
  return digest;
}

absl::string_view PhaseOf(const v1::SecureClientMessage& message) {
  switch (message.message_case()) {
    case v1::SecureClientMessage::kAdvertise:
      return engine::kAdvertiseKeys;
    case v1::SecureClientMessage::kShare:
      return engine::kShareKeys;
    case v1::SecureClientMessage::kMasked:
      return engine::kMaskedInput;
    case v1::SecureClientMessage::kConfirm:
      return engine::kConfirm;
    case v1::SecureClientMessage::kUnmask:
      return engine::kUnmask;
    default:
      return "";
  }
}

SecureRound::SecureRound(v1::TaskKey key, v1::SecureSession session,
                         secagg::ContributionSpec spec,
                         const secagg::PeerVerifier& verifier,
                         secagg::UsedKeys& used_keys)
    : key_(std::move(key)),
      session_(std::move(session)),
      spec_(spec),
      verifier_(verifier),
      used_keys_(used_keys) {}

absl::Status SecureRound::Advertise(const std::string& client,
                                    const v1::AdvertiseKeys& keys) {
  CHOIR_RETURN_IF_ERROR(
      secagg::CheckAdvertisement(session_, client, keys, verifier_));
  // One client must not spoil the session of all by repeating an old key, its
  // own or another's: whoever has met that before would leave.
  if (used_keys_.Contains(keys.mask_public_key()) ||
      used_keys_.Contains(keys.share_public_key())) {
    return absl::InvalidArgumentError(
        absl::StrCat("client '", client,
                     "' advertises a key that was used in an earlier attempt; "
                     "keys are made anew for each"));
  }
  for (const auto& [other, theirs] : advertised_) {
    if (other == client) continue;
    for (const std::string* key :
         {&keys.mask_public_key(), &keys.share_public_key()}) {
      if (*key == theirs.mask_public_key() ||
          *key == theirs.share_public_key()) {
        return absl::InvalidArgumentError(absl::StrCat(
            "client '", client, "' advertises a key of another client"));
      }
    }
  }
  v1::AdvertiseKeys& kept = advertised_[client];
  kept = keys;
  // Nobody signed them, and neighbours are sent what is kept.
  kept.DiscardUnknownFields();
  return absl::OkStatus();
}

absl::Status SecureRound::Receive(const std::string& client,
                                  const v1::SecureClientMessage& message,
                                  absl::string_view payload) {
  if (over_) return absl::AbortedError(reason_);
  if (message.has_advertise()) {
    if (open_ != engine::kAdvertiseKeys) {
      return absl::FailedPreconditionError(
          "keys are not taken any more in this attempt");
    }
    CHOIR_RETURN_IF_ERROR(Advertise(client, message.advertise()));
  } else {
    const auto group = group_of_.find(client);
    if (group == group_of_.end()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "client '", client, "' is not in a session; keys come first"));
    }
    Group& its = groups_[group->second];
    if (!its.session.has_value()) return absl::AbortedError(its.lost);
    CHOIR_RETURN_IF_ERROR(its.session->Receive(client, message, payload));
  }
  taken_[client] = {std::string(PhaseOf(message)), DigestOf(message)};
  told_over_.erase(client);
  return absl::OkStatus();
}

bool SecureRound::Taken(const std::string& client,
                        const v1::SecureClientMessage& message) const {
  const auto it = taken_.find(client);
  return it != taken_.end() && it->second.digest == DigestOf(message);
}

void SecureRound::Refused(const std::string& client,
                          const v1::SecureClientMessage& refusal) {
  advertised_.erase(client);
  const auto group = group_of_.find(client);
  if (group == group_of_.end()) return;
  Group& its = groups_[group->second];
  if (its.session.has_value()) {
    its.session->Receive(client, refusal, "").IgnoreError();
  }
}

std::vector<std::string> SecureRound::Accused(
    const std::string& client, const v1::SecureRefusal& refusal) const {
  std::vector<std::string> accused;
  const auto group = group_of_.find(client);
  if ((refusal.reason() != v1::SecureRefusal::REPLAYED &&
       refusal.reason() != v1::SecureRefusal::BAD_PEER_KEY) ||
      group == group_of_.end()) {
    return accused;
  }
  const auto found = circles_.find(group->second);
  if (found == circles_.end()) return accused;
  const Circle& circle = found->second;
  const int own = circle.positions.at(client);
  for (const std::string& peer : refusal.peers()) {
    const auto position = circle.positions.find(peer);
    if (accused.size() >= secagg::kMaxPeersNamed) break;
    if (position != circle.positions.end() && position->second != own &&
        circle.graph.AreNeighbours(own, position->second) &&
        !absl::c_linear_search(accused, peer)) {
      accused.push_back(peer);
    }
  }
  return accused;
}

std::map<std::string, std::string> SecureRound::TakeUnfit(
    const std::map<std::string, uint32_t>& members) {
  std::map<std::string, std::string> unfit;
  for (const auto& [client, number] : members) {
    const auto keys = advertised_.find(client);
    if (keys == advertised_.end()) continue;
    const absl::Status checked =
        verifier_.PublicKeyOf(client, keys->second.certificate()).status();
    if (!checked.ok()) {
      unfit[client] = std::string(checked.message());
      advertised_.erase(keys);
    }
  }
  return unfit;
}

absl::StatusOr<absl::optional<v1::SecureServerMessage>>
SecureRound::AnswerAfter(const std::string& client,
                         absl::string_view phase) const {
  using Answer = absl::optional<v1::SecureServerMessage>;
  if (done_.count(client) > 0 && phase == engine::kUnmask &&
      open_ == engine::kSum) {
    v1::SecureServerMessage done;
    done.mutable_done();
    return Answer(std::move(done));
  }
  if (over_) {
    return absl::AbortedError(reason_.empty() ? "the round is over" : reason_);
  }
  const int rank = Rank(phase);
  if (rank < 0 || rank >= Rank(open_)) return Answer();
  const auto group = group_of_.find(client);
  if (group == group_of_.end()) {
    return absl::AbortedError("the round goes on without this client");
  }
  const Group& its = groups_.at(group->second);
  if (!its.lost.empty()) return absl::AbortedError(its.lost);
  Answer answer =
      its.session.has_value() ? its.session->MessageFor(client) : Answer();
  if (!answer.has_value()) {
    return absl::AbortedError("the round goes on without this client");
  }
  return answer;
}

void SecureRound::FormGroups(const std::map<std::string, uint32_t>& members) {
  std::map<uint32_t, std::vector<v1::AdvertiseKeys>> keys;
  for (const auto& [client, number] : members) {
    group_of_[client] = number;
    groups_[number].members.insert(client);
    const v1::AdvertiseKeys& its = advertised_[client];
    used_keys_.Insert(its.mask_public_key());
    used_keys_.Insert(its.share_public_key());
    keys[number].push_back(its);
  }
  advertised_.clear();
  for (auto& [number, group] : groups_) {
    absl::StatusOr<secagg::ServerSession> session =
        secagg::ServerSession::Create(session_, number, std::move(keys[number]),
                                      verifier_);
    if (!session.ok()) {
      group.lost = std::string(session.status().message());
      continue;
    }
    circles_.emplace(number, Circle{session->graph(), session->positions()});
    const secagg::Parameters& parameters = session->parameters();
    const v1::SecureAssumptions& assumptions = session_.assumptions();
    base::LogInfo(
        "job ", key_.job(), " round ", key_.round(), " attempt ",
        key_.attempt(), number == 0 ? "" : " group ",
        number == 0 ? "" : absl::StrCat(number), ": ",
        number == 0 ? secagg::Describe(parameters, assumptions)
                    : secagg::DescribeGroup(parameters, assumptions,
                                            static_cast<int>(members.size())));
    group.session.emplace(*std::move(session));
  }
}

void SecureRound::TakeSum(uint32_t number, Group& group,
                          base::ThreadPool* pool) {
  GroupSum out;
  out.group = number;
  out.survivors = group.session->survivors();
  const absl::StatusOr<secagg::MaskedVector> sum = group.session->Sum(pool);
  absl::StatusOr<secagg::DecodedSum> decoded =
      sum.ok() ? secagg::DecodeSum(spec_, *sum, out.survivors.size())
               : absl::StatusOr<secagg::DecodedSum>(sum.status());
  if (!decoded.ok()) {
    group.lost = std::string(decoded.status().message());
    return;
  }
  out.sum = *std::move(decoded);
  sums_.push_back(std::move(out));
}

Groups SecureRound::Close(const engine::CloseSecurePhase& action,
                          base::ThreadPool* pool) {
  const bool first = action.phase == engine::kAdvertiseKeys;
  if (first) FormGroups(action.members);
  Groups out;
  for (auto& [number, group] : groups_) {
    if (!first && !group.session.has_value()) continue;
    v1::SecurePhaseClosed::Group& one = out.emplace_back();
    one.set_group(number);
    one.set_clients(static_cast<uint32_t>(group.members.size()));
    if (group.session.has_value()) {
      const secagg::Parameters& parameters = group.session->parameters();
      one.set_degree(static_cast<uint32_t>(parameters.degree));
      one.set_threshold(static_cast<uint32_t>(parameters.threshold));
      if (!first) {
        const std::vector<std::string> answered = group.session->Answered();
        one.set_clients(static_cast<uint32_t>(answered.size()));
        const absl::Status closed = group.session->Close();
        if (!closed.ok()) group.lost = std::string(closed.message());
        if (group.session->phase() == secagg::Phase::kDone) {
          TakeSum(number, group, pool);
          for (const std::string& client : answered) done_.insert(client);
        }
      }
    }
    if (group.lost.empty()) continue;
    one.set_lost(group.lost);
    if (group.session.has_value()) {
      for (std::string& client : group.session->blamed()) {
        one.add_blamed(std::move(client));
      }
    }
    for (const std::string& client : group.members) done_.erase(client);
    group.session.reset();
  }
  return out;
}

void SecureRound::Open(absl::string_view phase) { open_ = std::string(phase); }

std::map<std::string, std::string> SecureRound::participants() const {
  std::map<std::string, std::string> names;
  for (const auto& [client, message] : taken_) {
    if (told_over_.count(client) == 0) names[client] = message.phase;
  }
  return names;
}

void SecureRound::End(absl::string_view reason) {
  over_ = true;
  reason_ = std::string(reason);
  if (!reason.empty()) done_.clear();
  advertised_.clear();
  groups_.clear();
  sums_.clear();
}

}  // namespace choir::runner
