// Vectors of integers modulo 2^bits: masking, adding, and their bytes.
//
// Encoding, little-endian (docs/wire_format.md):
//   "CHV1"              4 bytes
//   modulus_bits        uint32
//   number of elements  uint64
//   elements            modulus_bits each, lowest bits first, without gaps; the
//                       last byte filled with zeros
#ifndef CHOIR_PRIVACY_SECAGG_MASKED_VECTOR_H_
#define CHOIR_PRIVACY_SECAGG_MASKED_VECTOR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace choir::secagg {

inline constexpr int kMinModulusBits = 8;
inline constexpr int kMaxModulusBits = 64;
inline constexpr char kMaskedVectorMagic[4] = {'C', 'H', 'V', '1'};
inline constexpr uint64_t kMaskedVectorHeaderBytes = 16;

// Size of the encoding.
uint64_t EncodedMaskedBytes(int modulus_bits, uint64_t length);

// Elements are kept in 32-bit words if modulus_bits <= 32, else in 64-bit ones,
// and reduced only when read: 2^bits divides the words' own modulus.
// Threads: one thread at a time per object.
class MaskedVector {
 public:
  // All zero. CHECKs the limits of modulus_bits.
  MaskedVector(int modulus_bits, uint64_t length);

  int modulus_bits() const { return modulus_bits_; }
  uint64_t length() const { return length_; }
  uint64_t operator[](uint64_t i) const;  // in [0, 2^bits)
  void Set(uint64_t i, uint64_t value);   // reduced modulo 2^bits
  // The value as a signed number in [-2^(bits-1), 2^(bits-1)).
  int64_t Signed(uint64_t i) const;

  // Adds, or subtracts, the key's mask: AES-256-CTR (zero counter) of the
  // 32-byte key as little-endian words of 4 or 8 bytes. A key is used for one
  // vector only. Cost: the cipher's, nothing is stored.
  enum class Sign { kAdd, kSubtract };
  absl::Status AddMask(absl::string_view key, Sign sign);
  // Likewise for many, in one pass over the words; faster than one by one.
  // INVALID_ARGUMENT for a key that has not 32 bytes; the vector is then
  // worthless.
  struct Mask {
    absl::string_view key;
    Sign sign = Sign::kAdd;
  };
  absl::Status AddMasks(absl::Span<const Mask> masks);

  // CHECKs that modulus and length are equal.
  void Add(const MaskedVector& other);
  // Adds an encoded vector without decoding it into another.
  // INVALID_ARGUMENT naming the difference; this vector is then unchanged.
  absl::Status AddEncoded(absl::string_view bytes);

  std::string Encode() const;
  static absl::StatusOr<MaskedVector> Decode(absl::string_view bytes);

 private:
  int modulus_bits_;
  uint64_t length_;
  std::vector<uint32_t> words32_;
  std::vector<uint64_t> words64_;
};

}  // namespace choir::secagg

#endif  // CHOIR_PRIVACY_SECAGG_MASKED_VECTOR_H_
