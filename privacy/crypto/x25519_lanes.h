// X25519 for eight points at once, on processors with AVX-512 IFMA. For
// key_agreement.cc alone, which asks the processor first and takes OpenSSL's
// otherwise.
//
// Everything is done in all lanes alike, without branches or addresses that
// depend on the scalar or the points. The file is compiled for that processor
// as a whole and therefore contains nothing but this function.
//
// Source: RFC 7748, section 5; field elements as in Bernstein et al.,
//         "High-speed high-security signatures" (2012), radix 2^51.
#ifndef CHOIR_PRIVACY_CRYPTO_X25519_LANES_H_
#define CHOIR_PRIVACY_CRYPTO_X25519_LANES_H_

#include <cstdint>

namespace choir::crypto {

inline constexpr int kX25519Lanes = 8;

// out[i] = X25519(scalar, points[i]). All zeros for a point of low order.
void X25519EightPoints(const uint8_t scalar[32], const uint8_t points[8][32],
                       uint8_t out[8][32]);

}  // namespace choir::crypto

#endif  // CHOIR_PRIVACY_CRYPTO_X25519_LANES_H_
