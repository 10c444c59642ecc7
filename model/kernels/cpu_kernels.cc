#include "model/kernels/cpu_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "model/kernels/row_kernels.h"

namespace choir::model {
namespace {

CHOIR_INLINE float Sigmoid(float x) {
  return 1.0f / (1.0f + FastExp(-x > 80.0f ? 80.0f : -x));
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
    const float dot = WeightedDot(grad_out + at, weight, sum + at, columns);
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
    const float through = grad_out[i] * up[i] * (s + silu * (1.0f - s));
    grad_up[i] = grad_out[i] * silu;
    grad_gate[i] = through;
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
