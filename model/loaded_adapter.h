// An adapter in use: read from disk and bound to a loaded decoder.
#ifndef CHOIR_MODEL_LOADED_ADAPTER_H_
#define CHOIR_MODEL_LOADED_ADAPTER_H_

#include <string>

#include "absl/status/statusor.h"
#include "model/adapter/peft_folder.h"
#include "model/transformer/adapter_ops.h"
#include "model/transformer/decoder.h"

namespace choir::model {

BlockLayers BlockLayersOf(const Decoder& decoder);

// Any kind of adapter for use without training: what does not change is
// computed once. The values are copied to where the decoder is.
LoraBank BindForUse(const PeftAdapter& adapter, const Decoder& decoder);

// The classification head [labels, hidden] of an adapter, where the decoder is;
// undefined if it has none.
at::Tensor ScoreOf(const PeftAdapter& adapter, const Decoder& decoder);

// Reads a PEFT folder, a job's files or a GGUF file. Errors: those of
// ReadAdapter.
absl::StatusOr<LoraBank> LoadAdapter(const std::string& path,
                                     const Decoder& decoder);

}  // namespace choir::model

#endif  // CHOIR_MODEL_LOADED_ADAPTER_H_
