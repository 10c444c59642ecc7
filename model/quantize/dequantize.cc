#include "model/quantize/dequantize.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/processor_clones.h"
#include "model/quantize/weight_format.h"

namespace choir::model {
namespace {

// Both weights of a byte at once: the loop over bytes is a load and a store.
struct PairTable {
  float pairs[256][2];
  PairTable() {
    const std::array<float, 16>& points = Nf4CodePoints();
    for (int byte = 0; byte < 256; ++byte) {
      pairs[byte][0] = points[byte >> 4];
      pairs[byte][1] = points[byte & 15];
    }
  }
};

const PairTable& Pairs() {
  static const PairTable table;
  return table;
}

CHOIR_KERNEL void Nf4Block(const uint8_t* bytes, const float (*pairs)[2],
                           float absmax, float* out) {
  for (int64_t i = 0; i < kNf4Block / 2; ++i) {
    std::memcpy(out + 2 * i, pairs[bytes[i]], 2 * sizeof(float));
  }
  for (int64_t i = 0; i < kNf4Block; ++i) out[i] *= absmax;
}

CHOIR_KERNEL void Bf16Row(const char* codes, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    uint16_t half;
    std::memcpy(&half, codes + 2 * i, sizeof(half));
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    std::memcpy(out + i, &bits, sizeof(bits));
  }
}

CHOIR_KERNEL void Int8Row(const int8_t* codes, float scale, int64_t n,
                          float* out) {
  for (int64_t i = 0; i < n; ++i) {
    out[i] = static_cast<float>(codes[i]) * scale;
  }
}

}  // namespace

void DequantizeBf16(const char* codes, int64_t n, float* out) {
  Bf16Row(codes, n, out);
}

void DequantizeInt8(const char* codes, float scale, int64_t n, float* out) {
  Int8Row(reinterpret_cast<const int8_t*>(codes), scale, n, out);
}

float Nf4Absmax(const char* absmax, const float* scales, float offset,
                int64_t block) {
  const float code = static_cast<float>(static_cast<int8_t>(absmax[block]));
  return std::max(offset + code * scales[block / kNf4SuperBlock], 0.0f);
}

void DequantizeNf4(const char* codes, const char* absmax, const float* scales,
                   float offset, int64_t begin, int64_t n, float* out) {
  const PairTable& table = Pairs();
  const auto* bytes = reinterpret_cast<const uint8_t*>(codes);
  const int64_t end = begin + n;
  for (int64_t at = begin; at < end;) {
    const int64_t block = at / kNf4Block;
    const int64_t stop = std::min(end, (block + 1) * kNf4Block);
    const float scale = Nf4Absmax(absmax, scales, offset, block);
    if (stop - at == kNf4Block) {
      Nf4Block(bytes + at / 2, table.pairs, scale, out);
    } else {
      for (int64_t i = at; i < stop; ++i) {
        out[i - at] = table.pairs[bytes[i / 2]][i % 2] * scale;
      }
    }
    out += stop - at;
    at = stop;
  }
}

int NearestNf4(float x) {
  const std::array<float, 16>& points = Nf4CodePoints();
  // The code points are few and ascending: halving finds the gap, the middle
  // of the gap decides.
  const auto above = std::lower_bound(points.begin(), points.end(), x);
  if (above == points.begin()) return 0;
  if (above == points.end()) return 15;
  const int high = static_cast<int>(above - points.begin());
  return x - points[high - 1] <= points[high] - x ? high - 1 : high;
}

}  // namespace choir::model
