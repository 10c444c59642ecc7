// The one implementation of BaseModel: a Hugging Face folder in memory.
#ifndef CHOIR_MODEL_LOADED_MODEL_H_
#define CHOIR_MODEL_LOADED_MODEL_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "model/tokenizer/tokenizer.h"
#include "model/trainer.h"
#include "model/transformer/llama.h"

namespace choir::model {

// Threads: safe, nothing changes after loading.
class LoadedModel final : public BaseModel {
 public:
  // As BaseModel::Load. float32 weights stay in the mapped file on the CPU;
  // others are converted, to float32 on the CPU and bfloat16 on CUDA.
  // `with_tokenizer` false: tokenizer() must not be called.
  static absl::StatusOr<std::shared_ptr<const LoadedModel>> LoadFolder(
      const std::string& directory, DeviceKind device, bool with_tokenizer);

  LoadedModel(std::unique_ptr<const Tokenizer> tokenizer,
              std::unique_ptr<const Llama> llama)
      : tokenizer_(std::move(tokenizer)), llama_(std::move(llama)) {}

  const Tokenizer& tokenizer() const override;
  int max_positions() const override {
    return static_cast<int>(llama_->config().max_positions);
  }
  std::string device() const override;
  const Llama& llama() const { return *llama_; }

 private:
  std::unique_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<const Llama> llama_;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_LOADED_MODEL_H_
