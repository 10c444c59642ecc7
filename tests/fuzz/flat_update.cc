// Any bytes: an update over the layout, or refused; what is accepted encodes
// to the same bytes.
#include "proto/codec/flat_update.h"

#include <cstddef>
#include <cstdint>

#include "base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const choir::codec::Layout* const layout = [] {
    static const choir::codec::Layout instance =
        *choir::codec::Layout::Create({{"a", {2, 3}}, {"b", {4}}});
    return &instance;
  }();
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto values = choir::codec::DecodeFlatUpdate(bytes, *layout, 128.0);
  if (values.ok()) {
    CHOIR_CHECK(choir::codec::EncodeFlatUpdate(*layout, *values) == bytes);
  }
  return 0;
}
