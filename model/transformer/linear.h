// Linear layers with what adapters add to them.
//
// A block's linear layers are a vector of named modules (families.h lists them
// in the same order), so that adapters find them by name whatever the family.
#ifndef CHOIR_MODEL_TRANSFORMER_LINEAR_H_
#define CHOIR_MODEL_TRANSFORMER_LINEAR_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "model/checkpoint/families.h"
#include "model/torch/compat.h"
#include "model/transformer/ops.h"
#include "proto/codec/layout.h"

namespace choir::model {

// The frozen part of a linear layer. Threads: safe, never written.
struct Linear {
  LinearSpec spec;
  at::Tensor weight;  // [out, in], float32 or bfloat16; undefined if packed
  // The weight in few bits; null: dense. Shared by copies of the layer.
  std::shared_ptr<const PackedWeight> packed;
  at::Tensor bias;  // [out]; undefined: none
  // The dense weight; a packed one is read back whole, in float32 (bfloat16 on
  // CUDA).
  at::Tensor Dense() const;
};

// What an adapter does to one linear layer; nothing if undefined. Which of the
// tensors are there says which kind it is (model/adapter/lora_layout.h).
struct LinearAdapter {
  at::Tensor lora_a;     // [rank, in]
  at::Tensor lora_b;     // [out, rank]
  at::Tensor magnitude;  // DoRA: [out]
  // DoRA: squared norms of the base weight's rows, float64 [out]; a constant.
  // Undefined: they are computed when needed.
  at::Tensor base_norms;
  // DoRA: magnitude / norm, [out], where it no longer changes (no training).
  at::Tensor row_factors;
  at::Tensor ia3_in;   // (IA)^3 of feedforward modules: [1, in]
  at::Tensor ia3_out;  // (IA)^3 of the others: [out, 1]
  // LoFiT: [heads, head_dim]. While heads are chosen, `lofit_mask` is
  // undefined; then it is one for the chosen heads' inputs, else zero.
  at::Tensor lofit_scale, lofit_offset, lofit_mask;

  bool defined() const {
    return lora_a.defined() || ia3_in.defined() || ia3_out.defined() ||
           lofit_scale.defined();
  }
  // A LoRA pair and nothing else, or nothing.
  bool plain() const {
    return !magnitude.defined() && !ia3_in.defined() && !ia3_out.defined() &&
           !lofit_scale.defined();
  }
};

// One adapter: blocks[b][i] belongs to the i-th linear layer of block b.
struct LoraBank {
  std::vector<std::vector<LinearAdapter>> blocks;
  double scale = 0.0;  // of B A
};

// Tensors of `layout` as detached views into `flat` (float32,
// layout.num_elements()): leaves that share its memory. `layers` is
// LinearLayers(config).
LoraBank BindLora(absl::Span<const LinearSpec> layers,
                  const codec::Layout& layout, const at::Tensor& flat,
                  double scale);
LoraBank BindLora(const ModelConfig& config, const codec::Layout& layout,
                  const at::Tensor& flat, double scale);

// Makes the tensors of `bank` leaves whose gradients gather in the tensors of
// `gradients`, which was bound to the same layout.
void GatherGradients(const LoraBank& gradients, LoraBank& bank);

// A layer in use: with its adapter, which may be null.
struct LinearUse {
  const Linear* layer = nullptr;
  const LinearAdapter* adapter = nullptr;
};

// y_i of layers that share the input x [tokens, in]. The one place where a
// kind of weight meets a kind of adapter: LoRA alone is a group's work, the
// other kinds are built around it (adapter_ops.h).
std::vector<at::Tensor> ApplyLinear(Kernels kernels, const at::Tensor& x,
                                    absl::Span<const LinearUse> layers,
                                    const LoraUse& lora);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRANSFORMER_LINEAR_H_
