#include "privacy/secagg/transcript.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "privacy/crypto/symmetric.h"
#include "privacy/secagg/masked_vector.h"

namespace choir::secagg {
namespace {

// Hashes parts, each preceded by its length, after a label that says what for.
class Hasher {
 public:
  explicit Hasher(absl::string_view label) { Text(label); }

  Hasher& Text(absl::string_view text) {
    Raw(text.size());
    sha_.Update(text);
    return *this;
  }
  Hasher& Number(uint64_t number) {
    Raw(8);
    Raw(number);
    return *this;
  }
  Hasher& Real(double number) {
    uint64_t bits;
    static_assert(sizeof(bits) == sizeof(number));
    std::memcpy(&bits, &number, sizeof(bits));
    return Number(bits);
  }
  std::string Finish() {
    const base::Sha256Digest digest = sha_.Finish();
    return std::string(digest.begin(), digest.end());
  }

 private:
  void Raw(uint64_t number) {
    uint8_t bytes[8];
    for (int i = 0; i < 8; ++i)
      bytes[i] = static_cast<uint8_t>(number >> (8 * i));
    sha_.Update(absl::MakeConstSpan(bytes));
  }

  base::Sha256 sha_;
};

std::string Fixed32(int number) {
  std::string bytes(4, '\0');
  for (int i = 0; i < 4; ++i) {
    bytes[i] = static_cast<char>(static_cast<uint32_t>(number) >> (8 * i));
  }
  return bytes;
}

// Label, context and two positions: all of fixed length but the label, which
// ends with a zero byte.
std::string Info(absl::string_view label, absl::string_view context, int a,
                 int b) {
  return absl::StrCat("choir secagg v1 ", label, absl::string_view("\0", 1),
                      context, Fixed32(a), Fixed32(b));
}

absl::StatusOr<crypto::SecretString> Derive(absl::string_view secret,
                                            const std::string& info) {
  return crypto::HkdfSha256(secret, /*salt=*/"", info, crypto::kKeyBytes);
}

}  // namespace

absl::Status CheckSession(const v1::SecureSession& session) {
  if (session.session_id().size() != kSessionIdBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("session_id has ", session.session_id().size(),
                     " bytes; it must have ", kSessionIdBytes));
  }
  if (session.modulus_bits() < kMinModulusBits ||
      session.modulus_bits() > kMaxModulusBits) {
    return absl::InvalidArgumentError(absl::StrCat(
        "modulus_bits is ", session.modulus_bits(), "; it must be ",
        kMinModulusBits, " to ", kMaxModulusBits));
  }
  if (session.length() == 0) {
    return absl::InvalidArgumentError("the vector's length is 0");
  }
  return absl::OkStatus();
}

std::string SessionDigest(const v1::SecureSession& session) {
  const v1::SecureAssumptions& assumptions = session.assumptions();
  return Hasher("choir secagg v1 session")
      .Text(session.session_id())
      .Text(session.job())
      .Number(session.round())
      .Number(session.attempt())
      .Text(session.model_digest())
      .Text(session.config_digest())
      .Number(session.modulus_bits())
      .Number(session.length())
      .Number(assumptions.adversary())
      .Real(assumptions.corrupt_fraction())
      .Real(assumptions.dropout_fraction())
      .Number(assumptions.min_clients())
      .Number(session.max_clients())
      .Finish();
}

std::string EntryDigest(const v1::AdvertiseKeys& keys) {
  return Hasher("choir secagg v1 entry")
      .Text(keys.client())
      .Text(keys.mask_public_key())
      .Text(keys.share_public_key())
      .Text(keys.certificate())
      .Text(keys.self_mask_commitment())
      .Finish();
}

std::string RosterDigest(const v1::Roster& roster) {
  Hasher hasher("choir secagg v1 roster");
  hasher.Number(roster.group()).Number(roster.entry_digests_size());
  for (const std::string& digest : roster.entry_digests()) hasher.Text(digest);
  return hasher.Finish();
}

std::string ContextDigest(absl::string_view session_digest,
                          absl::string_view roster_digest,
                          const Parameters& parameters) {
  return Hasher("choir secagg v1 context")
      .Text(session_digest)
      .Text(roster_digest)
      .Number(parameters.num_clients)
      .Number(parameters.degree)
      .Number(parameters.threshold)
      .Number(parameters.min_survivors)
      .Finish();
}

std::string GraphSeed(absl::string_view session_digest,
                      absl::string_view roster_digest) {
  return Hasher("choir secagg v1 graph")
      .Text(session_digest)
      .Text(roster_digest)
      .Finish();
}

std::string AdvertiseText(absl::string_view session_digest,
                          absl::string_view entry_digest) {
  return absl::StrCat("choir secagg v1 advertise", absl::string_view("\0", 1),
                      session_digest, entry_digest);
}

std::string SurvivorsText(absl::string_view context,
                          const v1::Survivors& survivors) {
  return absl::StrCat("choir secagg v1 survivors", absl::string_view("\0", 1),
                      context,
                      Hasher("choir secagg v1 survivors")
                          .Text(survivors.survivors())
                          .Text(survivors.sharers())
                          .Finish());
}

std::string SelfMaskCommitment(absl::string_view session_digest,
                               absl::string_view seed) {
  return Hasher("choir secagg v1 self mask")
      .Text(session_digest)
      .Text(seed)
      .Finish();
}

absl::StatusOr<crypto::SecretString> PairMaskKey(absl::string_view agreed,
                                                 absl::string_view context,
                                                 int a, int b) {
  return Derive(agreed,
                Info("pair mask", context, std::min(a, b), std::max(a, b)));
}

absl::StatusOr<crypto::SecretString> SelfMaskKey(absl::string_view seed,
                                                 absl::string_view context,
                                                 int position) {
  return Derive(seed, Info("self mask", context, position, position));
}

absl::StatusOr<crypto::SecretString> ShareKey(absl::string_view agreed,
                                              absl::string_view context,
                                              int from, int to) {
  return Derive(agreed, Info("share key", context, from, to));
}

std::string ShareAad(absl::string_view context, int from, int to) {
  return Info("share", context, from, to);
}

std::string PackPositions(const std::vector<bool>& positions) {
  std::string bytes((positions.size() + 7) / 8, '\0');
  for (size_t i = 0; i < positions.size(); ++i) {
    if (positions[i]) {
      bytes[i / 8] = static_cast<char>(bytes[i / 8] | (1 << (i % 8)));
    }
  }
  return bytes;
}

absl::StatusOr<std::vector<bool>> UnpackPositions(absl::string_view bytes,
                                                  int num_clients) {
  const size_t expected = (static_cast<size_t>(num_clients) + 7) / 8;
  if (bytes.size() != expected) {
    return absl::InvalidArgumentError(
        absl::StrCat("a list of ", num_clients, " clients has ", expected,
                     " bytes, not ", bytes.size()));
  }
  std::vector<bool> positions(num_clients);
  for (size_t i = 0; i < bytes.size() * 8; ++i) {
    const bool set = (static_cast<uint8_t>(bytes[i / 8]) >> (i % 8)) & 1;
    if (i < positions.size()) {
      positions[i] = set;
    } else if (set) {
      return absl::InvalidArgumentError(
          absl::StrCat("a list names client ", i, " of ", num_clients));
    }
  }
  return positions;
}

}  // namespace choir::secagg
