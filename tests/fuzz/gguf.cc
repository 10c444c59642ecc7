// Any bytes as a GGUF file: tensors lie inside the input, what is read can be
// written and read again; and as an adapter of a small model.
#include "model/export/gguf.h"

#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "model/export/gguf_lora.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using choir::model::TensorView;
  static const choir::model::ModelConfig* const config = [] {
    static const choir::model::ModelConfig instance =
        *choir::model::ParseModelConfig(
            R"({"architectures":["LlamaForCausalLM"],"model_type":"llama",
            "vocab_size":8,"hidden_size":4,"intermediate_size":4,
            "num_hidden_layers":1,"num_attention_heads":2,
            "max_position_embeddings":8,"hidden_act":"silu"})",
            "fuzz");
    return &instance;
  }();
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  (void)choir::model::DecodeGgufLora(bytes, *config, "fuzz");
  const auto file = choir::model::ParseGguf(bytes, "fuzz");
  if (!file.ok()) {
    CHOIR_CHECK(!file.status().message().empty());
    return 0;
  }
  for (const TensorView& tensor : file->tensors) {
    CHOIR_CHECK(tensor.bytes.data() >= bytes.data() &&
                tensor.bytes.data() + tensor.bytes.size() <=
                    bytes.data() + bytes.size());
  }
  const auto again = choir::model::EncodeGguf(file->metadata, file->tensors);
  if (again.ok()) {
    CHOIR_CHECK(choir::model::ParseGguf(*again, "again").ok());
  }
  return 0;
}
