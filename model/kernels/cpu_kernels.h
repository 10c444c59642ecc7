// The parts of a Transformer that are not matrix products, fused, for one CPU
// thread: each reads and writes its data once. Plain pointers, no LibTorch.
//
// Shapes: row-major float32; N rows are tokens, packed without padding.
// Threads: safe on distinct outputs. Results depend on the arguments alone, for
// one kind of processor.
#ifndef CHOIR_MODEL_KERNELS_CPU_KERNELS_H_
#define CHOIR_MODEL_KERNELS_CPU_KERNELS_H_

#include <cstdint>

namespace choir::model {

// sum = x + delta (delta may be null: then sum is not written), and
// out = sum / rms(sum) * weight; inverse_rms [rows] is kept for the gradient.
// Source: Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019).
void AddRmsNorm(const float* x, const float* delta, const float* weight,
                int64_t rows, int64_t columns, float epsilon, float* sum,
                float* out, float* inverse_rms);

// grad_x = grad_sum (may be null) + gradient through the normalisation.
// grad_weight [columns] may be null; it is added to.
void AddRmsNormBackward(const float* grad_out, const float* grad_sum,
                        const float* sum, const float* weight,
                        const float* inverse_rms, int64_t rows, int64_t columns,
                        float* grad_x, float* grad_weight);

// out = silu(gate) * up. The gradients may be where gate and up are.
void SwiGlu(const float* gate, const float* up, int64_t n, float* out);
void SwiGluBackward(const float* grad_out, const float* gate, const float* up,
                    int64_t n, float* grad_gate, float* grad_up);

// Rotates each head of each row by its position: first half against second
// half, as Hugging Face does. cosine and sine: [positions, head_dim / 2].
// `sign` -1 rotates back. out may be x.
void Rotate(const float* x, const float* cosine, const float* sine,
            int64_t first_position, int64_t rows, int64_t heads,
            int64_t head_dim, float sign, float* out);

// For each row of logits [rows, vocabulary]: adds -log softmax(row)[target] to
// the result; with `make_gradient`, overwrites the row with weight *
// (softmax(row) - onehot(target)).
double CrossEntropy(float* logits, const int32_t* targets, int64_t rows,
                    int64_t vocabulary, float weight, bool make_gradient);

// out[i] = x[i] * keep(seed, i) / (1 - probability).
void Dropout(const float* x, int64_t n, double probability, uint64_t seed,
             float* out);

}  // namespace choir::model

#endif  // CHOIR_MODEL_KERNELS_CPU_KERNELS_H_
