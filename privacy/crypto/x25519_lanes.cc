#include "privacy/crypto/x25519_lanes.h"

#include <immintrin.h>

namespace choir::crypto {
namespace {

// Five limbs of 51 bits, each for eight elements. Between operations limbs are
// below 2^51 + 2^17, as the multiplier wants them (below 2^52).
struct Field {
  __m512i limb[5];
};

inline __m512i Constant(uint64_t value) {
  return _mm512_set1_epi64(static_cast<long long>(value));
}

constexpr uint64_t kMask = (uint64_t{1} << 51) - 1;

inline __m512i Times19(__m512i x) {
  return _mm512_add_epi64(
      _mm512_add_epi64(_mm512_slli_epi64(x, 4), _mm512_slli_epi64(x, 1)), x);
}

// Each limb hands what is above 51 bits to the next; the last one, times 19, to
// the first.
inline void Carry(Field& r) {
  const __m512i mask = Constant(kMask);
  __m512i carry[5];
  for (int i = 0; i < 5; ++i) {
    carry[i] = _mm512_srli_epi64(r.limb[i], 51);
    r.limb[i] = _mm512_and_si512(r.limb[i], mask);
  }
  r.limb[0] = _mm512_add_epi64(r.limb[0], Times19(carry[4]));
  for (int i = 1; i < 5; ++i) {
    r.limb[i] = _mm512_add_epi64(r.limb[i], carry[i - 1]);
  }
}

inline Field Add(const Field& a, const Field& b) {
  Field r;
  for (int i = 0; i < 5; ++i) {
    r.limb[i] = _mm512_add_epi64(a.limb[i], b.limb[i]);
  }
  Carry(r);
  return r;
}

// a + 2p - b, so that no limb falls below zero.
inline Field Subtract(const Field& a, const Field& b) {
  const __m512i first = Constant((uint64_t{1} << 52) - 38);
  const __m512i rest = Constant((uint64_t{1} << 52) - 2);
  Field r;
  for (int i = 0; i < 5; ++i) {
    r.limb[i] = _mm512_sub_epi64(
        _mm512_add_epi64(a.limb[i], i == 0 ? first : rest), b.limb[i]);
  }
  Carry(r);
  return r;
}

// From ten limbs of a product, the upper halves of which weigh 2^52 and hence
// count twice for the next limb.
inline Field Fold(const __m512i low[9], const __m512i high[9]) {
  __m512i limb[10];
  limb[0] = low[0];
  for (int i = 1; i < 9; ++i) {
    limb[i] = _mm512_add_epi64(low[i], _mm512_slli_epi64(high[i - 1], 1));
  }
  limb[9] = _mm512_slli_epi64(high[8], 1);
  Field r;
  for (int i = 0; i < 5; ++i) {
    r.limb[i] = _mm512_add_epi64(limb[i], Times19(limb[i + 5]));
  }
  // Below 2^61: one chain brings all but the first below 2^51.
  const __m512i mask = Constant(kMask);
  for (int i = 0; i < 4; ++i) {
    r.limb[i + 1] =
        _mm512_add_epi64(r.limb[i + 1], _mm512_srli_epi64(r.limb[i], 51));
    r.limb[i] = _mm512_and_si512(r.limb[i], mask);
  }
  r.limb[0] =
      _mm512_add_epi64(r.limb[0], Times19(_mm512_srli_epi64(r.limb[4], 51)));
  r.limb[4] = _mm512_and_si512(r.limb[4], mask);
  return r;
}

inline Field Multiply(const Field& a, const Field& b) {
  __m512i low[9], high[9];
  for (int i = 0; i < 9; ++i) low[i] = high[i] = _mm512_setzero_si512();
#pragma GCC unroll 5
  for (int i = 0; i < 5; ++i) {
#pragma GCC unroll 5
    for (int j = 0; j < 5; ++j) {
      low[i + j] = _mm512_madd52lo_epu64(low[i + j], a.limb[i], b.limb[j]);
      high[i + j] = _mm512_madd52hi_epu64(high[i + j], a.limb[i], b.limb[j]);
    }
  }
  return Fold(low, high);
}

// Products of two different limbs come twice.
inline Field Square(const Field& a) {
  __m512i low[9], high[9];
  for (int i = 0; i < 9; ++i) low[i] = high[i] = _mm512_setzero_si512();
#pragma GCC unroll 5
  for (int i = 0; i < 5; ++i) {
#pragma GCC unroll 5
    for (int j = i + 1; j < 5; ++j) {
      low[i + j] = _mm512_madd52lo_epu64(low[i + j], a.limb[i], a.limb[j]);
      high[i + j] = _mm512_madd52hi_epu64(high[i + j], a.limb[i], a.limb[j]);
    }
  }
  for (int i = 1; i < 8; ++i) {
    low[i] = _mm512_slli_epi64(low[i], 1);
    high[i] = _mm512_slli_epi64(high[i], 1);
  }
#pragma GCC unroll 5
  for (int i = 0; i < 5; ++i) {
    low[2 * i] = _mm512_madd52lo_epu64(low[2 * i], a.limb[i], a.limb[i]);
    high[2 * i] = _mm512_madd52hi_epu64(high[2 * i], a.limb[i], a.limb[i]);
  }
  return Fold(low, high);
}

Field SquareTimes(Field a, int times) {
  for (int i = 0; i < times; ++i) a = Square(a);
  return a;
}

inline Field TimesSmall(const Field& a, uint64_t factor) {
  const __m512i f = Constant(factor);
  __m512i low[9], high[9];
  for (int i = 0; i < 9; ++i) low[i] = high[i] = _mm512_setzero_si512();
  for (int i = 0; i < 5; ++i) {
    low[i] = _mm512_madd52lo_epu64(low[i], a.limb[i], f);
    high[i] = _mm512_madd52hi_epu64(high[i], a.limb[i], f);
  }
  return Fold(low, high);
}

// a^(p - 2), as in the reference implementation of the curve.
Field Invert(const Field& z) {
  const Field z2 = Square(z);
  const Field z9 = Multiply(SquareTimes(z2, 2), z);
  const Field z11 = Multiply(z9, z2);
  const Field z_5_0 = Multiply(Square(z11), z9);
  const Field z_10_0 = Multiply(SquareTimes(z_5_0, 5), z_5_0);
  const Field z_20_0 = Multiply(SquareTimes(z_10_0, 10), z_10_0);
  const Field z_40_0 = Multiply(SquareTimes(z_20_0, 20), z_20_0);
  const Field z_50_0 = Multiply(SquareTimes(z_40_0, 10), z_10_0);
  const Field z_100_0 = Multiply(SquareTimes(z_50_0, 50), z_50_0);
  const Field z_200_0 = Multiply(SquareTimes(z_100_0, 100), z_100_0);
  const Field z_250_0 = Multiply(SquareTimes(z_200_0, 50), z_50_0);
  return Multiply(SquareTimes(z_250_0, 5), z11);
}

// Exchanges a and b where `mask` is all ones.
inline void SwapIf(__m512i mask, Field& a, Field& b) {
  for (int i = 0; i < 5; ++i) {
    const __m512i x =
        _mm512_and_si512(mask, _mm512_xor_si512(a.limb[i], b.limb[i]));
    a.limb[i] = _mm512_xor_si512(a.limb[i], x);
    b.limb[i] = _mm512_xor_si512(b.limb[i], x);
  }
}

uint64_t LoadWord(const uint8_t* from) {
  uint64_t word = 0;
  for (int i = 7; i >= 0; --i) word = word << 8 | from[i];
  return word;
}

Field Load(const uint8_t points[8][32]) {
  alignas(64) uint64_t limbs[5][8];
  for (int lane = 0; lane < 8; ++lane) {
    const uint64_t w0 = LoadWord(points[lane]);
    const uint64_t w1 = LoadWord(points[lane] + 8);
    const uint64_t w2 = LoadWord(points[lane] + 16);
    const uint64_t w3 = LoadWord(points[lane] + 24);
    limbs[0][lane] = w0 & kMask;
    limbs[1][lane] = (w0 >> 51 | w1 << 13) & kMask;
    limbs[2][lane] = (w1 >> 38 | w2 << 26) & kMask;
    limbs[3][lane] = (w2 >> 25 | w3 << 39) & kMask;
    limbs[4][lane] = (w3 >> 12) & kMask;  // the highest bit does not count
  }
  Field r;
  for (int i = 0; i < 5; ++i) r.limb[i] = _mm512_load_si512(limbs[i]);
  return r;
}

// The one representation below p.
void Store(const Field& a, uint8_t out[8][32]) {
  alignas(64) uint64_t limbs[5][8];
  for (int i = 0; i < 5; ++i) _mm512_store_si512(limbs[i], a.limb[i]);
  for (int lane = 0; lane < 8; ++lane) {
    uint64_t h[5];
    for (int i = 0; i < 5; ++i) h[i] = limbs[i][lane];
    // Twice around: every limb is below 2^51 then.
    for (int turn = 0; turn < 2; ++turn) {
      for (int i = 0; i < 4; ++i) {
        h[i + 1] += h[i] >> 51;
        h[i] &= kMask;
      }
      h[0] += 19 * (h[4] >> 51);
      h[4] &= kMask;
    }
    // Adding 19 overflows 2^255 exactly if the number is p or more.
    uint64_t over = (h[0] + 19) >> 51;
    for (int i = 1; i < 5; ++i) over = (h[i] + over) >> 51;
    h[0] += 19 * over;
    for (int i = 0; i < 4; ++i) {
      h[i + 1] += h[i] >> 51;
      h[i] &= kMask;
    }
    h[4] &= kMask;
    const uint64_t words[4] = {h[0] | h[1] << 51, h[1] >> 13 | h[2] << 38,
                               h[2] >> 26 | h[3] << 25,
                               h[3] >> 39 | h[4] << 12};
    for (int i = 0; i < 32; ++i) {
      out[lane][i] = static_cast<uint8_t>(words[i / 8] >> (8 * (i % 8)));
    }
  }
}

}  // namespace

void X25519EightPoints(const uint8_t scalar[32], const uint8_t points[8][32],
                       uint8_t out[8][32]) {
  uint8_t k[32];
  for (int i = 0; i < 32; ++i) k[i] = scalar[i];
  k[0] &= 248;
  k[31] = static_cast<uint8_t>((k[31] & 127) | 64);

  const Field x1 = Load(points);
  Field zero, one;
  for (int i = 0; i < 5; ++i) zero.limb[i] = _mm512_setzero_si512();
  one = zero;
  one.limb[0] = Constant(1);
  Field x2 = one, z2 = zero, x3 = x1, z3 = one;
  uint64_t swap = 0;
  for (int t = 254; t >= 0; --t) {
    const uint64_t bit = (k[t / 8] >> (t % 8)) & 1;
    const __m512i mask = Constant(0 - (swap ^ bit));
    swap = bit;
    SwapIf(mask, x2, x3);
    SwapIf(mask, z2, z3);
    const Field a = Add(x2, z2), b = Subtract(x2, z2);
    const Field c = Add(x3, z3), d = Subtract(x3, z3);
    const Field aa = Square(a), bb = Square(b);
    const Field e = Subtract(aa, bb);
    const Field da = Multiply(d, a), cb = Multiply(c, b);
    x3 = Square(Add(da, cb));
    z3 = Multiply(x1, Square(Subtract(da, cb)));
    x2 = Multiply(aa, bb);
    z2 = Multiply(e, Add(aa, TimesSmall(e, 121665)));
  }
  const __m512i mask = Constant(0 - swap);
  SwapIf(mask, x2, x3);
  SwapIf(mask, z2, z3);
  Store(Multiply(x2, Invert(z2)), out);
  // The scalar's copy must not stay on the stack.
  volatile uint8_t* wipe = k;
  for (int i = 0; i < 32; ++i) wipe[i] = 0;
}

}  // namespace choir::crypto
