// The one implementation of BaseModel: a Hugging Face folder in memory.
#ifndef CHOIR_MODEL_LOADED_MODEL_H_
#define CHOIR_MODEL_LOADED_MODEL_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "model/base_model.h"
#include "model/tokenizer/tokenizer.h"
#include "model/transformer/decoder.h"

namespace choir::model {

// Threads: safe, nothing changes after loading.
class LoadedModel final : public BaseModel {
 public:
  // As BaseModel::Load. float32 weights stay in the mapped file on the CPU;
  // others are converted, to float32 on the CPU and bfloat16 on CUDA (float32
  // there, too, with precision kFloat32).
  // `with_tokenizer` false: tokenizer() must not be called.
  static absl::StatusOr<std::shared_ptr<const LoadedModel>> LoadFolder(
      const std::string& directory, const LoadOptions& options,
      bool with_tokenizer);
  static absl::StatusOr<std::shared_ptr<const LoadedModel>> LoadFolder(
      const std::string& directory, DeviceKind device, bool with_tokenizer) {
    LoadOptions options;
    options.device = device;
    return LoadFolder(directory, options, with_tokenizer);
  }

  LoadedModel(std::unique_ptr<const Tokenizer> tokenizer,
              std::unique_ptr<const Decoder> decoder)
      : tokenizer_(std::move(tokenizer)), decoder_(std::move(decoder)) {}

  const Tokenizer& tokenizer() const override;
  int max_positions() const override {
    return static_cast<int>(decoder_->config().max_positions);
  }
  std::string device() const override;
  const Decoder& decoder() const { return *decoder_; }

 private:
  std::unique_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<const Decoder> decoder_;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_LOADED_MODEL_H_
