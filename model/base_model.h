// A frozen base model, as clients and the simulator see it: without LibTorch.
#ifndef CHOIR_MODEL_BASE_MODEL_H_
#define CHOIR_MODEL_BASE_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "model/device_kind.h"
#include "model/quantize/weight_format.h"

namespace choir::model {

class Tokenizer;

struct LoadOptions {
  DeviceKind device = DeviceKind::kAuto;
  // Of a mixture of experts, those to hold; empty: all. Tokens are then routed
  // among them alone, with weights made anew. Adapters have tensors for them
  // alone.
  std::vector<int64_t> experts;
  // How the frozen weights are held: the linear layers of the blocks in this
  // format, embedding and head in 16 bits but for kFloat32. No value: as the
  // folder has them (a quantised one as it is, others in float32). On the CPU
  // the model computes in float32 whatever it is; on CUDA in bfloat16, but for
  // kFloat32.
  absl::optional<WeightFormat> precision;
};

// A base model's weights in memory (or mapped), frozen. Threads: safe; share
// one among all trainers of a process.
class BaseModel {
 public:
  // Loads a Hugging Face folder. Errors: NOT_FOUND for a missing file;
  // INVALID_ARGUMENT for an unreadable or unknown one, listing what is wrong;
  // FAILED_PRECONDITION if kCuda is asked for and there is no device.
  static absl::StatusOr<std::shared_ptr<const BaseModel>> Load(
      const std::string& directory, const LoadOptions& options);
  static absl::StatusOr<std::shared_ptr<const BaseModel>> Load(
      const std::string& directory, DeviceKind device) {
    LoadOptions options;
    options.device = device;
    return Load(directory, options);
  }
  virtual ~BaseModel() = default;
  virtual const Tokenizer& tokenizer() const = 0;
  virtual int max_positions() const = 0;
  // "cpu" or "cuda:0": where it really is.
  virtual std::string device() const = 0;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_BASE_MODEL_H_
