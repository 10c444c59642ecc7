// The inner loops of quantisation: plain pointers, no allocation.
// Threads: safe on distinct outputs.
#ifndef CHOIR_MODEL_QUANTIZE_DEQUANTIZE_H_
#define CHOIR_MODEL_QUANTIZE_DEQUANTIZE_H_

#include <cstdint>

namespace choir::model {

// bfloat16 to float32; `codes` are 2 n bytes, unaligned, little-endian.
void DequantizeBf16(const char* codes, int64_t n, float* out);

// out = scale * code.
void DequantizeInt8(const char* codes, float scale, int64_t n, float* out);

// Weights begin .. begin + n of an NF4 matrix. absmax: int8 per block of 64;
// scales: one per 256 blocks.
void DequantizeNf4(const char* codes, const char* absmax, const float* scales,
                   float offset, int64_t begin, int64_t n, float* out);

// The absmax that NF4 weights of `block` are multiplied by; never negative.
float Nf4Absmax(const char* absmax, const float* scales, float offset,
                int64_t block);

// Index of the code point nearest to `x` in [-1, 1] (beyond: the ends).
int NearestNf4(float x);

}  // namespace choir::model

#endif  // CHOIR_MODEL_QUANTIZE_DEQUANTIZE_H_
