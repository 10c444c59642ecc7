// The mask generator without anything around it, to compare with.
#ifndef CHOIR_TESTS_BENCH_SECAGG_RAW_CIPHER_H_
#define CHOIR_TESTS_BENCH_SECAGG_RAW_CIPHER_H_

#include <cstddef>

namespace choir::bench {

// `bytes` of OpenSSL's AES-256-CTR, in pieces of `piece` bytes into the same
// buffer, which stays in the first-level cache. Returns a byte of it.
int RawAesCtr(size_t bytes, size_t piece);

}  // namespace choir::bench

#endif  // CHOIR_TESTS_BENCH_SECAGG_RAW_CIPHER_H_
