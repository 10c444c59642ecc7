// Adapters that are more than a LoRA pair: DoRA, (IA)^3, LoFiT. Each is built
// around the plain linear layer, which stays one fused operation on the CPU.
#ifndef CHOIR_MODEL_TRANSFORMER_ADAPTER_OPS_H_
#define CHOIR_MODEL_TRANSFORMER_ADAPTER_OPS_H_

#include <vector>

#include "absl/types/span.h"
#include "model/adapter/lofit.h"
#include "model/torch/compat.h"
#include "model/transformer/linear.h"

namespace choir::model {

// As ApplyLinear(); layers with plain adapters, or none, go together.
std::vector<at::Tensor> ApplyAdapted(Kernels kernels, const at::Tensor& x,
                                     absl::Span<const LinearUse> layers,
                                     const LoraUse& lora);

// DoRA's m / |W + scale B A|, row by row, float32 [out]. The norm is a constant
// to the gradient, as section 4.3 of the paper and PEFT have it.
// The fused kernel expands the square and needs thin products only; the
// reference computes the norm of the sum.
at::Tensor DoraFactors(Kernels kernels, const Linear& layer,
                       const LinearAdapter& adapter, double scale);

// Binds an adapter of any kind: tensors of `layout` (of AdapterLayout() or
// StoredLayout()) as views into `flat`, a frozen A that `layout` lacks as
// drawn. `layers[b]` are the linear layers of block b.
LoraBank BindAdapter(const ModelConfig& config,
                     const config::AdapterOptions& options,
                     const codec::Layout& layout, const at::Tensor& flat);

// Computes base_norms of DoRA's layers: training is faster with them.
// `blocks[b]` are the linear layers of block b.
using BlockLayers = std::vector<absl::Span<const Linear>>;
void PrepareDora(const BlockLayers& blocks, LoraBank& bank);
// Computes row_factors of DoRA's layers from the adapter's present values, for
// as long as those do not change.
void FixDora(const BlockLayers& blocks, LoraBank& bank);

// Sets the masks of LoFiT's layers.
void SetLofitState(const ModelConfig& config, const LofitState& state,
                   LoraBank& bank);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRANSFORMER_ADAPTER_OPS_H_
