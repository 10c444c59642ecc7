// The first state of a client: its keys are advertised; it checks the roster
// and shares its secrets.
#include <algorithm>
#include <set>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "privacy/crypto/signing.h"
#include "privacy/crypto/symmetric.h"
#include "privacy/secagg/client_states.h"
#include "privacy/secagg/shamir.h"
#include "privacy/secagg/transcript.h"

namespace choir::secagg {
namespace {

// What the coordinator said about the session against what the client knows.
MaybeRefusal CheckAgainst(const v1::SecureSession& session,
                          const ClientExpectations& expectations,
                          const MaskedVector& input) {
  if (absl::Status status = CheckSession(session); !status.ok()) {
    return Refusal{v1::SecureRefusal::BAD_PARAMETERS,
                   std::string(status.message())};
  }
  if (static_cast<int>(session.modulus_bits()) != input.modulus_bits() ||
      session.length() != input.length()) {
    return Refusal{
        v1::SecureRefusal::BAD_PARAMETERS,
        absl::StrCat("the session sums ", session.length(), " elements of ",
                     session.modulus_bits(), " bits; this client has ",
                     input.length(), " of ", input.modulus_bits())};
  }
  if (session.model_digest() != expectations.model_digest) {
    return Refusal{
        v1::SecureRefusal::OTHER_MODEL,
        absl::StrCat("the session is for model ", session.model_digest(),
                     "; this client trained ", expectations.model_digest)};
  }
  if (session.config_digest() != expectations.config_digest) {
    return Refusal{
        v1::SecureRefusal::OTHER_CONFIG,
        absl::StrCat("the session is for settings ", session.config_digest(),
                     "; this client trained with ",
                     expectations.config_digest)};
  }
  if (expectations.require_confirmation &&
      session.assumptions().adversary() !=
          v1::SecureAssumptions::SEMI_MALICIOUS) {
    return Refusal{v1::SecureRefusal::BAD_PARAMETERS,
                   "this client takes part only if survivors are confirmed "
                   "(adversary \"semi_malicious\")"};
  }
  const double corrupt = session.assumptions().corrupt_fraction();
  if (!(corrupt >= expectations.min_corrupt_fraction)) {
    return Refusal{
        v1::SecureRefusal::BAD_PARAMETERS,
        absl::StrCat(
            "the session withstands a fraction of ", corrupt,
            " who collude; this client takes part only from ",
            expectations.min_corrupt_fraction,
            " on: raise the job's secure_aggregation.corrupt_fraction, or "
            "lower secure_aggregation.min_corrupt_fraction in client.toml")};
  }
  return absl::nullopt;
}

// What a client remembers of a neighbour's key.
std::string KeyToken(absl::string_view public_key) {
  return absl::StrCat("key ", public_key);
}

Refusal Failed(const absl::Status& status) {
  return Refusal{v1::SecureRefusal::CLIENT_FAILED,
                 std::string(status.message())};
}

absl::StatusOr<OwnSecrets> MakeSecrets(base::SecureRandom& random) {
  CHOIR_ASSIGN_OR_RETURN(crypto::X25519Key mask_key,
                         crypto::X25519Key::Generate(random));
  CHOIR_ASSIGN_OR_RETURN(crypto::X25519Key share_key,
                         crypto::X25519Key::Generate(random));
  std::string seed(kSecretBytes, '\0');
  random.Fill(
      absl::MakeSpan(reinterpret_cast<uint8_t*>(&seed[0]), seed.size()));
  return OwnSecrets{std::move(mask_key), std::move(share_key),
                    crypto::SecretString(std::move(seed))};
}

}  // namespace

Refusal FromHistory(const absl::Status& status, absl::string_view what) {
  if (absl::IsAlreadyExists(status)) {
    return Refusal{v1::SecureRefusal::REPLAYED,
                   absl::StrCat(what, " was seen before")};
  }
  return Refusal{
      v1::SecureRefusal::CLIENT_FAILED,
      absl::StrCat("cannot remember ", what, ": ", status.message())};
}

std::string ClientFacts::SumToken() const {
  return absl::StrCat("sum ", session.model_digest());
}

std::string ClientFacts::RoundToken() const {
  return absl::StrCat("round ", session.round(), " ", session.attempt(), " ",
                      session.config_digest(), " ", session.job());
}

SecretVector::~SecretVector() {
  if (!secret_) return;
  for (uint64_t i = 0; i < vector_.length(); ++i) vector_.Set(i, 0);
}

Neighbour* ClientFacts::FindNeighbour(uint32_t peer) {
  const auto found = absl::c_lower_bound(
      neighbours, peer, [](const Neighbour& neighbour, uint32_t wanted) {
        return static_cast<uint32_t>(neighbour.position) < wanted;
      });
  return found != neighbours.end() &&
                 static_cast<uint32_t>(found->position) == peer
             ? &*found
             : nullptr;
}

namespace {

// Whether the client may take part; from now on it has.
MaybeRefusal CheckHistory(const ClientFacts& facts) {
  SessionHistory& history = facts.environment.history;
  if (facts.expectations.one_sum_per_model &&
      history.RemembersForGood(facts.SumToken())) {
    return FromHistory(absl::AlreadyExistsError(""), "a sum of this model");
  }
  const v1::SecureSession& session = facts.session;
  const std::string session_token =
      absl::StrCat("session ", session.session_id());
  if (history.RemembersForGood(session_token)) {
    return FromHistory(absl::AlreadyExistsError(""), "this session");
  }
  if (history.RemembersForGood(facts.RoundToken())) {
    return Refusal{
        v1::SecureRefusal::REPLAYED,
        absl::StrCat("round ", session.round(), ", attempt ", session.attempt(),
                     " of job '", session.job(),
                     "' was seen before, in another session; if this is "
                     "another run, give its job another name")};
  }
  const absl::Status status =
      history.RememberForGood({session_token, facts.RoundToken()});
  if (!status.ok()) return FromHistory(status, "this session");
  return absl::nullopt;
}

}  // namespace

OrRefusal<Step<Advertised, v1::AdvertiseKeys>> Advertised::Create(
    v1::SecureSession session, ClientExpectations expectations,
    SecretVector input, const ClientEnvironment& environment) {
  if (MaybeRefusal refusal = CheckAgainst(session, expectations, input.get())) {
    return *std::move(refusal);
  }
  const std::string session_digest = SessionDigest(session);
  auto facts = std::make_unique<ClientFacts>(
      ClientFacts{std::move(session), std::move(expectations), environment,
                  session_digest, environment.signer.name()});
  if (MaybeRefusal refusal = CheckHistory(*facts)) return *std::move(refusal);
  absl::StatusOr<OwnSecrets> secrets = MakeSecrets(environment.random);
  if (!secrets.ok()) return Failed(secrets.status());

  v1::AdvertiseKeys keys;
  keys.set_client(environment.signer.name());
  keys.set_certificate(environment.signer.certificate());
  keys.set_mask_public_key(secrets->mask_key.public_key());
  keys.set_share_public_key(secrets->share_key->public_key());
  keys.set_self_mask_commitment(
      SelfMaskCommitment(session_digest, secrets->self_mask_seed.view()));
  facts->entry_digest = EntryDigest(keys);
  absl::StatusOr<std::string> signature = environment.signer.Sign(
      AdvertiseText(session_digest, facts->entry_digest));
  if (!signature.ok()) return Failed(signature.status());
  keys.set_signature(*std::move(signature));

  return Step<Advertised, v1::AdvertiseKeys>{
      Advertised(std::move(facts), *std::move(secrets), std::move(input)),
      std::move(keys)};
}

OrRefusal<Step<Shared, v1::ShareKeys>> Advertised::OnRoster(
    const v1::Roster& roster) && {
  if (MaybeRefusal refusal = CheckEntries(roster)) return *std::move(refusal);
  if (MaybeRefusal refusal = CheckParameters(roster)) {
    return *std::move(refusal);
  }
  const std::string roster_digest = RosterDigest(roster);
  facts_->context =
      ContextDigest(facts_->session_digest, roster_digest, facts_->parameters);
  if (roster.context() != facts_->context) {
    return Refusal{v1::SecureRefusal::MALFORMED,
                   "the roster is not the one that the coordinator made"};
  }
  facts_->position = static_cast<int>(roster.position());
  const absl::StatusOr<Graph> graph =
      Graph::Create(facts_->parameters.num_clients, facts_->parameters.degree,
                    GraphSeed(facts_->session_digest, roster_digest));
  if (!graph.ok()) {
    return Refusal{v1::SecureRefusal::BAD_PARAMETERS,
                   std::string(graph.status().message())};
  }
  facts_->holds_own = graph->complete();
  if (MaybeRefusal refusal = CheckNeighbours(roster, *graph)) {
    return *std::move(refusal);
  }
  crypto::SecretString own_share;
  absl::StatusOr<v1::ShareKeys> shares = MakeShares(roster, *graph, own_share);
  // With keys that were checked, only those of low order can make this fail.
  if (!shares.ok()) {
    return Refusal{v1::SecureRefusal::BAD_PEER_KEY,
                   std::string(shares.status().message())};
  }
  secrets_.share_key.reset();
  return Step<Shared, v1::ShareKeys>{
      Shared(std::move(facts_), std::move(secrets_), std::move(own_share),
             std::move(input_)),
      *std::move(shares)};
}

MaybeRefusal Advertised::CheckEntries(const v1::Roster& roster) const {
  const auto& entries = roster.entry_digests();
  const int floor =
      std::max({facts_->expectations.min_clients, kMinCohort,
                static_cast<int>(facts_->session.assumptions().min_clients())});
  if (entries.size() < floor) {
    return Refusal{v1::SecureRefusal::ROSTER_TOO_SMALL,
                   absl::StrCat("the roster has ", entries.size(),
                                " clients; at least ", floor, " are needed")};
  }
  bool sorted = true;
  for (int i = 0; i < entries.size(); ++i) {
    if (entries[i].size() != kDigestBytes) {
      return Refusal{v1::SecureRefusal::MALFORMED,
                     absl::StrCat("entry ", i, " of the roster has ",
                                  entries[i].size(), " bytes")};
    }
    if (i > 0 && entries[i] == entries[i - 1]) {
      return Refusal{v1::SecureRefusal::LISTED_TWICE,
                     absl::StrCat("entry ", i, " is in the roster twice")};
    }
    sorted = sorted && (i == 0 || entries[i - 1] < entries[i]);
  }
  const int64_t own = absl::c_count(entries, facts_->entry_digest);
  if (own > 1) {
    return Refusal{v1::SecureRefusal::LISTED_TWICE,
                   "this client is in the roster twice"};
  }
  if (own == 0 || roster.position() >= static_cast<uint32_t>(entries.size()) ||
      entries[static_cast<int>(roster.position())] != facts_->entry_digest) {
    return Refusal{v1::SecureRefusal::NOT_IN_ROSTER,
                   absl::StrCat("position ", roster.position(),
                                " of the roster is not this client")};
  }
  if (!sorted) {
    return Refusal{v1::SecureRefusal::MALFORMED, "the roster is not sorted"};
  }
  return absl::nullopt;
}

MaybeRefusal Advertised::CheckParameters(const v1::Roster& roster) {
  const int num_clients = roster.entry_digests_size();
  if (num_clients > static_cast<int64_t>(facts_->session.max_clients())) {
    return Refusal{v1::SecureRefusal::BAD_PARAMETERS,
                   absl::StrCat("the roster has ", num_clients,
                                " clients; the session is for at most ",
                                facts_->session.max_clients())};
  }
  const absl::StatusOr<Parameters> parameters =
      ChooseParameters(num_clients, facts_->session.assumptions());
  if (!parameters.ok()) {
    return Refusal{v1::SecureRefusal::BAD_PARAMETERS,
                   std::string(parameters.status().message())};
  }
  if (static_cast<int64_t>(roster.degree()) != parameters->degree ||
      static_cast<int64_t>(roster.threshold()) != parameters->threshold) {
    return Refusal{v1::SecureRefusal::BAD_PARAMETERS,
                   absl::StrCat("degree ", roster.degree(), " and threshold ",
                                roster.threshold(), " are not those of ",
                                num_clients, " clients: ", parameters->degree,
                                " and ", parameters->threshold)};
  }
  facts_->parameters = *parameters;
  return absl::nullopt;
}

MaybeRefusal Advertised::CheckNeighbours(const v1::Roster& roster,
                                         const Graph& graph) {
  const std::vector<int> expected = graph.NeighboursOf(facts_->position);
  std::set<uint32_t> seen;
  std::set<std::string> names = {facts_->name};
  std::vector<std::string> tokens;
  for (const v1::Roster::Neighbour& peer : roster.neighbours()) {
    if (!seen.insert(peer.peer()).second) {
      return Refusal{v1::SecureRefusal::REPEATED_PEER,
                     absl::StrCat("neighbour ", peer.peer(), " twice")};
    }
    if (!absl::c_binary_search(expected, static_cast<int64_t>(peer.peer()))) {
      return Refusal{v1::SecureRefusal::UNKNOWN_PEER,
                     absl::StrCat("client ", peer.peer(),
                                  " is no neighbour of ", facts_->position)};
    }
    if (!names.insert(peer.keys().client()).second) {
      return Refusal{v1::SecureRefusal::LISTED_TWICE,
                     absl::StrCat("client '", peer.keys().client(),
                                  "' stands in two places")};
    }
    if (MaybeRefusal refusal = CheckPeer(roster, peer)) return refusal;
    tokens.push_back(KeyToken(peer.keys().mask_public_key()));
    tokens.push_back(KeyToken(peer.keys().share_public_key()));
  }
  if (seen.size() != expected.size()) {
    return Refusal{
        v1::SecureRefusal::BAD_PARAMETERS,
        absl::StrCat("the roster names ", seen.size(), " neighbours; position ",
                     facts_->position, " has ", expected.size())};
  }
  absl::c_sort(facts_->neighbours, [](const Neighbour& a, const Neighbour& b) {
    return a.position < b.position;
  });
  if (MaybeRefusal refusal = CheckUnseen(roster)) return refusal;
  if (absl::Status status = facts_->environment.history.RememberAll(tokens);
      !status.ok()) {
    return FromHistory(status, "a neighbour's key");
  }
  return absl::nullopt;
}

// Says whose key was seen before: the coordinator can leave that one out.
MaybeRefusal Advertised::CheckUnseen(const v1::Roster& roster) const {
  const SessionHistory& history = facts_->environment.history;
  std::vector<std::string> replayers;
  for (const v1::Roster::Neighbour& peer : roster.neighbours()) {
    const v1::AdvertiseKeys& keys = peer.keys();
    if (history.Remembers(KeyToken(keys.mask_public_key())) ||
        history.Remembers(KeyToken(keys.share_public_key()))) {
      replayers.push_back(keys.client());
    }
  }
  if (replayers.empty()) return absl::nullopt;
  std::string detail =
      absl::StrCat("a key of client '", replayers[0], "' was seen before");
  if (replayers.size() > 1) {
    absl::StrAppend(&detail, ", and keys of ", replayers.size() - 1,
                    " other clients");
  }
  return Refusal{v1::SecureRefusal::REPLAYED, std::move(detail),
                 std::move(replayers)};
}

MaybeRefusal Advertised::CheckPeer(const v1::Roster& roster,
                                   const v1::Roster::Neighbour& peer) {
  const v1::AdvertiseKeys& keys = peer.keys();
  const auto bad = [&](absl::string_view why) {
    return Refusal{v1::SecureRefusal::BAD_PEER_KEY,
                   absl::StrCat("client '", keys.client(), "' at ", peer.peer(),
                                ": ", why),
                   {keys.client()}};
  };
  const std::string entry = EntryDigest(keys);
  if (entry != roster.entry_digests(static_cast<int>(peer.peer()))) {
    // Not the neighbour's doing.
    Refusal refusal = bad("its keys are not those of the roster");
    refusal.peers.clear();
    return refusal;
  }
  if (keys.mask_public_key().size() != crypto::kX25519Bytes ||
      keys.share_public_key().size() != crypto::kX25519Bytes ||
      keys.mask_public_key() == keys.share_public_key()) {
    return bad("it needs two keys of 32 bytes");
  }
  absl::StatusOr<std::string> signing_key =
      facts_->environment.verifier.PublicKeyOf(keys.client(),
                                               keys.certificate());
  if (!signing_key.ok()) return bad(signing_key.status().message());
  if (!crypto::SignatureIsValid(*signing_key,
                                AdvertiseText(facts_->session_digest, entry),
                                keys.signature())) {
    return bad("it did not sign these keys for this session");
  }
  Neighbour neighbour;
  neighbour.position = static_cast<int>(peer.peer());
  neighbour.mask_public_key = keys.mask_public_key();
  neighbour.signing_key = *std::move(signing_key);
  facts_->neighbours.push_back(std::move(neighbour));
  return absl::nullopt;
}

absl::StatusOr<v1::ShareKeys> Advertised::MakeShares(
    const v1::Roster& roster, const Graph& graph,
    crypto::SecretString& own_share) {
  const std::vector<int> holders = graph.HoldersOf(facts_->position);
  base::SecureRandom& random = facts_->environment.random;
  const int threshold = facts_->parameters.threshold;
  std::vector<uint32_t> points;
  for (const int holder : holders) points.push_back(holder + 1);
  CHOIR_ASSIGN_OR_RETURN(
      std::vector<crypto::SecretString> seed_shares,
      SplitSecret(secrets_.self_mask_seed.view(), points, threshold, random));
  CHOIR_ASSIGN_OR_RETURN(
      std::vector<crypto::SecretString> key_shares,
      SplitSecret(secrets_.mask_key.private_key(), points, threshold, random));
  // The roster's neighbours may stand in any order.
  std::vector<const v1::AdvertiseKeys*> keys(roster.entry_digests_size());
  for (const auto& peer : roster.neighbours()) keys[peer.peer()] = &peer.keys();

  v1::ShareKeys message;
  for (size_t i = 0; i < holders.size(); ++i) {
    const int peer = holders[i];
    if (peer == facts_->position) {
      own_share = std::move(seed_shares[i]);
      continue;
    }
    CHOIR_ASSIGN_OR_RETURN(
        const crypto::SecretString agreed,
        secrets_.share_key->Agree(keys[peer]->share_public_key()));
    CHOIR_ASSIGN_OR_RETURN(
        const crypto::SecretString seal_key,
        ShareKey(agreed.view(), facts_->context, facts_->position, peer));
    CHOIR_ASSIGN_OR_RETURN(
        facts_->FindNeighbour(peer)->open_key,
        ShareKey(agreed.view(), facts_->context, peer, facts_->position));
    const crypto::SecretString both(
        absl::StrCat(seed_shares[i].view(), key_shares[i].view()));
    CHOIR_ASSIGN_OR_RETURN(
        std::string sealed,
        crypto::Seal(seal_key.view(),
                     ShareAad(facts_->context, facts_->position, peer),
                     both.view(), random));
    v1::EncryptedShare* share = message.add_shares();
    share->set_peer(peer);
    share->set_sealed(std::move(sealed));
  }
  return message;
}

}  // namespace choir::secagg
