// Any bytes as adapter_config.json and as adapter_model.safetensors.
#include <cstddef>
#include <cstdint>

#include "model/adapter/peft_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const choir::codec::Layout* const layout = [] {
    static const choir::codec::Layout instance = *choir::codec::Layout::Create(
        {{"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
          {1, 2}}});
    return &instance;
  }();
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  (void)choir::model::DecodeAdapterFile(bytes, *layout);
  (void)choir::model::ParseAdapterConfig(bytes, "fuzz");
  return 0;
}
