// Which tensors a LoRA adapter has, and how they begin.
//
// Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models"
//         (2021); names and initial values as in Hugging Face PEFT.
#ifndef CHOIR_MODEL_ADAPTER_LORA_LAYOUT_H_
#define CHOIR_MODEL_ADAPTER_LORA_LAYOUT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/checkpoint/model_config.h"
#include "proto/codec/layout.h"
#include "proto/config/job_options.h"

namespace choir::model {

// "base_model.model.<module>.lora_A.weight" and "...lora_B.weight".
std::string LoraAName(absl::string_view module);
std::string LoraBName(absl::string_view module);

// The adapter's tensors: for each adapted linear layer A of shape [rank, in]
// and B of shape [out, rank]. Offsets follow from the names' order.
//
// Errors: INVALID_ARGUMENT for no target module, an unknown one (listing those
// that exist) or a rank that is not positive or above every layer's size.
absl::StatusOr<codec::Layout> AdapterLayout(
    const ModelConfig& config, const config::AdapterOptions& options);

// A fresh adapter: A uniform in (-1/sqrt(in), 1/sqrt(in)) (Kaiming with
// a = sqrt(5)), B zero, so that the adapted model equals the base. Each tensor
// draws from its own seed, derived from `seed` and its name.
std::vector<float> InitialAdapter(const codec::Layout& layout, uint64_t seed);

}  // namespace choir::model

#endif  // CHOIR_MODEL_ADAPTER_LORA_LAYOUT_H_
