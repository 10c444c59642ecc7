// Moving rows between tokens and the experts they go to, for one CPU thread.
// Plain pointers, no LibTorch.
//
// Choice j of token t is slot t * k + j. Positions are slots sorted by expert:
// slots[p] is the slot of position p, positions[s] the position of slot s.
// Rows are `width` floats long.
// Threads: safe on distinct outputs.
#ifndef CHOIR_MODEL_KERNELS_MOE_KERNELS_H_
#define CHOIR_MODEL_KERNELS_MOE_KERNELS_H_

#include <cstdint>

namespace choir::model {

// out[p] = x[slots[p] / k], for n positions.
void CopyTokenRows(const float* x, const int64_t* slots, int64_t n, int64_t k,
                   int64_t width, float* out);

// out[t] = sum over j of weights[t * k + j] * y[positions[t * k + j]]; null
// weights are 1.
void SumChoiceRows(const float* y, const int64_t* positions,
                   const float* weights, int64_t tokens, int64_t k,
                   int64_t width, float* out);

// The gradients of SumChoiceRows, for n positions.
void CombineBackward(const float* grad_out, const float* y,
                     const float* weights, const int64_t* slots, int64_t n,
                     int64_t k, int64_t width, float* grad_y,
                     float* grad_weights);

}  // namespace choir::model

#endif  // CHOIR_MODEL_KERNELS_MOE_KERNELS_H_
