// Linear layers with what adapters add to them.
//
// A block's linear layers are a vector of named modules (families.h lists them
// in the same order), so that adapters find them by name whatever the family.
#ifndef CHOIR_MODEL_TRANSFORMER_LINEAR_H_
#define CHOIR_MODEL_TRANSFORMER_LINEAR_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "model/checkpoint/families.h"
#include "model/torch_compat.h"
#include "model/transformer/ops.h"
#include "proto/codec/layout.h"

namespace choir::model {

// The frozen part of a linear layer. Threads: safe, never written.
struct Linear {
  LinearSpec spec;
  at::Tensor weight;  // [out, in], float32 or bfloat16
  at::Tensor bias;    // [out]; undefined: none
};

// What an adapter does to one linear layer; nothing if undefined.
struct LinearAdapter {
  at::Tensor lora_a;  // [rank, in]
  at::Tensor lora_b;  // [out, rank]
  bool defined() const { return lora_a.defined(); }
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
// kind of weight meets a kind of adapter.
std::vector<at::Tensor> ApplyLinear(Kernels kernels, const at::Tensor& x,
                                    absl::Span<const LinearUse> layers,
                                    const LoraUse& lora);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRANSFORMER_LINEAR_H_
