#include "privacy/secagg/shamir.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace choir::secagg {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "elements are the machine's own byte order");

// x^128 = x^7 + x^2 + x + 1.
constexpr uint64_t kReduction = 0x87;

// a * x.
FieldElement Double(FieldElement a) {
  const uint64_t carry = 0 - (a.high >> 63);
  return {(a.low << 1) ^ (carry & kReduction), (a.high << 1) | (a.low >> 63)};
}

FieldElement Plus(FieldElement a, FieldElement b) {
  return {a.low ^ b.low, a.high ^ b.high};
}

// Without branches on either factor.
FieldElement MultiplyPortably(FieldElement a, FieldElement b) {
  FieldElement product;
  for (int i = 127; i >= 0; --i) {
    product = Double(product);
    const uint64_t word = i >= 64 ? b.high : b.low;
    const uint64_t mask = 0 - ((word >> (i % 64)) & 1);
    product.low ^= a.low & mask;
    product.high ^= a.high & mask;
  }
  return product;
}

// `point` is public, so that its length may show in the time; `a` is not.
FieldElement MultiplyByPoint(FieldElement a, uint32_t point) {
  FieldElement product;
  for (; point != 0; point >>= 1) {
    const uint64_t mask = 0 - static_cast<uint64_t>(point & 1);
    product.low ^= a.low & mask;
    product.high ^= a.high & mask;
    a = Double(a);
  }
  return product;
}

#if defined(__x86_64__)
// Products of the processor's instruction, which takes constant time.
__attribute__((target("pclmul,sse4.1"))) FieldElement MultiplyWithClmul(
    FieldElement a, FieldElement b) {
  const __m128i x =
      _mm_set_epi64x(static_cast<int64_t>(a.high), static_cast<int64_t>(a.low));
  const __m128i y =
      _mm_set_epi64x(static_cast<int64_t>(b.high), static_cast<int64_t>(b.low));
  const __m128i reduction = _mm_set_epi64x(0, kReduction);
  const __m128i middle = _mm_xor_si128(_mm_clmulepi64_si128(x, y, 0x01),
                                       _mm_clmulepi64_si128(x, y, 0x10));
  const __m128i low = _mm_xor_si128(_mm_clmulepi64_si128(x, y, 0x00),
                                    _mm_slli_si128(middle, 8));
  const __m128i high = _mm_xor_si128(_mm_clmulepi64_si128(x, y, 0x11),
                                     _mm_srli_si128(middle, 8));
  // high * x^128 = high * reduction: 64 bits at a time, the upper first.
  const __m128i upper = _mm_clmulepi64_si128(high, reduction, 0x01);
  const __m128i once = _mm_xor_si128(low, _mm_slli_si128(upper, 8));
  const __m128i rest = _mm_xor_si128(high, _mm_srli_si128(upper, 8));
  const __m128i lower = _mm_clmulepi64_si128(rest, reduction, 0x00);
  const __m128i out = _mm_xor_si128(once, lower);
  return {static_cast<uint64_t>(_mm_cvtsi128_si64(out)),
          static_cast<uint64_t>(_mm_extract_epi64(out, 1))};
}

// Product of x_i and all x_j - x_i: small factors are multiplied without
// reduction, `together` of them in 64 bits, before the long multiplication.
__attribute__((target("pclmul,sse4.1"))) FieldElement DenominatorWithClmul(
    absl::Span<const uint32_t> points, size_t i, int together) {
  FieldElement product{1, 0};
  __m128i few = _mm_cvtsi64_si128(points[i]);
  int count = 1;
  for (size_t j = 0; j < points.size(); ++j) {
    if (j == i) continue;
    const __m128i factor = _mm_cvtsi64_si128(points[i] ^ points[j]);
    if (count < together) {
      few = _mm_clmulepi64_si128(few, factor, 0x00);
      ++count;
      continue;
    }
    product = MultiplyWithClmul(
        product, {static_cast<uint64_t>(_mm_cvtsi128_si64(few)), 0});
    few = factor;
    count = 1;
  }
  return MultiplyWithClmul(product,
                           {static_cast<uint64_t>(_mm_cvtsi128_si64(few)), 0});
}

bool HasClmul() {
  static const bool has =
      __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
  return has;
}
#endif

FieldElement Load(absl::string_view bytes, size_t half) {
  FieldElement out;
  std::memcpy(&out.low, bytes.data() + 16 * half, 8);
  std::memcpy(&out.high, bytes.data() + 16 * half + 8, 8);
  return out;
}

void Store(FieldElement value, size_t half, std::string& out) {
  std::memcpy(out.data() + 16 * half, &value.low, 8);
  std::memcpy(out.data() + 16 * half + 8, &value.high, 8);
}

absl::Status CheckPoints(absl::Span<const uint32_t> points) {
  std::vector<uint32_t> sorted(points.begin(), points.end());
  std::sort(sorted.begin(), sorted.end());
  if (sorted.empty() || sorted.front() == 0) {
    return absl::InvalidArgumentError(
        "shares need points, none of which is zero");
  }
  if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end()) {
    return absl::InvalidArgumentError("two shares at the same point");
  }
  return absl::OkStatus();
}

}  // namespace

FieldElement FieldMultiply(FieldElement a, FieldElement b) {
#if defined(__x86_64__)
  if (HasClmul()) return MultiplyWithClmul(a, b);
#endif
  return MultiplyPortably(a, b);
}

FieldElement FieldInverse(FieldElement a) {
  // a^(2^128 - 2): the product of a^(2^i) for i = 1..127.
  FieldElement power = a;
  FieldElement out{1, 0};
  for (int i = 1; i < 128; ++i) {
    power = FieldMultiply(power, power);
    out = FieldMultiply(out, power);
  }
  return out;
}

absl::StatusOr<std::vector<crypto::SecretString>> SplitSecret(
    absl::string_view secret, absl::Span<const uint32_t> points, int threshold,
    base::SecureRandom& random) {
  if (secret.size() != kSecretBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a secret of ", secret.size(), " bytes; shared ones have ",
                     kSecretBytes));
  }
  if (threshold < 1 || static_cast<size_t>(threshold) > points.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a threshold of ", threshold, " for ", points.size(), " shares"));
  }
  CHOIR_RETURN_IF_ERROR(CheckPoints(points));
  // The secret, then threshold - 1 random coefficients, 32 bytes each.
  std::string plain(kSecretBytes * threshold, '\0');
  std::memcpy(plain.data(), secret.data(), kSecretBytes);
  random.Fill(
      absl::MakeSpan(reinterpret_cast<uint8_t*>(plain.data()) + kSecretBytes,
                     plain.size() - kSecretBytes));
  const crypto::SecretString coefficients(std::move(plain));
  std::vector<crypto::SecretString> shares;
  shares.reserve(points.size());
  for (const uint32_t point : points) {
    FieldElement value[2];
    for (int i = threshold - 1; i >= 0; --i) {
      const absl::string_view bytes =
          coefficients.view().substr(kSecretBytes * i, kSecretBytes);
      for (size_t half = 0; half < 2; ++half) {
        value[half] =
            Plus(MultiplyByPoint(value[half], point), Load(bytes, half));
      }
    }
    std::string share(kSecretBytes, '\0');
    Store(value[0], 0, share);
    Store(value[1], 1, share);
    shares.emplace_back(std::move(share));
  }
  return shares;
}

namespace {

FieldElement Denominator(absl::Span<const uint32_t> points, size_t i,
                         int together) {
#if defined(__x86_64__)
  if (HasClmul()) return DenominatorWithClmul(points, i, together);
#endif
  FieldElement product{points[i], 0};
  for (size_t j = 0; j < points.size(); ++j) {
    if (j != i) product = MultiplyByPoint(product, points[i] ^ points[j]);
  }
  return product;
}

}  // namespace

absl::StatusOr<SecretCombiner> SecretCombiner::Create(
    absl::Span<const uint32_t> points) {
  CHOIR_RETURN_IF_ERROR(CheckPoints(points));
  const size_t n = points.size();
  // Coefficient i is the product over j != i of x_j / (x_j - x_i), that is, the
  // product of all x_j over x_i * product of (x_j - x_i).
  FieldElement all{1, 0};
  std::vector<FieldElement> below(n);
  uint32_t bits = 0;
  for (const uint32_t point : points) bits |= point;
  const int together = 64 / (32 - __builtin_clz(bits));
  for (size_t i = 0; i < n; ++i) {
    all = MultiplyByPoint(all, points[i]);
    below[i] = Denominator(points, i, together);
  }
  // All inverses from one: prefix[i] is the product of below[0..i).
  std::vector<FieldElement> prefix(n + 1);
  prefix[0] = {1, 0};
  for (size_t i = 0; i < n; ++i) {
    prefix[i + 1] = FieldMultiply(prefix[i], below[i]);
  }
  FieldElement inverse = FieldInverse(prefix[n]);
  SecretCombiner out;
  out.points_.assign(points.begin(), points.end());
  out.coefficients_.resize(n);
  for (size_t i = n; i-- > 0;) {
    out.coefficients_[i] =
        FieldMultiply(all, FieldMultiply(inverse, prefix[i]));
    inverse = FieldMultiply(inverse, below[i]);
  }
  return out;
}

absl::StatusOr<crypto::SecretString> SecretCombiner::Combine(
    absl::Span<const absl::string_view> shares) const {
  if (shares.size() != points_.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(shares.size(), " shares for ", points_.size(), " points"));
  }
  FieldElement value[2];
  for (size_t i = 0; i < shares.size(); ++i) {
    if (shares[i].size() != kSecretBytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a share of ", shares[i].size(), " bytes; they have ", kSecretBytes));
    }
    for (size_t half = 0; half < 2; ++half) {
      value[half] = Plus(
          value[half], FieldMultiply(coefficients_[i], Load(shares[i], half)));
    }
  }
  std::string secret(kSecretBytes, '\0');
  Store(value[0], 0, secret);
  Store(value[1], 1, secret);
  return crypto::SecretString(std::move(secret));
}

// ----------------------------------------------------------- correction ----

namespace {

// Coefficients, that of x^0 first; the last one is not zero.
using Polynomial = std::vector<FieldElement>;

// a += factor * x^shift * b.
void AddMultiple(const Polynomial& b, FieldElement factor, size_t shift,
                 Polynomial& a) {
  a.resize(std::max(a.size(), b.size() + shift));
  for (size_t i = 0; i < b.size(); ++i) {
    a[i + shift] = Plus(a[i + shift], FieldMultiply(factor, b[i]));
  }
  while (!a.empty() && a.back() == FieldElement{}) a.pop_back();
}

FieldElement ValueAt(const Polynomial& polynomial, uint32_t point) {
  FieldElement value;
  for (size_t i = polynomial.size(); i-- > 0;) {
    value = Plus(MultiplyByPoint(value, point), polynomial[i]);
  }
  return value;
}

// The polynomial whose roots are the points at which one half of the shares is
// wrong, up to a factor.
Polynomial ErrorLocator(absl::Span<const uint32_t> points,
                        absl::Span<const absl::string_view> shares,
                        size_t threshold, size_t half) {
  constexpr FieldElement kOne{1, 0};
  // `zero` vanishes at all points, `through` goes through all shares.
  Polynomial zero = {kOne};
  Polynomial through;
  for (size_t i = 0; i < points.size(); ++i) {
    const FieldElement miss =
        Plus(Load(shares[i], half), ValueAt(through, points[i]));
    AddMultiple(zero,
                FieldMultiply(miss, FieldInverse(ValueAt(zero, points[i]))), 0,
                through);
    const Polynomial before = zero;
    zero.insert(zero.begin(), FieldElement{});
    AddMultiple(before, {points[i], 0}, 0, zero);
  }
  // Euclid's algorithm on both, until the rest is of the degree that product
  // of the secret's polynomial and the locator can have.
  Polynomial locator_before;
  Polynomial locator = {kOne};
  while (2 * through.size() >= points.size() + threshold + 2) {
    const FieldElement inverse = FieldInverse(through.back());
    while (zero.size() >= through.size()) {
      const FieldElement factor = FieldMultiply(zero.back(), inverse);
      const size_t shift = zero.size() - through.size();
      AddMultiple(through, factor, shift, zero);
      AddMultiple(locator, factor, shift, locator_before);
    }
    std::swap(zero, through);
    std::swap(locator_before, locator);
  }
  return locator;
}

}  // namespace

std::vector<size_t> FindWrongShares(absl::Span<const uint32_t> points,
                                    absl::Span<const absl::string_view> shares,
                                    size_t threshold) {
  std::vector<size_t> wrong;
  const Polynomial locators[] = {ErrorLocator(points, shares, threshold, 0),
                                 ErrorLocator(points, shares, threshold, 1)};
  for (size_t i = 0; i < points.size(); ++i) {
    for (const Polynomial& locator : locators) {
      if (!(ValueAt(locator, points[i]) == FieldElement{})) continue;
      wrong.push_back(i);
      break;
    }
  }
  if (wrong.size() + threshold > points.size()) wrong.clear();
  return wrong;
}

}  // namespace choir::secagg
