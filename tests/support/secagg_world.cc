#include "tests/support/secagg_world.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/sha256.h"
#include "base/sim_random.h"

namespace choir::secagg {
namespace {

std::string SeedBytes(uint64_t seed, absl::string_view what) {
  const base::Sha256Digest digest = base::Sha256Of(absl::StrCat(what, seed));
  return std::string(digest.begin(), digest.end());
}

crypto::SigningKey SeededSigningKey(uint64_t seed, absl::string_view what) {
  auto key = crypto::SigningKey::FromPrivate(SeedBytes(seed, what));
  CHOIR_CHECK(key.ok());
  return *std::move(key);
}

constexpr size_t kCertificateBytes =
    crypto::kSigningPublicKeyBytes + crypto::kSignatureBytes;

}  // namespace

SeededRandom::SeededRandom(uint64_t seed)
    : stream_(*crypto::AesCtrStream::Create(SeedBytes(seed, "random"))) {}

void SeededRandom::Fill(absl::Span<uint8_t> out) { stream_.Next(out); }

TestAuthority::TestAuthority(uint64_t seed, size_t padding)
    : key_(SeededSigningKey(seed, "authority")),
      public_key_(*key_.PublicKey()),
      padding_(padding) {}

std::string TestAuthority::Issue(absl::string_view name,
                                 absl::string_view public_key) const {
  return absl::StrCat(public_key, *key_.Sign(absl::StrCat(name, public_key)),
                      std::string(padding_, 'x'));
}

absl::StatusOr<std::string> TestAuthority::PublicKeyOf(
    absl::string_view name, absl::string_view certificate) const {
  if (certificate.size() < kCertificateBytes) {
    return absl::PermissionDeniedError("not a certificate");
  }
  const absl::string_view key =
      certificate.substr(0, crypto::kSigningPublicKeyBytes);
  if (!crypto::SignatureIsValid(
          public_key_, absl::StrCat(name, key),
          certificate.substr(crypto::kSigningPublicKeyBytes,
                             crypto::kSignatureBytes))) {
    return absl::PermissionDeniedError("not a certificate of our authority");
  }
  return std::string(key);
}

absl::StatusOr<std::string> CachingVerifier::PublicKeyOf(
    absl::string_view name, absl::string_view certificate) const {
  std::string both = absl::StrCat(name, ":", certificate);
  if (known_.count(both) > 0) {
    return std::string(certificate.substr(0, crypto::kSigningPublicKeyBytes));
  }
  absl::StatusOr<std::string> key = verifier_.PublicKeyOf(name, certificate);
  if (key.ok()) known_.insert(std::move(both));
  return key;
}

absl::StatusOr<std::string> GullibleVerifier::PublicKeyOf(
    absl::string_view name, absl::string_view certificate) const {
  return std::string(certificate.substr(0, crypto::kSigningPublicKeyBytes));
}

TestSigner::TestSigner(std::string name, uint64_t seed,
                       const TestAuthority& authority)
    : name_(std::move(name)),
      key_(SeededSigningKey(seed, name_)),
      certificate_(authority.Issue(name_, *key_.PublicKey())) {}

absl::StatusOr<std::string> TestSigner::Sign(absl::string_view text) const {
  return key_.Sign(text);
}

absl::Status MemoryHistory::Remember(absl::string_view token) {
  if (!fault_.ok()) return fault_;
  if (!seen_.insert(std::string(token)).second) {
    return absl::AlreadyExistsError("seen before");
  }
  return absl::OkStatus();
}

World::World(const WorldOptions& options)
    : options_(options),
      authority_(options.seed, options.certificate_padding),
      caching_(authority_),
      verifier_(&caching_),
      histories_(options.clients) {
  session.set_session_id(SeedBytes(options.seed, "session"));
  session.set_job("test");
  session.set_round(3);
  session.set_attempt(1);
  session.set_model_digest("model");
  session.set_config_digest("config");
  session.set_modulus_bits(options.modulus_bits);
  session.set_length(options.length);
  session.set_max_clients(options.clients);
  v1::SecureAssumptions& assumptions = *session.mutable_assumptions();
  assumptions.set_adversary(options.adversary);
  assumptions.set_corrupt_fraction(options.corrupt_fraction);
  assumptions.set_dropout_fraction(options.dropout_fraction);
  assumptions.set_min_clients(options.min_clients);
  for (int i = 0; i < options.clients; ++i) {
    signers_.push_back(std::make_unique<TestSigner>(
        absl::StrFormat("client-%04d", i), options.seed, authority_));
  }
}

int World::IndexOf(absl::string_view name) const {
  for (int i = 0; i < size(); ++i) {
    if (signers_[i]->name() == name) return i;
  }
  return -1;
}

MaskedVector World::Input(int i) const {
  base::SimRandom random(
      base::DeriveSeed(options_.seed, {"input", signers_[i]->name()}));
  const int bits = options_.modulus_bits;
  const uint64_t limit =
      (bits == 64 ? ~uint64_t{0} : uint64_t{1} << bits) / options_.clients;
  MaskedVector input(bits, options_.length);
  for (uint64_t k = 0; k < options_.length; ++k) {
    input.Set(k, random.Below(limit));
  }
  return input;
}

std::vector<uint64_t> World::PlainSum(
    const std::vector<std::string>& names) const {
  std::vector<uint64_t> sum(options_.length);
  for (const std::string& name : names) {
    const MaskedVector input = Input(IndexOf(name));
    for (uint64_t k = 0; k < options_.length; ++k) sum[k] += input[k];
  }
  return sum;
}

ClientExpectations World::expectations() const {
  ClientExpectations expectations;
  expectations.model_digest = "model";
  expectations.config_digest = "config";
  expectations.min_clients = options_.min_clients;
  return expectations;
}

ClientEnvironment World::Environment(int i, base::SecureRandom& random) {
  return {*signers_[i], *verifier_, histories_[i], random};
}

ClientSession World::Client(int i, int life) {
  return Client(i, Input(i), life);
}

uint64_t World::ClientSeed(int i, int life) const {
  return base::DeriveSeed(options_.seed,
                          {"client", name(i), absl::StrCat(life)});
}

ClientSession World::Client(int i, MaskedVector input, int life) {
  randoms_.push_back(std::make_unique<SeededRandom>(ClientSeed(i, life)));
  return ClientSession(session, expectations(), std::move(input),
                       Environment(i, *randoms_.back()));
}

Federation Advertise(World& world) {
  Federation federation;
  for (int i = 0; i < world.size(); ++i) {
    federation.clients.push_back(world.Client(i));
    const ClientStep step = federation.clients.back().Start();
    CHOIR_CHECK(step.message.has_advertise());
    CHOIR_CHECK(CheckAdvertisement(world.session, world.name(i),
                                   step.message.advertise(), world.verifier())
                    .ok());
    federation.keys.push_back(step.message.advertise());
  }
  auto server = ServerSession::Create(world.session, 0, federation.keys,
                                      world.verifier());
  if (server.ok()) federation.server = *std::move(server);
  return federation;
}

absl::Status AnswerPhase(const World& world, Federation& federation,
                         const std::vector<Fate>& fates) {
  ServerSession& server = *federation.server;
  Fate last = Fate::kNoShares;
  if (server.phase() == Phase::kMaskedInput) last = Fate::kNoMasked;
  if (server.phase() == Phase::kConfirm) last = Fate::kNoConfirm;
  if (server.phase() == Phase::kUnmask) last = Fate::kNoUnmask;
  for (int i = 0; i < world.size(); ++i) {
    const Fate fate =
        i < static_cast<int>(fates.size()) ? fates[i] : Fate::kStays;
    if (fate != Fate::kStays && fate <= last) continue;
    const auto message = server.MessageFor(world.name(i));
    if (!message) continue;
    const absl::optional<ClientStep> step =
        federation.clients[i].Handle(*message);
    if (!step) continue;
    if (absl::Status status =
            server.Receive(world.name(i), step->message, step->payload);
        !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

RoundResult RunRound(World& world, const std::vector<Fate>& fates,
                     base::ThreadPool* pool) {
  Federation federation = Advertise(world);
  RoundResult result;
  if (!federation.server) {
    result.status = absl::InvalidArgumentError("no session");
    return result;
  }
  ServerSession& server = *federation.server;
  while (server.phase() != Phase::kDone) {
    result.ended_in = server.phase();
    result.status = AnswerPhase(world, federation, fates);
    if (!result.status.ok()) return result;
    result.status = server.Close();
    if (!result.status.ok()) return result;
  }
  result.ended_in = Phase::kDone;
  result.survivors = server.survivors();
  absl::StatusOr<MaskedVector> sum = server.Sum(pool);
  result.status = sum.status();
  if (sum.ok()) result.sum = *std::move(sum);
  return result;
}

std::string Difference(const MaskedVector& sum,
                       const std::vector<uint64_t>& plain) {
  if (sum.length() != plain.size()) return "another length";
  for (uint64_t k = 0; k < plain.size(); ++k) {
    if (sum[k] != plain[k]) {
      return absl::StrCat("element ", k, " is ", sum[k], ", not ", plain[k]);
    }
  }
  return "";
}

}  // namespace choir::secagg
