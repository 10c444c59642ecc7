// LoRA adapters as GGUF files that llama.cpp loads (llama-cli --lora FILE).
//
// Source: llama.cpp, how it names tensors and reads adapters. The file holds
// general.architecture, general.type = "adapter", adapter.type = "lora",
// adapter.lora.alpha, and for each adapted tensor T of the base, T.lora_a and
// T.lora_b. Where llama.cpp turns the rows of query and key weights around
// (Llama, Mistral, Mixtral), so are lora_b's; experts are stacked into one
// tensor. llama.cpp multiplies by alpha / rank, so an rsLoRA adapter's alpha
// becomes alpha * sqrt(rank); without an alpha, or with 0, by 1, whatever the
// rank of a tensor. The key choir.adapter_config keeps
// adapter_config.json, with which reading gives back what was written.
#ifndef CHOIR_MODEL_EXPORT_GGUF_LORA_H_
#define CHOIR_MODEL_EXPORT_GGUF_LORA_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/adapter/peft_folder.h"
#include "model/checkpoint/model_config.h"
#include "model/checkpoint/safetensors.h"

namespace choir::model {

// "llama", "qwen2", ...: general.architecture of a family.
absl::string_view GgufArchitecture(Family family);

// The file's bytes; `dtype` is kF32, kF16 or kBf16, only the first is exact.
//
// Errors: INVALID_ARGUMENT for kinds of adapters that llama.cpp does not have
//   (DoRA, (IA)^3, LoFiT: merge them instead), for an adapter on some experts
//   of a layer only, and for a dtype other than those.
absl::StatusOr<std::string> EncodeGgufLora(const ModelConfig& config,
                                           const PeftAdapter& adapter,
                                           DType dtype);

// Reads what EncodeGgufLora or llama.cpp's converter wrote.
//
// Errors: INVALID_ARGUMENT naming `source` and the problem: what ParseGguf
//   refuses, another kind of file, another architecture, tensors that the model
//   does not have, that have no partner, another shape or unequal ranks, and
//   values that are not finite.
absl::StatusOr<PeftAdapter> DecodeGgufLora(absl::string_view bytes,
                                           const ModelConfig& config,
                                           absl::string_view source);

}  // namespace choir::model

#endif  // CHOIR_MODEL_EXPORT_GGUF_LORA_H_
