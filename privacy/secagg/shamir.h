// Shamir's secret sharing of 32-byte secrets: t shares give the secret back,
// fewer tell nothing about it.
//
// Each half of a secret is the constant of a polynomial of degree t - 1 over
// GF(2^128) (x^128 + x^7 + x^2 + x + 1; bytes little-endian); a share is its
// two values at the holder's point. Points are public; arithmetic takes the
// same time whatever secrets and shares are.
//
// Source: Shamir, "How to Share a Secret" (1979).
#ifndef CHOIR_PRIVACY_SECAGG_SHAMIR_H_
#define CHOIR_PRIVACY_SECAGG_SHAMIR_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/secure_random.h"
#include "privacy/crypto/secret.h"

namespace choir::secagg {

// Of secrets and of shares.
inline constexpr size_t kSecretBytes = 32;

// An element of GF(2^128); `low` holds the coefficients of x^0 to x^63.
struct FieldElement {
  uint64_t low = 0;
  uint64_t high = 0;
  friend bool operator==(const FieldElement& a, const FieldElement& b) {
    return a.low == b.low && a.high == b.high;
  }
};
FieldElement FieldMultiply(FieldElement a, FieldElement b);
// The inverse; that of zero is zero.
FieldElement FieldInverse(FieldElement a);

// One share of `secret` for each of `points`, any `threshold` of which
// reconstruct. Points are positions in the roster plus one: not zero, no two
// equal. Cost: points * threshold short multiplications.
// Errors: INVALID_ARGUMENT for another size of secret, a threshold below 1 or
//   above the number of points, points that are zero or equal.
absl::StatusOr<std::vector<crypto::SecretString>> SplitSecret(
    absl::string_view secret, absl::Span<const uint32_t> points, int threshold,
    base::SecureRandom& random);

// Gives secrets back from shares at the same points, whatever their order:
// made once for a set of holders, used for each of their secrets.
// Threads: const methods are safe.
class SecretCombiner {
 public:
  // `points`: exactly as many as the threshold. INVALID_ARGUMENT if there are
  // none, or they are zero or equal. Cost: their number squared.
  static absl::StatusOr<SecretCombiner> Create(
      absl::Span<const uint32_t> points);

  // `shares` in the order of the points. Shares that do not belong together
  // give some other secret: the caller checks what it gets.
  // Errors: INVALID_ARGUMENT for another number or size of shares.
  absl::StatusOr<crypto::SecretString> Combine(
      absl::Span<const absl::string_view> shares) const;

  const std::vector<uint32_t>& points() const { return points_; }

 private:
  SecretCombiner() = default;
  std::vector<uint32_t> points_;
  std::vector<FieldElement> coefficients_;  // of Lagrange, at zero
};

// Which of `shares`, at `points`, are not on the polynomials that the others
// are on, if at most half of those beyond `threshold` are wrong; then any
// `threshold` of the rest combine to the secret. If more are wrong it may be
// any of them, or none, but `threshold` are left: the caller checks what it
// gets.
// Sizes as in SecretCombiner. Cost: the number of points squared.
//
// Source: Gao, "A New Algorithm for Decoding Reed-Solomon Codes" (2003).
std::vector<size_t> FindWrongShares(absl::Span<const uint32_t> points,
                                    absl::Span<const absl::string_view> shares,
                                    size_t threshold);

}  // namespace choir::secagg

#endif  // CHOIR_PRIVACY_SECAGG_SHAMIR_H_
