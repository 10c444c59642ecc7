// Adapters in the folder format of Hugging Face PEFT: adapter_config.json and
// adapter_model.safetensors.
#ifndef CHOIR_MODEL_ADAPTER_PEFT_FOLDER_H_
#define CHOIR_MODEL_ADAPTER_PEFT_FOLDER_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "model/checkpoint/model_config.h"
#include "proto/codec/layout.h"
#include "proto/config/job_options.h"

namespace choir::model {

inline constexpr char kAdapterConfigName[] = "adapter_config.json";
inline constexpr char kAdapterModelName[] = "adapter_model.safetensors";

// The bytes of adapter_model.safetensors, float32. `values` must have
// layout.num_elements() elements. The same values give the same bytes.
std::string EncodeAdapterFile(const codec::Layout& layout,
                              absl::Span<const float> values);

// Errors: INVALID_ARGUMENT naming `source` and the tensor for what
// ParseSafetensors refuses, for a tensor that is missing, not expected or of
// another shape, and for values that are not finite.
absl::StatusOr<std::vector<float>> DecodeAdapterFile(
    absl::string_view bytes, const codec::Layout& layout,
    absl::string_view source = kAdapterModelName);

// adapter_config.json as PEFT writes it; `base_model` becomes
// base_model_name_or_path.
std::string AdapterConfigJson(const config::AdapterOptions& options,
                              absl::string_view base_model);

struct AdapterConfigFile {
  config::AdapterOptions options;
  std::string base_model;  // base_model_name_or_path; may be empty
};

// Errors: INVALID_ARGUMENT naming `source` and everything in it that Choir
// does not compute (DoRA, trained biases, other adapter kinds, per-layer
// ranks) or that is missing.
absl::StatusOr<AdapterConfigFile> ParseAdapterConfig(absl::string_view text,
                                                     absl::string_view source);

// Writes both files into `directory`, which is made if need be; each is
// replaced whole, the weights first.
absl::Status WritePeftFolder(const std::string& directory,
                             const config::AdapterOptions& options,
                             const codec::Layout& layout,
                             absl::Span<const float> values,
                             absl::string_view base_model);

struct PeftAdapter {
  config::AdapterOptions options;
  codec::Layout layout;
  std::vector<float> values;
  std::string base_model;
};

// Reads a folder and checks that it fits the model `config` describes.
absl::StatusOr<PeftAdapter> ReadPeftFolder(const std::string& directory,
                                           const ModelConfig& config);

}  // namespace choir::model

#endif  // CHOIR_MODEL_ADAPTER_PEFT_FOLDER_H_
