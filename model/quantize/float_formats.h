// The bits of bfloat16 and IEEE half precision as float, and back.
#ifndef CHOIR_MODEL_QUANTIZE_FLOAT_FORMATS_H_
#define CHOIR_MODEL_QUANTIZE_FLOAT_FORMATS_H_

#include <cstdint>
#include <cstring>

namespace choir::model {

inline uint32_t FloatBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float FloatFromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline float Bf16ToFloat(uint16_t half) {
  return FloatFromBits(static_cast<uint32_t>(half) << 16);
}

// Rounds to nearest, ties to even; a NaN stays one.
inline uint16_t FloatToBf16(float value) {
  const uint32_t bits = FloatBits(value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) {
    return static_cast<uint16_t>(bits >> 16 | 0x40);
  }
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

// The nearest value that bfloat16 has.
inline float RoundToBf16(float value) {
  return Bf16ToFloat(FloatToBf16(value));
}

inline float F16ToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = half >> 10 & 0x1F;
  const uint32_t mantissa = half & 0x3FF;
  if (exponent == 0x1F) {  // infinity, NaN
    return FloatFromBits(sign | 0x7F800000 | mantissa << 13);
  }
  if (exponent == 0) {  // zero and subnormal: mantissa * 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return FloatFromBits(sign | FloatBits(magnitude));
  }
  return FloatFromBits(sign | (exponent + 112) << 23 | mantissa << 13);
}

// Rounds to nearest, ties to even; too large becomes infinity, a NaN stays one.
inline uint16_t FloatToF16(float value) {
  const uint32_t bits = FloatBits(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return sign | 0x7E00;
  if (magnitude >= 0x477FF000) return sign | 0x7C00;  // 65520 and above
  if (magnitude >= 0x38800000) {                      // normal: 2^-14 and above
    const uint32_t rounded = magnitude + 0xFFF + (magnitude >> 13 & 1);
    return static_cast<uint16_t>(sign | (rounded - (112u << 23)) >> 13);
  }
  // Subnormal: adding 0.5 lets the float unit round at 2^-24.
  const float shifted = FloatFromBits(magnitude) + 0.5f;
  return static_cast<uint16_t>(sign | (FloatBits(shifted) - 0x3F000000));
}

}  // namespace choir::model

#endif  // CHOIR_MODEL_QUANTIZE_FLOAT_FORMATS_H_
