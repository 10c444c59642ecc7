// Which tensors an adapter has, and how they begin. Names, shapes and initial
// values are those of Hugging Face PEFT, where PEFT has the method:
//
//   kind       tensors of an adapted layer y = W x, W [out, in]
//   lora       lora_A.weight [rank, in], lora_B.weight [out, rank]:
//              y = W x + s B A x
//   dora       besides, lora_magnitude_vector [out] (m):
//              y = m / |W + s B A| (W x + s B A x), the norm row by row
//   frozen_a   lora_B.weight; A is drawn from options.frozen_seed and fixed
//   ia3        ia3_l: [out, 1], y = l * (W x); of feedforward modules [1, in],
//              y = W (l * x)
//   lofit      of the attention's output layer, whose input x is the heads'
//              outputs: lofit_scale [heads, head_dim] (a) and lofit_offset
//              [heads, head_dim] (v). While a is zero everywhere, heads are
//              being chosen: y = W ((1 + a) x). Then the heads whose rows of a
//              have the largest L2 norms are tuned: y = W (x + v).
//
// Sources: LoRA, Hu et al. (2021); DoRA, Liu et al. (2024); FFA-LoRA, Sun et
// al. (2024); (IA)^3, Liu et al. (2022); LoFiT, Yin et al. (2024), here with
// scalings and offsets that begin at zero instead of small random numbers, so
// that a fresh adapter changes nothing.
#ifndef CHOIR_MODEL_ADAPTER_LORA_LAYOUT_H_
#define CHOIR_MODEL_ADAPTER_LORA_LAYOUT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "model/checkpoint/families.h"
#include "model/checkpoint/model_config.h"
#include "proto/codec/layout.h"
#include "proto/config/job_options.h"

namespace choir::model {

// What PEFT sets before every module's name.
inline constexpr absl::string_view LoraPrefix() { return "base_model.model."; }
// "base_model.model.<module>.lora_A.weight" and so on.
std::string LoraAName(absl::string_view module);
std::string LoraBName(absl::string_view module);
std::string MagnitudeName(absl::string_view module);
std::string Ia3Name(absl::string_view module);
std::string LofitScaleName(absl::string_view module);
std::string LofitOffsetName(absl::string_view module);
// "base_model.model.score.weight" [num_labels, hidden]: the classification head
// of an adapter with num_labels, as PEFT names what is trained whole.
std::string ScoreName();

// Whether (IA)^3 scales the input of `module` rather than its output. `options`
// name their targets (WithTargets()).
bool IsFeedforward(const config::AdapterOptions& options,
                   absl::string_view module);

// The linear layers that the options adapt (WithTargets(), if they name none),
// in the order of LinearLayers().
//
// Errors: INVALID_ARGUMENT for an unknown target module (listing those that
// exist), a rank that is not positive or above every layer's size, or more
// lofit_heads than the model has.
absl::StatusOr<std::vector<LinearSpec>> AdaptedLayers(
    const ModelConfig& config, const config::AdapterOptions& options);

// The tensors that are trained, and that travel. Offsets follow from the names'
// order. Errors: those of AdaptedLayers.
absl::StatusOr<codec::Layout> AdapterLayout(
    const ModelConfig& config, const config::AdapterOptions& options);

// The tensors that a folder holds: those of AdapterLayout and a frozen A.
absl::StatusOr<codec::Layout> StoredLayout(
    const ModelConfig& config, const config::AdapterOptions& options);

// `values` (of AdapterLayout) as values of StoredLayout.
absl::StatusOr<std::vector<float>> StoredValues(
    const ModelConfig& config, const config::AdapterOptions& options,
    absl::Span<const float> values);

// The A that every device draws alike: [rank, in], row-major.
std::vector<float> FrozenA(absl::string_view module, int64_t rank,
                           int64_t in_features, uint64_t seed);

// A fresh adapter: A uniform in (-1/sqrt(in), 1/sqrt(in)) (Kaiming with
// a = sqrt(5)), ia3_l one, the others (a classification head too) zero. Each
// tensor draws from its own seed, derived from `seed` and its name. With that
// the adapted model equals the base, but for DoRA, whose magnitudes
// InitialAdapterOf() fills in.
std::vector<float> InitialAdapter(const codec::Layout& layout, uint64_t seed);

// InitialAdapter(); DoRA's magnitudes are the norms of the rows of the base's
// weights, read from `base_folder` one layer after the other (of a quantised
// folder as they are read back, as in QDoRA), and the head of a base that is a
// classifier of as many labels is copied.
// Errors: those of TensorFiles::Open and of reading; INVALID_ARGUMENT for a
// norm that is not finite.
absl::StatusOr<std::vector<float>> InitialAdapterOf(
    const std::string& base_folder, const ModelConfig& config,
    const config::AdapterOptions& options, const codec::Layout& layout,
    uint64_t seed);

// Heads that LoFiT tunes: options.lofit_heads, or 3 in 100, one at least.
int LofitHeads(const ModelConfig& config,
               const config::AdapterOptions& options);

}  // namespace choir::model

#endif  // CHOIR_MODEL_ADAPTER_LORA_LAYOUT_H_
