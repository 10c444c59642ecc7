// What keys, ciphertexts and signatures of a session are bound to.
//
// Everything that clients must agree on is hashed in one canonical form (each
// part preceded by its length), step by step:
//
//   session   every field of SecureSession
//   entry     one client's advertised keys, without their signature
//   roster    group and all entries
//   context   session, roster, n, k, t, survivors needed
//
// Masks, share keys and their additional data contain the context. Clients that
// were told different things therefore have different masks, which do not
// cancel, and cannot open each other's shares; nothing of one session means
// anything in another. Digests are 32 raw bytes.
#ifndef CHOIR_PRIVACY_SECAGG_TRANSCRIPT_H_
#define CHOIR_PRIVACY_SECAGG_TRANSCRIPT_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "choir/v1/secagg.pb.h"
#include "privacy/crypto/secret.h"
#include "privacy/secagg/parameters.h"

namespace choir::secagg {

inline constexpr size_t kSessionIdBytes = 32;
inline constexpr size_t kDigestBytes = 32;

// INVALID_ARGUMENT naming the field that is not as it must be.
absl::Status CheckSession(const v1::SecureSession& session);

std::string SessionDigest(const v1::SecureSession& session);
std::string EntryDigest(const v1::AdvertiseKeys& keys);
// `entry_digests` in order.
std::string RosterDigest(const v1::Roster& roster);
std::string ContextDigest(absl::string_view session_digest,
                          absl::string_view roster_digest,
                          const Parameters& parameters);
// From session and roster alone.
std::string GraphSeed(absl::string_view session_digest,
                      absl::string_view roster_digest);

// What a client signs when it advertises its keys, and when it confirms who
// survived (the bitmaps of v1::Survivors).
std::string AdvertiseText(absl::string_view session_digest,
                          absl::string_view entry_digest);
std::string SurvivorsText(absl::string_view context,
                          const v1::Survivors& survivors);
// Binds a client to the seed of its own mask, without revealing it.
std::string SelfMaskCommitment(absl::string_view session_digest,
                               absl::string_view seed);

// Keys of 32 bytes (HKDF-SHA256, the context in the info). `agreed` is the
// X25519 output of the pair at positions a and b, in any order.
absl::StatusOr<crypto::SecretString> PairMaskKey(absl::string_view agreed,
                                                 absl::string_view context,
                                                 int a, int b);
absl::StatusOr<crypto::SecretString> SelfMaskKey(absl::string_view seed,
                                                 absl::string_view context,
                                                 int position);
// One key per direction, so that no share can be sent back or on.
absl::StatusOr<crypto::SecretString> ShareKey(absl::string_view agreed,
                                              absl::string_view context,
                                              int from, int to);
std::string ShareAad(absl::string_view context, int from, int to);

// One bit per position, lowest bit of the first byte first.
std::string PackPositions(const std::vector<bool>& positions);
// INVALID_ARGUMENT unless it is exactly `num_clients` bits, filled with zeros
// to a whole byte.
absl::StatusOr<std::vector<bool>> UnpackPositions(absl::string_view bytes,
                                                  int num_clients);

}  // namespace choir::secagg

#endif  // CHOIR_PRIVACY_SECAGG_TRANSCRIPT_H_
