// Any bytes: parsed into tensors that lie inside the input, or refused.
#include "model/checkpoint/safetensors.h"

#include <cstddef>
#include <cstdint>

#include "base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto file = choir::model::ParseSafetensors(bytes, "fuzz");
  if (!file.ok()) {
    CHOIR_CHECK(!file.status().message().empty());
    return 0;
  }
  for (const choir::model::TensorView& tensor : file->tensors()) {
    CHOIR_CHECK(tensor.bytes.empty() ||
                (tensor.bytes.data() >= bytes.data() &&
                 tensor.bytes.data() + tensor.bytes.size() <=
                     bytes.data() + bytes.size()));
    (void)choir::model::ReadFloats(tensor);
  }
  return 0;
}
