// An adapter in whatever form a user has it.
#ifndef CHOIR_MODEL_EXPORT_READ_ADAPTER_H_
#define CHOIR_MODEL_EXPORT_READ_ADAPTER_H_

#include <string>

#include "absl/status/statusor.h"
#include "model/adapter/peft_folder.h"
#include "model/checkpoint/model_config.h"

namespace choir::model {

// Reads a PEFT folder, a job's files, or a GGUF LoRA file.
// Errors: those of ReadPeftFolder and DecodeGgufLora.
absl::StatusOr<PeftAdapter> ReadAdapter(const std::string& path,
                                        const ModelConfig& config);

}  // namespace choir::model

#endif  // CHOIR_MODEL_EXPORT_READ_ADAPTER_H_
