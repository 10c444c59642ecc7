// Any bytes: an integer sum, or refused; what is accepted encodes to the same.
#include "coordinator/aggregate/integer_sum.h"

#include <cstddef>
#include <cstdint>

#include "base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto sum = choir::aggregate::IntegerSum::Decode(bytes);
  if (sum.ok()) {
    CHOIR_CHECK(sum->Encode() == bytes);
    (void)sum->MeanUpdate();
  }
  return 0;
}
