// The operations of ops.h on devices other than a CPU in float32: LibTorch's
// kernels, few and large, with hand-written gradients that keep little.
//
// What they save against LibTorch's own gradients (ops_reference.h): each
// adapter's output is where the base's product is added to it, instead of being
// scaled and added afterwards; layers that share an input share the product
// with their adapters' A; nothing is kept in float32; logits exist a slice at a
// time.
//
// Frozen weights only: what needs a weight's gradient, or dropout, goes the
// other way. They compute on the CPU, too, for tests.
// Threads: safe on distinct tensors.
#ifndef CHOIR_MODEL_TRANSFORMER_OPS_DEVICE_H_
#define CHOIR_MODEL_TRANSFORMER_OPS_DEVICE_H_

#include <utility>
#include <vector>

#include "model/transformer/ops.h"

namespace choir::model {

// True if none of the layers' weights and biases wants a gradient.
bool Frozen(const std::vector<LinearParts>& layers);

// As LinearGroup() without dropout, for layers that are Frozen().
std::vector<at::Tensor> LinearGroupDevice(
    const at::Tensor& x, const std::vector<LinearParts>& layers, double scale);

// As AddRmsNorm(); `weight` has no gradient.
std::pair<at::Tensor, at::Tensor> AddRmsNormDevice(const at::Tensor& x,
                                                   const at::Tensor& delta,
                                                   const at::Tensor& weight,
                                                   double epsilon);

at::Tensor SwiGluDevice(const at::Tensor& gate, const at::Tensor& up);

// As LinearCrossEntropy(); `head` has no gradient.
at::Tensor LinearCrossEntropyDevice(const at::Tensor& hidden,
                                    const at::Tensor& head,
                                    const at::Tensor& targets, double weight);

// What dropout multiplies with, float32 of `sizes`: cpu_kernels.h's Dropout()
// of ones, the same numbers on every device, made where they are used.
at::Tensor DropoutMask(at::IntArrayRef sizes, double probability, uint64_t seed,
                       at::Device device);
// The same by LibTorch's operations on whole numbers, as other devices than the
// CPU do it.
at::Tensor DropoutMaskByTensors(at::IntArrayRef sizes, double probability,
                                uint64_t seed, at::Device device);

// x [tokens, heads * head_dim] rotated by angles whose cosines and sines are
// given token by token, float32 [tokens, 1, head_dim / 2].
at::Tensor RotateDevice(const at::Tensor& x, const at::Tensor& cosine,
                        const at::Tensor& sine, int64_t heads);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRANSFORMER_OPS_DEVICE_H_
