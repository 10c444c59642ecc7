// A quantised weight where the model computes.
#ifndef CHOIR_MODEL_TRANSFORMER_PACKED_WEIGHT_H_
#define CHOIR_MODEL_TRANSFORMER_PACKED_WEIGHT_H_

#include "model/quantize/quantized_matrix.h"
#include "model/torch/compat.h"

namespace choir::model {

// On the CPU the matrix itself (in memory or in its mapped file); on CUDA its
// codes and scales in the device's memory.
// Threads: safe, never written.
class PackedWeight {
 public:
  // `as_tensors`: hold the CPU's weight as other devices do, in LibTorch's
  // tensors; the fused kernels then cannot use it.
  PackedWeight(QuantizedMatrix matrix, at::Device device,
               bool as_tensors = false);

  int64_t out_features() const { return out_; }
  int64_t in_features() const { return in_; }
  at::Device device() const { return device_; }
  // On the CPU; its codes are dropped from memory on other devices.
  const QuantizedMatrix& matrix() const { return *matrix_; }

  // The dense weight [out, in], made anew.
  at::Tensor Dense(at::ScalarType type) const;

 private:
  at::Tensor DenseOnDevice(at::ScalarType type) const;

  int64_t out_, in_;
  WeightFormat format_;
  at::Device device_;
  std::shared_ptr<const QuantizedMatrix> matrix_;  // CPU; shared by copies
  // Elsewhere. codes: bf16 bfloat16 [out, in]; int8 int8 [out, in]; nf4 uint8
  // [blocks, 32]. scales: int8 float [out, 1]; nf4 float [blocks, 1] absmax.
  at::Tensor codes_, scales_, outlier_columns_, outliers_, points_;
};

// A bfloat16 CPU tensor [rows, columns], contiguous, as a matrix that borrows
// its memory.
QuantizedMatrix Bf16View(const at::Tensor& matrix);

// x W^T by LibTorch's operations; the dense weight exists only while it is
// multiplied, forward and backward. No gradient for the weight.
at::Tensor PackedMatMul(const at::Tensor& x, const PackedWeight& weight);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRANSFORMER_PACKED_WEIGHT_H_
