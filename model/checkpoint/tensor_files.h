// The safetensors files of a model folder: one, or shards with an index.
#ifndef CHOIR_MODEL_CHECKPOINT_TENSOR_FILES_H_
#define CHOIR_MODEL_CHECKPOINT_TENSOR_FILES_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/checkpoint/families.h"
#include "model/checkpoint/model_config.h"
#include "model/checkpoint/safetensors.h"
#include "model/quantize/quantized_matrix.h"

namespace choir::model {

// Opened files of one model. The weights stay on disk until they are read.
// Threads: safe, nothing changes after opening.
class TensorFiles {
 public:
  // Opens model.safetensors, or the files that model.safetensors.index.json
  // names, or (without either) every *.safetensors file of the folder but an
  // adapter's; and checks that they hold the tensors of `config`. Experts may
  // be fused (fused_experts.h).
  //
  // Errors: INVALID_ARGUMENT for an unreadable file or index, a tensor that is
  //   there twice (quantised and not, too), one that is quantised and no linear
  //   layer's weight, and all that CheckTensorTable lists; those of
  //   base/files.h.
  static absl::StatusOr<TensorFiles> Open(const std::string& directory,
                                          const ModelConfig& config);

  // A tensor by the name that ModelTensors() gives it, and its file, which
  // keeps the bytes mapped. It is there: Open() checked.
  struct Found {
    std::shared_ptr<const SafetensorsFile> file;  // shared by its tensors
    const TensorView* view = nullptr;             // in `file`
  };
  // Not for a weight that is stored packed (see IsPacked()).
  Found Find(absl::string_view name) const;

  // Whether the weight `name` is stored quantised
  // (model/checkpoint/packed_checkpoint.h).
  bool IsPacked(absl::string_view name) const;
  // OK if no weight is; INVALID_ARGUMENT with the file, the weight and `remedy`
  // for the first that is.
  absl::Status CheckNonePacked(absl::string_view remedy) const;
  // That weight, [rows, columns]; INVALID_ARGUMENT if its parts do not fit.
  absl::StatusOr<QuantizedMatrix> Packed(absl::string_view name, int64_t rows,
                                         int64_t columns) const;
  // Reads the weight of a linear layer as float32 [out, in], however it is
  // stored: transposed, in 16 bits, packed. The reader keeps the file open.
  // INVALID_ARGUMENT if the weight cannot be read as numbers.
  absl::StatusOr<ReadRows> RowsOf(const LinearSpec& linear) const;
  // The same for any matrix by its name.
  absl::StatusOr<ReadRows> RowsOf(absl::string_view name, int64_t rows,
                                  int64_t columns,
                                  bool transposed = false) const;

  const std::vector<std::shared_ptr<const SafetensorsFile>>& files() const {
    return files_;
  }

 private:
  // The name as it is stored.
  absl::string_view Stored(absl::string_view name) const;

  std::vector<std::shared_ptr<const SafetensorsFile>> files_;
  std::string missing_prefix_;  // that the stored names do not have
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_CHECKPOINT_TENSOR_FILES_H_
