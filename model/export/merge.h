// An adapter folded into its base: a checkpoint that needs no adapter.
#ifndef CHOIR_MODEL_EXPORT_MERGE_H_
#define CHOIR_MODEL_EXPORT_MERGE_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/checkpoint/safetensors.h"
#include "model/checkpoint/safetensors_writer.h"

namespace choir::model {

struct MergeOptions {
  std::string model;    // Hugging Face folder
  std::string adapter;  // PEFT folder or GGUF file, or a job's files
  std::string out;      // new folder
  // Of the floating-point tensors written; unset: each as the base stores it.
  std::optional<DType> dtype;
  StopFn stop;  // null: never
};

struct MergeReport {
  uint64_t tensors = 0;  // written
  uint64_t merged = 0;   // of them, changed by the adapter
  uint64_t bytes = 0;
};

// Writes `out`: the weights of `model` (in the same shards) with the adapter
// folded in, config.json and the side files (side_files.h). W + s B A for LoRA,
// m / |W + s B A| (W + s B A) for DoRA, rows or columns scaled for (IA)^3, all
// in float32, then rounded to the tensor's dtype; LoFiT's offsets v become W v
// in the attention output's bias. A Llama without biases gets them
// (attention_bias in config.json). An adapter's classification head takes the
// place of the one of a base that is a classifier of as many labels.
//
// Memory: one tensor and its product at a time.
// Errors: INVALID_ARGUMENT for an adapter that does not fit, a LoFiT adapter on
//   a family whose attention output can have no bias, a classification head on
//   a base without one or with another number of labels, a quantised base, or
//   a value that is too large for its dtype; those of CheckNewFolder() for
//   `out`, of `stop` and of base/files.h. On an error nothing is left of `out`.
absl::StatusOr<MergeReport> MergeAdapter(const MergeOptions& options);

}  // namespace choir::model

#endif  // CHOIR_MODEL_EXPORT_MERGE_H_
