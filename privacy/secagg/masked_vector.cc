#include "privacy/secagg/masked_vector.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "privacy/crypto/symmetric.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace choir::secagg {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "words and masks are the machine's own byte order");

// Twice this fits into the first-level cache of any processor in use.
constexpr size_t kBufferBytes = 8192;

uint64_t ValueMask(int bits) {
  return bits == 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1;
}

uint64_t PackedBytes(int bits, uint64_t length) {
  // Without overflow: whole groups of eight elements first.
  const uint64_t b = static_cast<uint64_t>(bits);
  return length / 8 * b + (length % 8 * b + 7) / 8;
}

template <typename T>
T LoadAs(const char* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

template <typename T>
void AddWords(T* words, const uint8_t* mask, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    T value;
    std::memcpy(&value, mask + i * sizeof(T), sizeof(T));
    words[i] += value;
  }
}

template <typename T>
void SubtractWords(T* words, const uint8_t* mask, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    T value;
    std::memcpy(&value, mask + i * sizeof(T), sizeof(T));
    words[i] -= value;
  }
}

#if defined(__x86_64__)
bool HasAvx2() {
  static const bool has = __builtin_cpu_supports("avx2");
  return has;
}

// Lanes of 32 or 64 bits, 32 bytes at a time; what is left is the caller's.
template <typename T, bool kAdd>
__attribute__((target("avx2"))) size_t CombineWithAvx2(T* words,
                                                       const uint8_t* mask,
                                                       size_t n) {
  constexpr size_t kLanes = 32 / sizeof(T);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    __m256i* at = reinterpret_cast<__m256i*>(words + i);
    const __m256i a = _mm256_loadu_si256(at);
    const __m256i b = _mm256_loadu_si256(
        reinterpret_cast<const __m256i*>(mask + i * sizeof(T)));
    __m256i sum;
    if constexpr (sizeof(T) == 4) {
      sum = kAdd ? _mm256_add_epi32(a, b) : _mm256_sub_epi32(a, b);
    } else {
      sum = kAdd ? _mm256_add_epi64(a, b) : _mm256_sub_epi64(a, b);
    }
    _mm256_storeu_si256(at, sum);
  }
  return i;
}
#endif

template <typename T, bool kAdd>
void Combine(T* words, const uint8_t* mask, size_t n) {
  size_t done = 0;
#if defined(__x86_64__)
  if (HasAvx2()) done = CombineWithAvx2<T, kAdd>(words, mask, n);
#endif
  if constexpr (kAdd) {
    AddWords(words + done, mask + done * sizeof(T), n - done);
  } else {
    SubtractWords(words + done, mask + done * sizeof(T), n - done);
  }
}

// The stream goes through a buffer that stays in the first-level cache, so that
// memory sees the words only.
template <typename T>
void Apply(crypto::AesCtrStream& stream, bool add, std::vector<T>& words) {
  alignas(64) uint8_t buffer[kBufferBytes];
  constexpr size_t kWords = kBufferBytes / sizeof(T);
  for (size_t done = 0; done < words.size(); done += kWords) {
    const size_t n = std::min(kWords, words.size() - done);
    // Words come from memory while the cipher is at work.
    for (size_t i = 0; i < n; i += 64 / sizeof(T)) {
      __builtin_prefetch(words.data() + done + i, 1, 2);
    }
    stream.Next(absl::MakeSpan(buffer, n * sizeof(T)));
    if (add) {
      Combine<T, true>(words.data() + done, buffer, n);
    } else {
      Combine<T, false>(words.data() + done, buffer, n);
    }
  }
  // Masks are as secret as the key; the compiler must not remove this.
  std::memset(buffer, 0, sizeof(buffer));
  __asm__ __volatile__("" : : "r"(buffer) : "memory");
}

// Masks that are added in one pass. Their buffers, words and OpenSSL's zeros
// fit into the first-level cache together.
constexpr size_t kTogether = 4;

// words[i] += sum over the masks of +-mask[i]; `negate` is all ones to
// subtract.
template <typename T>
void CombineFour(T* words, const uint8_t (*mask)[kBufferBytes], const T* negate,
                 size_t begin, size_t n) {
  for (size_t i = begin; i < n; ++i) {
    T sum = words[i];
    for (size_t k = 0; k < kTogether; ++k) {
      T value;
      std::memcpy(&value, mask[k] + i * sizeof(T), sizeof(T));
      sum += (value ^ negate[k]) - negate[k];
    }
    words[i] = sum;
  }
}

#if defined(__x86_64__)
// As much of it as there is of 32 bytes.
template <typename T>
__attribute__((target("avx2"))) size_t CombineFourWithAvx2(
    T* words, const uint8_t (*mask)[kBufferBytes], const T* negate, size_t n) {
  constexpr size_t kLanes = 32 / sizeof(T);
  __m256i flip[kTogether];
  for (size_t k = 0; k < kTogether; ++k) {
    flip[k] = _mm256_set1_epi8(negate[k] != 0 ? -1 : 0);
  }
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    __m256i* at = reinterpret_cast<__m256i*>(words + i);
    __m256i sum = _mm256_loadu_si256(at);
    for (size_t k = 0; k < kTogether; ++k) {
      const __m256i value = _mm256_xor_si256(
          _mm256_loadu_si256(
              reinterpret_cast<const __m256i*>(mask[k] + i * sizeof(T))),
          flip[k]);
      if constexpr (sizeof(T) == 4) {
        sum = _mm256_add_epi32(sum, _mm256_sub_epi32(value, flip[k]));
      } else {
        sum = _mm256_add_epi64(sum, _mm256_sub_epi64(value, flip[k]));
      }
    }
    _mm256_storeu_si256(at, sum);
  }
  return i;
}
#endif

// All streams for a piece of the words, then for the next piece: words come
// from memory once, however many masks there are.
template <typename T>
void ApplyAll(std::vector<crypto::AesCtrStream>& streams,
              const std::vector<bool>& subtract, std::vector<T>& words) {
  alignas(64) uint8_t buffers[kTogether][kBufferBytes];
  constexpr size_t kWords = kBufferBytes / sizeof(T);
  for (size_t done = 0; done < words.size(); done += kWords) {
    const size_t n = std::min(kWords, words.size() - done);
    T* const piece = words.data() + done;
    size_t next = 0;
    for (; next + kTogether <= streams.size(); next += kTogether) {
      T negate[kTogether];
      for (size_t k = 0; k < kTogether; ++k) {
        streams[next + k].Next(absl::MakeSpan(buffers[k], n * sizeof(T)));
        negate[k] = subtract[next + k] ? static_cast<T>(~T{0}) : 0;
      }
      size_t begin = 0;
#if defined(__x86_64__)
      if (HasAvx2()) begin = CombineFourWithAvx2(piece, buffers, negate, n);
#endif
      CombineFour(piece, buffers, negate, begin, n);
    }
    for (; next < streams.size(); ++next) {
      streams[next].Next(absl::MakeSpan(buffers[0], n * sizeof(T)));
      if (subtract[next]) {
        Combine<T, false>(piece, buffers[0], n);
      } else {
        Combine<T, true>(piece, buffers[0], n);
      }
    }
  }
  std::memset(buffers, 0, sizeof(buffers));
  __asm__ __volatile__("" : : "r"(buffers) : "memory");
}

// Calls add(i, value) for each element of `packed`.
template <typename AddFunction>
void Unpack(absl::string_view packed, int bits, uint64_t length,
            const AddFunction& add) {
  const uint64_t mask = ValueMask(bits);
  const uint64_t step = static_cast<uint64_t>(bits);
  // Elements that lie within eight bytes of their first, as long as eight are
  // there to be read.
  uint64_t i = 0;
  if (bits <= 57) {
    for (uint64_t bit = 0; i < length && bit / 8 + 8 <= packed.size();
         ++i, bit += step) {
      const uint64_t word = LoadAs<uint64_t>(packed.data() + bit / 8);
      add(i, (word >> (bit % 8)) & mask);
    }
  }
  for (; i < length; ++i) {
    const uint64_t first = i * step;
    unsigned __int128 word = 0;
    const uint64_t end = std::min<uint64_t>(packed.size(), first / 8 + 9);
    std::memcpy(&word, packed.data() + first / 8, end - first / 8);
    add(i, static_cast<uint64_t>(word >> (first % 8)) & mask);
  }
}

// The elements' bytes, checked.
absl::StatusOr<absl::string_view> CheckEncoding(absl::string_view bytes,
                                                int* bits, uint64_t* length) {
  if (bytes.size() < kMaskedVectorHeaderBytes ||
      std::memcmp(bytes.data(), kMaskedVectorMagic,
                  sizeof(kMaskedVectorMagic)) != 0) {
    return absl::InvalidArgumentError(
        "not a masked vector: it does not begin with \"CHV1\"");
  }
  const uint32_t modulus_bits = LoadAs<uint32_t>(bytes.data() + 4);
  *length = LoadAs<uint64_t>(bytes.data() + 8);
  if (modulus_bits < static_cast<uint32_t>(kMinModulusBits) ||
      modulus_bits > static_cast<uint32_t>(kMaxModulusBits)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a masked vector's modulus has ", modulus_bits, " bits; it must have ",
        kMinModulusBits, " to ", kMaxModulusBits));
  }
  *bits = static_cast<int>(modulus_bits);
  const absl::string_view packed = bytes.substr(kMaskedVectorHeaderBytes);
  if (*length > packed.size() || PackedBytes(*bits, *length) != packed.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a masked vector of ", *length, " elements of ", *bits,
                     " bits in ", packed.size(), " bytes"));
  }
  const int used = static_cast<int>(*length % 8 * modulus_bits % 8);
  if (used != 0 && static_cast<uint8_t>(packed.back()) >> used != 0) {
    return absl::InvalidArgumentError(
        "a masked vector whose last byte is not filled with zeros");
  }
  return packed;
}

}  // namespace

uint64_t EncodedMaskedBytes(int modulus_bits, uint64_t length) {
  return kMaskedVectorHeaderBytes + PackedBytes(modulus_bits, length);
}

MaskedVector::MaskedVector(int modulus_bits, uint64_t length)
    : modulus_bits_(modulus_bits), length_(length) {
  CHOIR_CHECK(modulus_bits >= kMinModulusBits &&
              modulus_bits <= kMaxModulusBits);
  if (modulus_bits <= 32) {
    words32_.resize(length);
  } else {
    words64_.resize(length);
  }
}

uint64_t MaskedVector::operator[](uint64_t i) const {
  const uint64_t word = modulus_bits_ <= 32 ? words32_[i] : words64_[i];
  return word & ValueMask(modulus_bits_);
}

void MaskedVector::Set(uint64_t i, uint64_t value) {
  value &= ValueMask(modulus_bits_);
  if (modulus_bits_ <= 32) {
    words32_[i] = static_cast<uint32_t>(value);
  } else {
    words64_[i] = value;
  }
}

int64_t MaskedVector::Signed(uint64_t i) const {
  // The highest bit of the value becomes the sign.
  const int unused = 64 - modulus_bits_;
  return static_cast<int64_t>((*this)[i] << unused) >> unused;
}

absl::Status MaskedVector::AddMask(absl::string_view key, Sign sign) {
  CHOIR_ASSIGN_OR_RETURN(crypto::AesCtrStream stream,
                         crypto::AesCtrStream::Create(key));
  if (modulus_bits_ <= 32) {
    Apply(stream, sign == Sign::kAdd, words32_);
  } else {
    Apply(stream, sign == Sign::kAdd, words64_);
  }
  return absl::OkStatus();
}

absl::Status MaskedVector::AddMasks(absl::Span<const Mask> masks) {
  // Ciphers at work at the same time: about 100 KB of them.
  constexpr size_t kMostStreams = 128;
  while (!masks.empty()) {
    const size_t count = std::min(kMostStreams, masks.size());
    std::vector<crypto::AesCtrStream> streams;
    std::vector<bool> subtract;
    streams.reserve(count);
    for (const Mask& mask : masks.subspan(0, count)) {
      CHOIR_ASSIGN_OR_RETURN(crypto::AesCtrStream stream,
                             crypto::AesCtrStream::Create(mask.key));
      streams.push_back(std::move(stream));
      subtract.push_back(mask.sign == Sign::kSubtract);
    }
    if (modulus_bits_ <= 32) {
      ApplyAll(streams, subtract, words32_);
    } else {
      ApplyAll(streams, subtract, words64_);
    }
    masks.remove_prefix(count);
  }
  return absl::OkStatus();
}

void MaskedVector::Add(const MaskedVector& other) {
  CHOIR_CHECK(modulus_bits_ == other.modulus_bits_ && length_ == other.length_);
  for (uint64_t i = 0; i < words32_.size(); ++i) {
    words32_[i] += other.words32_[i];
  }
  for (uint64_t i = 0; i < words64_.size(); ++i) {
    words64_[i] += other.words64_[i];
  }
}

absl::Status MaskedVector::AddEncoded(absl::string_view bytes) {
  int bits = 0;
  uint64_t length = 0;
  CHOIR_ASSIGN_OR_RETURN(const absl::string_view packed,
                         CheckEncoding(bytes, &bits, &length));
  if (bits != modulus_bits_ || length != length_) {
    return absl::InvalidArgumentError(
        absl::StrCat("a masked vector of ", length, " elements of ", bits,
                     " bits where one of ", length_, " elements of ",
                     modulus_bits_, " bits is needed"));
  }
  const uint8_t* const words = reinterpret_cast<const uint8_t*>(packed.data());
  if (modulus_bits_ == 32) {
    Combine<uint32_t, true>(words32_.data(), words, length);
  } else if (modulus_bits_ == 64) {
    Combine<uint64_t, true>(words64_.data(), words, length);
  } else if (modulus_bits_ < 32) {
    Unpack(packed, bits, length, [this](uint64_t i, uint64_t value) {
      words32_[i] += static_cast<uint32_t>(value);
    });
  } else {
    Unpack(packed, bits, length,
           [this](uint64_t i, uint64_t value) { words64_[i] += value; });
  }
  return absl::OkStatus();
}

std::string MaskedVector::Encode() const {
  std::string out(EncodedMaskedBytes(modulus_bits_, length_), '\0');
  const uint32_t bits = static_cast<uint32_t>(modulus_bits_);
  std::memcpy(out.data(), kMaskedVectorMagic, sizeof(kMaskedVectorMagic));
  std::memcpy(out.data() + 4, &bits, 4);
  std::memcpy(out.data() + 8, &length_, 8);
  char* at = out.data() + kMaskedVectorHeaderBytes;
  if (length_ > 0 && (modulus_bits_ == 32 || modulus_bits_ == 64)) {
    // Words are elements.
    std::memcpy(at,
                modulus_bits_ == 32 ? static_cast<const void*>(words32_.data())
                                    : words64_.data(),
                out.size() - kMaskedVectorHeaderBytes);
    return out;
  }
  char* const end = out.data() + out.size();
  unsigned __int128 waiting = 0;
  int filled = 0;
  for (uint64_t i = 0; i < length_; ++i) {
    waiting |= static_cast<unsigned __int128>((*this)[i]) << filled;
    filled += modulus_bits_;
    if (filled >= 64) {
      const uint64_t word = static_cast<uint64_t>(waiting);
      std::memcpy(at, &word, 8);
      at += 8;
      waiting >>= 64;
      filled -= 64;
    }
  }
  if (at != end) {
    std::memcpy(at, &waiting, static_cast<size_t>(end - at));
  }
  return out;
}

absl::StatusOr<MaskedVector> MaskedVector::Decode(absl::string_view bytes) {
  int bits = 0;
  uint64_t length = 0;
  CHOIR_RETURN_IF_ERROR(CheckEncoding(bytes, &bits, &length).status());
  MaskedVector out(bits, length);
  CHOIR_RETURN_IF_ERROR(out.AddEncoded(bytes));
  return out;
}

}  // namespace choir::secagg
