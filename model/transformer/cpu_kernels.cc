#include "model/transformer/cpu_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "model/transformer/blas.h"

// One binary, the best instructions of the processor it runs on.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CHOIR_KERNEL \
  __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", \
                               "default")))
#else
#define CHOIR_KERNEL
#endif
#define CHOIR_INLINE inline __attribute__((always_inline))

namespace choir::model {
namespace {

// exp for a vector unit, without branches: Cephes' polynomial after reduction
// by log 2; relative error below 2e-7. Arguments below -87 give 1e-38, as good
// as 0; a NaN stays one. The argument must not exceed 88.
CHOIR_INLINE float Exp(float x) {
  constexpr float kLowest = -87.0f;
  constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds
  const float clamped = x < kLowest ? kLowest : x;
  const float n = (clamped * 1.44269504f + kRounder) - kRounder;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float y = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  return y * __builtin_bit_cast(float, bits);
}

CHOIR_INLINE float Sigmoid(float x) {
  return 1.0f / (1.0f + Exp(-x > 80.0f ? 80.0f : -x));
}

CHOIR_INLINE uint64_t Mix(uint64_t z) {
  z += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

CHOIR_KERNEL void AddRow(const float* x, const float* delta, int64_t columns,
                         float* sum) {
  for (int64_t j = 0; j < columns; ++j) sum[j] = x[j] + delta[j];
}

CHOIR_KERNEL float SumOfSquares(const float* x, int64_t n) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) sum += x[j] * x[j];
  return sum;
}

CHOIR_KERNEL float Dot(const float* x, const float* y, int64_t n) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) sum += x[j] * y[j];
  return sum;
}

CHOIR_KERNEL float Maximum(const float* x, int64_t n) {
  float top = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : top)
  for (int64_t j = 0; j < n; ++j) top = x[j] > top ? x[j] : top;
  return top;
}

// x = exp(x - shift); returns the sum.
CHOIR_KERNEL float ExpRow(float* x, int64_t n, float shift) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) {
    const float e = Exp(x[j] - shift);
    x[j] = e;
    sum += e;
  }
  return sum;
}

CHOIR_KERNEL void ScaleRow(float* x, int64_t n, float factor) {
  for (int64_t j = 0; j < n; ++j) x[j] *= factor;
}

// score = p * (grad - delta), in place of grad.
CHOIR_KERNEL void SoftmaxBackwardRow(const float* p, float* grad, int64_t n,
                                     float delta, float scale) {
  for (int64_t j = 0; j < n; ++j) grad[j] = p[j] * (grad[j] - delta) * scale;
}

CHOIR_KERNEL void NormRow(const float* sum, const float* weight, int64_t n,
                          float inverse, float* out) {
  for (int64_t j = 0; j < n; ++j) out[j] = sum[j] * inverse * weight[j];
}

CHOIR_KERNEL float WeightedDot(const float* g, const float* w, const float* x,
                               int64_t n) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) sum += g[j] * w[j] * x[j];
  return sum;
}

CHOIR_KERNEL void NormBackwardRow(const float* g, const float* w,
                                  const float* x, const float* residual,
                                  int64_t n, float inverse, float coefficient,
                                  float* out) {
  if (residual == nullptr) {
    for (int64_t j = 0; j < n; ++j) {
      out[j] = g[j] * w[j] * inverse - x[j] * coefficient;
    }
  } else {
    for (int64_t j = 0; j < n; ++j) {
      out[j] = residual[j] + (g[j] * w[j] * inverse - x[j] * coefficient);
    }
  }
}

CHOIR_KERNEL void NormWeightRow(const float* g, const float* x, int64_t n,
                                float inverse, float* grad_weight) {
  for (int64_t j = 0; j < n; ++j) grad_weight[j] += g[j] * x[j] * inverse;
}

CHOIR_KERNEL void RotateHead(const float* x, const float* c, const float* s,
                             int64_t half, float sign, float* out) {
#pragma omp simd
  for (int64_t j = 0; j < half; ++j) {
    const float a = x[j];
    const float b = x[j + half];
    const float sine = sign * s[j];
    out[j] = a * c[j] - b * sine;
    out[j + half] = b * c[j] + a * sine;
  }
}

// Queries are taken in blocks, so that keys after a block are never touched.
constexpr int64_t kBlock = 64;

// Per-thread scratch; grows to the longest sequence seen.
float* Scratch(int which, int64_t n) {
  thread_local std::vector<float> buffers[2];
  std::vector<float>& buffer = buffers[which];
  if (static_cast<int64_t>(buffer.size()) < n) buffer.resize(n);
  return buffer.data();
}

}  // namespace

void AddRmsNorm(const float* x, const float* delta, const float* weight,
                int64_t rows, int64_t columns, float epsilon, float* sum,
                float* out, float* inverse_rms) {
  for (int64_t i = 0; i < rows; ++i) {
    const float* row = x + i * columns;
    if (delta != nullptr) {
      AddRow(row, delta + i * columns, columns, sum + i * columns);
      row = sum + i * columns;
    }
    const float mean = SumOfSquares(row, columns) / columns;
    const float inverse = 1.0f / std::sqrt(mean + epsilon);
    inverse_rms[i] = inverse;
    NormRow(row, weight, columns, inverse, out + i * columns);
  }
}

void AddRmsNormBackward(const float* grad_out, const float* grad_sum,
                        const float* sum, const float* weight,
                        const float* inverse_rms, int64_t rows, int64_t columns,
                        float* grad_x, float* grad_weight) {
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t at = i * columns;
    const float inverse = inverse_rms[i];
    const float dot =
        WeightedDot(grad_out + at, weight, sum + at, columns);
    const float coefficient = dot * inverse * inverse * inverse / columns;
    NormBackwardRow(grad_out + at, weight, sum + at,
                    grad_sum == nullptr ? nullptr : grad_sum + at, columns,
                    inverse, coefficient, grad_x + at);
    if (grad_weight != nullptr) {
      NormWeightRow(grad_out + at, sum + at, columns, inverse, grad_weight);
    }
  }
}

CHOIR_KERNEL void SwiGlu(const float* gate, const float* up, int64_t n,
                         float* out) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    out[i] = gate[i] * Sigmoid(gate[i]) * up[i];
  }
}

CHOIR_KERNEL void SwiGluBackward(const float* grad_out, const float* gate,
                                 const float* up, int64_t n, float* grad_gate,
                                 float* grad_up) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float s = Sigmoid(gate[i]);
    const float silu = gate[i] * s;
    grad_up[i] = grad_out[i] * silu;
    grad_gate[i] = grad_out[i] * up[i] * (s + silu * (1.0f - s));
  }
}

void Rotate(const float* x, const float* cosine, const float* sine,
            int64_t first_position, int64_t rows, int64_t heads,
            int64_t head_dim, float sign, float* out) {
  const int64_t half = head_dim / 2;
  for (int64_t i = 0; i < rows; ++i) {
    const float* c = cosine + (first_position + i) * half;
    const float* s = sine + (first_position + i) * half;
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t at = (i * heads + h) * head_dim;
      RotateHead(x + at, c, s, half, sign, out + at);
    }
  }
}

void CausalAttention(const AttentionShape& shape, const float* q,
                     const float* k, const float* v, float* out,
                     float* log_sum) {
  const int64_t d = shape.head_dim;
  const int64_t ldq = shape.heads * d;
  const int64_t ldk = shape.kv_heads * d;
  const int64_t group = shape.heads / shape.kv_heads;
  const int64_t past = shape.keys - shape.queries;
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  float* scores = Scratch(0, kBlock * shape.keys);
  for (int64_t h = 0; h < shape.heads; ++h) {
    const float* kh = k + (h / group) * d;
    const float* vh = v + (h / group) * d;
    for (int64_t i0 = 0; i0 < shape.queries; i0 += kBlock) {
      const int64_t rows = std::min(kBlock, shape.queries - i0);
      const int64_t width = past + i0 + rows;
      MatMul(Op::kPlain, Op::kTransposed, rows, width, d, scale,
             q + i0 * ldq + h * d, ldq, kh, ldk, 0.0f, scores, width);
      for (int64_t i = 0; i < rows; ++i) {
        float* row = scores + i * width;
        const int64_t visible = past + i0 + i + 1;
        const float top = Maximum(row, visible);
        const float sum = ExpRow(row, visible, top);
        ScaleRow(row, visible, 1.0f / sum);
        std::fill(row + visible, row + width, 0.0f);
        log_sum[(i0 + i) * shape.heads + h] = top + std::log(sum);
      }
      MatMul(Op::kPlain, Op::kPlain, rows, d, width, 1.0f, scores, width, vh,
             ldk, 0.0f, out + i0 * ldq + h * d, ldq);
    }
  }
}

void CausalAttentionBackward(const AttentionShape& shape, const float* grad_out,
                             const float* q, const float* k, const float* v,
                             const float* out, const float* log_sum,
                             float* grad_q, float* grad_k, float* grad_v) {
  const int64_t d = shape.head_dim;
  const int64_t ldq = shape.heads * d;
  const int64_t ldk = shape.kv_heads * d;
  const int64_t group = shape.heads / shape.kv_heads;
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  float* p = Scratch(0, kBlock * shape.keys);
  float* g = Scratch(1, kBlock * shape.keys);
  for (int64_t h = 0; h < shape.heads; ++h) {
    const int64_t kv = (h / group) * d;
    for (int64_t i0 = 0; i0 < shape.queries; i0 += kBlock) {
      const int64_t rows = std::min(kBlock, shape.queries - i0);
      const int64_t width = i0 + rows;
      const int64_t at = i0 * ldq + h * d;
      MatMul(Op::kPlain, Op::kTransposed, rows, width, d, scale, q + at, ldq,
             k + kv, ldk, 0.0f, p, width);
      MatMul(Op::kPlain, Op::kTransposed, rows, width, d, 1.0f, grad_out + at,
             ldq, v + kv, ldk, 0.0f, g, width);
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t visible = i0 + i + 1;
        const int64_t row_at = at + i * ldq;
        const float delta = Dot(grad_out + row_at, out + row_at, d);
        ExpRow(p + i * width, visible, log_sum[(i0 + i) * shape.heads + h]);
        SoftmaxBackwardRow(p + i * width, g + i * width, visible, delta, scale);
        std::fill(p + i * width + visible, p + (i + 1) * width, 0.0f);
        std::fill(g + i * width + visible, g + (i + 1) * width, 0.0f);
      }
      MatMul(Op::kTransposed, Op::kPlain, width, d, rows, 1.0f, p, width,
             grad_out + at, ldq, 1.0f, grad_v + kv, ldk);
      MatMul(Op::kPlain, Op::kPlain, rows, d, width, 1.0f, g, width, k + kv,
             ldk, 0.0f, grad_q + at, ldq);
      MatMul(Op::kTransposed, Op::kPlain, width, d, rows, 1.0f, g, width,
             q + at, ldq, 1.0f, grad_k + kv, ldk);
    }
  }
}

double CrossEntropy(float* logits, const int32_t* targets, int64_t rows,
                    int64_t vocabulary, float weight, bool make_gradient) {
  double loss = 0.0;
  for (int64_t i = 0; i < rows; ++i) {
    float* row = logits + i * vocabulary;
    const float target = row[targets[i]];
    const float top = Maximum(row, vocabulary);
    const float sum = ExpRow(row, vocabulary, top);
    // NaN logits leave the maximum untouched; the target or the sum shows them.
    loss += std::log(static_cast<double>(sum)) +
            (static_cast<double>(top) - target);
    if (make_gradient) {
      ScaleRow(row, vocabulary, weight / sum);
      row[targets[i]] -= weight;
    }
  }
  return loss;
}

CHOIR_KERNEL void Dropout(const float* x, int64_t n, double probability,
                          uint64_t seed, float* out) {
  const uint64_t limit = static_cast<uint64_t>(probability * 4294967296.0);
  const float scale = static_cast<float>(1.0 / (1.0 - probability));
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t random = Mix(seed + static_cast<uint64_t>(i)) >> 32;
    out[i] = random >= limit ? x[i] * scale : 0.0f;
  }
}

}  // namespace choir::model
