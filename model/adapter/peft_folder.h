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
#include "model/adapter/adapter_config.h"
#include "model/checkpoint/model_config.h"
#include "model/checkpoint/safetensors.h"
#include "proto/codec/layout.h"
#include "proto/config/job_options.h"

namespace choir::model {

inline constexpr char kAdapterModelName[] = "adapter_model.safetensors";

// The bytes of adapter_model.safetensors. `values` must have
// layout.num_elements() elements. The same values give the same bytes.
// `dtype` is kF32, or kBf16 or kF16, to which values are rounded (to nearest,
// ties to even): what has that precision already is read back as it was.
std::string EncodeAdapterFile(const codec::Layout& layout,
                              absl::Span<const float> values,
                              DType dtype = DType::kF32);

// Reads float32, bfloat16 and float16. Errors: INVALID_ARGUMENT naming `source`
// and the tensor for what ParseSafetensors refuses, for a tensor that is
// missing, not expected or of another shape, and for values that are not
// finite.
absl::StatusOr<std::vector<float>> DecodeAdapterFile(
    absl::string_view bytes, const codec::Layout& layout,
    absl::string_view source = kAdapterModelName);

// Writes both files into `directory`, which is made if need be; each is
// replaced whole, the weights first. `layout` is StoredLayout().
absl::Status WritePeftFolder(const std::string& directory,
                             const config::AdapterOptions& options,
                             const codec::Layout& layout,
                             absl::Span<const float> values,
                             absl::string_view base_model);

// The same for `values` of AdapterLayout(), in float32: a frozen A is drawn and
// written.
absl::Status WriteTrainedAdapter(const std::string& directory,
                                 const ModelConfig& config,
                                 const config::AdapterOptions& options,
                                 absl::Span<const float> values,
                                 absl::string_view base_model);

// A folder with a job's files becomes one that PEFT reads: a frozen A is drawn
// and stored. Others are left alone. Errors: those of reading and writing.
absl::Status CompletePeftFolder(const std::string& directory);

struct PeftAdapter {
  config::AdapterOptions options;  // never kFrozenA: its A is known
  codec::Layout layout;            // StoredLayout()
  std::vector<float> values;
  std::string base_model;
};

// WritePeftFolder() of an adapter that was read, in `dtype`. Errors besides:
// INVALID_ARGUMENT for a value that is too large for it.
absl::Status WritePeftFolder(const std::string& directory,
                             const PeftAdapter& adapter, DType dtype);

// Reads a folder, a job's files too, and checks that it fits the model
// `config` describes.
absl::StatusOr<PeftAdapter> ReadPeftFolder(const std::string& directory,
                                           const ModelConfig& config);

}  // namespace choir::model

#endif  // CHOIR_MODEL_ADAPTER_PEFT_FOLDER_H_
