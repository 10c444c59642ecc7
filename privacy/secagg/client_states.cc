// The later states of a client: masking, confirming, unmasking.
#include "privacy/secagg/client_states.h"

#include <algorithm>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "privacy/crypto/signing.h"
#include "privacy/crypto/symmetric.h"
#include "privacy/secagg/shamir.h"
#include "privacy/secagg/transcript.h"

namespace choir::secagg {
namespace {

// The vector's mask of everything between us and the neighbours that shared,
// and our own.
absl::Status AddAllMasks(const ClientFacts& facts, const OwnSecrets& secrets,
                         MaskedVector& vector) {
  CHOIR_ASSIGN_OR_RETURN(const crypto::SecretString self_key,
                         SelfMaskKey(secrets.self_mask_seed.view(),
                                     facts.context, facts.position));
  std::vector<crypto::SecretString> keys;
  std::vector<MaskedVector::Sign> signs;
  for (const Neighbour& neighbour : facts.neighbours) {
    if (!neighbour.shared) continue;
    CHOIR_ASSIGN_OR_RETURN(const crypto::SecretString agreed,
                           secrets.mask_key.Agree(neighbour.mask_public_key));
    CHOIR_ASSIGN_OR_RETURN(crypto::SecretString key,
                           PairMaskKey(agreed.view(), facts.context,
                                       facts.position, neighbour.position));
    keys.push_back(std::move(key));
    signs.push_back(neighbour.position < facts.position
                        ? MaskedVector::Sign::kAdd
                        : MaskedVector::Sign::kSubtract);
  }
  std::vector<MaskedVector::Mask> masks = {
      {self_key.view(), MaskedVector::Sign::kAdd}};
  for (size_t i = 0; i < keys.size(); ++i) {
    masks.push_back({keys[i].view(), signs[i]});
  }
  return vector.AddMasks(masks);
}

// What we hold of everybody, by who survived; nothing about who never shared.
v1::UnmaskShares SharesFor(const ClientFacts& facts,
                           const crypto::SecretString& own_share,
                           const std::vector<bool>& survivors) {
  std::vector<v1::UnmaskShares::Share> shares;
  if (facts.holds_own) {
    shares.emplace_back().set_peer(facts.position);
    shares.back().set_self_mask(std::string(own_share.view()));
  }
  for (const Neighbour& neighbour : facts.neighbours) {
    if (neighbour.self_mask_share.empty()) continue;
    shares.emplace_back().set_peer(neighbour.position);
    if (survivors[neighbour.position]) {
      shares.back().set_self_mask(
          std::string(neighbour.self_mask_share.view()));
    } else {
      shares.back().set_mask_key(std::string(neighbour.mask_key_share.view()));
    }
  }
  absl::c_sort(
      shares, [](const auto& a, const auto& b) { return a.peer() < b.peer(); });
  v1::UnmaskShares message;
  for (auto& share : shares) *message.add_shares() = std::move(share);
  return message;
}

// The end of the session.
OrRefusal<Step<Revealed, v1::UnmaskShares>> Reveal(
    const ClientFacts& facts, const crypto::SecretString& own_share,
    const v1::Survivors& survivors) {
  if (facts.expectations.one_sum_per_model) {
    const absl::Status status =
        facts.environment.history.RememberForGood({facts.SumToken()});
    if (!status.ok()) return FromHistory(status, "a sum of this model");
  }
  return Step<Revealed, v1::UnmaskShares>{
      Revealed(), SharesFor(facts, own_share,
                            *UnpackPositions(survivors.survivors(),
                                             facts.parameters.num_clients))};
}

bool Equal(const v1::Survivors& a, const v1::Survivors& b) {
  return a.survivors() == b.survivors() && a.sharers() == b.sharers();
}

}  // namespace

OrRefusal<Step<Masked, MaskedUpload>> Shared::OnShares(
    const v1::ReceivedShares& received) && {
  if (MaybeRefusal refusal = CheckSharers(received)) {
    return *std::move(refusal);
  }
  if (MaybeRefusal refusal = OpenShares(received)) return *std::move(refusal);
  if (absl::Status status = AddAllMasks(*facts_, secrets_, input_.get());
      !status.ok()) {
    return Refusal{v1::SecureRefusal::BAD_PEER_KEY,
                   std::string(status.message())};
  }
  input_.NotSecretAnyMore();
  MaskedUpload upload;
  upload.payload = input_.get().Encode();
  upload.message.set_digest(base::Sha256Hex(upload.payload));
  upload.message.set_size(upload.payload.size());
  return Step<Masked, MaskedUpload>{
      Masked(std::move(facts_), std::move(own_share_)), std::move(upload)};
}

MaybeRefusal Shared::CheckSharers(const v1::ReceivedShares& received) {
  const auto sharers =
      UnpackPositions(received.sharers(), facts_->parameters.num_clients);
  if (!sharers.ok()) {
    return Refusal{v1::SecureRefusal::MALFORMED,
                   std::string(sharers.status().message())};
  }
  if (!(*sharers)[facts_->position]) {
    return Refusal{v1::SecureRefusal::DECLARED_DROPPED,
                   "the list of those who shared leaves this client out"};
  }
  for (const v1::EncryptedShare& share : received.shares()) {
    Neighbour* neighbour = facts_->FindNeighbour(share.peer());
    if (neighbour == nullptr) {
      return Refusal{
          v1::SecureRefusal::UNKNOWN_PEER,
          absl::StrCat("shares of ", share.peer(), ", which is no neighbour")};
    }
    if (neighbour->shared) {
      return Refusal{v1::SecureRefusal::REPEATED_PEER,
                     absl::StrCat("shares of ", share.peer(), " twice")};
    }
    neighbour->shared = true;
  }
  for (const Neighbour& neighbour : facts_->neighbours) {
    if ((*sharers)[neighbour.position] != neighbour.shared) {
      return Refusal{v1::SecureRefusal::CONFLICTING_LISTS,
                     absl::StrCat("client ", neighbour.position,
                                  neighbour.shared
                                      ? " shared, but is not in the list"
                                      : " is in the list, but did not share")};
    }
  }
  facts_->sharers = received.sharers();
  return absl::nullopt;
}

MaybeRefusal Shared::OpenShares(const v1::ReceivedShares& received) {
  int opened = facts_->holds_own ? 1 : 0;
  const int shared = opened + received.shares_size();
  for (const v1::EncryptedShare& share : received.shares()) {
    Neighbour* neighbour = facts_->FindNeighbour(share.peer());
    absl::StatusOr<crypto::SecretString> text = crypto::Open(
        neighbour->open_key.view(),
        ShareAad(facts_->context, neighbour->position, facts_->position),
        share.sealed());
    // A peer that sends rubbish must not cost us the round: we mask with it all
    // the same, and hold no share of its secrets.
    if (!text.ok() || text->view().size() != 2 * kSecretBytes) continue;
    ++opened;
    neighbour->self_mask_share =
        crypto::SecretString(std::string(text->view().substr(0, kSecretBytes)));
    neighbour->mask_key_share =
        crypto::SecretString(std::string(text->view().substr(kSecretBytes)));
  }
  for (Neighbour& neighbour : facts_->neighbours) {
    neighbour.open_key = crypto::SecretString();
  }
  const int threshold = facts_->parameters.threshold;
  if (shared < threshold) {
    return Refusal{v1::SecureRefusal::TOO_FEW_ALIVE,
                   absl::StrCat(shared, " clients hold shares with this one; ",
                                threshold, " are needed")};
  }
  if (opened < threshold) {
    return Refusal{
        v1::SecureRefusal::BAD_SHARE,
        absl::StrCat("of the shares of ", shared, " clients only ", opened,
                     " can be opened; ", threshold, " are needed")};
  }
  return absl::nullopt;
}

MaybeRefusal Masked::CheckSurvivors(const v1::Survivors& survivors) const {
  const int num_clients = facts_->parameters.num_clients;
  const auto alive = UnpackPositions(survivors.survivors(), num_clients);
  const auto sharers = UnpackPositions(survivors.sharers(), num_clients);
  for (const auto* list : {&alive, &sharers}) {
    if (list->ok()) continue;
    const size_t bytes = PackPositions(std::vector<bool>(num_clients)).size();
    return Refusal{survivors.survivors().size() == bytes &&
                           survivors.sharers().size() == bytes
                       ? v1::SecureRefusal::UNKNOWN_PEER
                       : v1::SecureRefusal::MALFORMED,
                   std::string(list->status().message())};
  }
  if (!(*alive)[facts_->position] || !(*sharers)[facts_->position]) {
    return Refusal{v1::SecureRefusal::DECLARED_DROPPED,
                   "the list of survivors leaves this client out"};
  }
  if (survivors.sharers() != facts_->sharers) {
    return Refusal{v1::SecureRefusal::CONFLICTING_LISTS,
                   "those who shared are not those it named before"};
  }
  for (int i = 0; i < num_clients; ++i) {
    if ((*alive)[i] && !(*sharers)[i]) {
      return Refusal{v1::SecureRefusal::CONFLICTING_LISTS,
                     absl::StrCat("client ", i,
                                  " is a survivor but never shared its keys")};
    }
  }
  int holders = facts_->holds_own ? 1 : 0;
  for (const Neighbour& neighbour : facts_->neighbours) {
    if ((*alive)[neighbour.position]) ++holders;
  }
  const int64_t count = absl::c_count(*alive, true);
  const int floor = std::max(facts_->parameters.min_survivors,
                             facts_->expectations.min_clients);
  if (count < floor || holders < facts_->parameters.threshold) {
    return Refusal{
        v1::SecureRefusal::TOO_FEW_ALIVE,
        absl::StrCat(count, " clients survive, ", holders,
                     " of them share with this one; ", floor, " and ",
                     facts_->parameters.threshold, " are needed")};
  }
  return absl::nullopt;
}

OrRefusal<Step<Confirmed, v1::SurvivorsSignature>> Masked::OnSurvivors(
    const v1::Survivors& survivors) && {
  if (!facts_->confirms()) {
    return Refusal{v1::SecureRefusal::OUT_OF_ORDER,
                   "nothing is confirmed in this session"};
  }
  if (MaybeRefusal refusal = CheckSurvivors(survivors)) {
    return *std::move(refusal);
  }
  absl::StatusOr<std::string> signature = facts_->environment.signer.Sign(
      SurvivorsText(facts_->context, survivors));
  if (!signature.ok()) {
    return Refusal{v1::SecureRefusal::CLIENT_FAILED,
                   std::string(signature.status().message())};
  }
  v1::SurvivorsSignature message;
  message.set_signature(*std::move(signature));
  return Step<Confirmed, v1::SurvivorsSignature>{
      Confirmed(std::move(facts_), std::move(own_share_), survivors),
      std::move(message)};
}

OrRefusal<Step<Revealed, v1::UnmaskShares>> Masked::OnUnmask(
    const v1::UnmaskRequest& request) && {
  if (facts_->confirms()) {
    return Refusal{v1::SecureRefusal::NOT_CONFIRMED,
                   "nothing is revealed before survivors are confirmed"};
  }
  if (MaybeRefusal refusal = CheckSurvivors(request.survivors())) {
    return *std::move(refusal);
  }
  return Reveal(*facts_, own_share_, request.survivors());
}

MaybeRefusal Confirmed::CheckSignatures(
    const v1::UnmaskRequest& request) const {
  const auto survivors =
      UnpackPositions(survivors_.survivors(), facts_->parameters.num_clients);
  const std::string text = SurvivorsText(facts_->context, survivors_);
  const int threshold = facts_->parameters.threshold;
  std::vector<bool> seen(facts_->parameters.num_clients);
  int valid = facts_->holds_own ? 1 : 0;  // we signed it ourselves
  for (const v1::UnmaskRequest::Signature& signature : request.signatures()) {
    const Neighbour* neighbour = facts_->FindNeighbour(signature.peer());
    if (neighbour == nullptr || !(*survivors)[neighbour->position]) {
      return Refusal{v1::SecureRefusal::UNKNOWN_PEER,
                     absl::StrCat("a signature of ", signature.peer(),
                                  ", which is no neighbour that survives")};
    }
    if (seen[neighbour->position]) {
      return Refusal{v1::SecureRefusal::REPEATED_PEER,
                     absl::StrCat("two signatures of ", signature.peer())};
    }
    seen[neighbour->position] = true;
    if (valid < threshold &&
        crypto::SignatureIsValid(neighbour->signing_key, text,
                                 signature.signature())) {
      ++valid;
    }
  }
  if (valid < threshold) {
    return Refusal{v1::SecureRefusal::NOT_CONFIRMED,
                   absl::StrCat(valid, " peers confirm who survived; ",
                                threshold, " are needed")};
  }
  return absl::nullopt;
}

OrRefusal<Step<Revealed, v1::UnmaskShares>> Confirmed::OnUnmask(
    const v1::UnmaskRequest& request) && {
  if (!Equal(request.survivors(), survivors_)) {
    return Refusal{v1::SecureRefusal::CONFLICTING_LISTS,
                   "the survivors are not those that this client confirmed"};
  }
  if (MaybeRefusal refusal = CheckSignatures(request)) {
    return *std::move(refusal);
  }
  return Reveal(*facts_, own_share_, survivors_);
}

}  // namespace choir::secagg
