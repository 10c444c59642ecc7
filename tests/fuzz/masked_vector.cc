// Any bytes: a masked vector, or refused; what is accepted encodes to the same,
// and adding it to itself is doubling.
#include "privacy/secagg/masked_vector.h"

#include <cstddef>
#include <cstdint>

#include "base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using choir::secagg::MaskedVector;
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  absl::StatusOr<MaskedVector> vector = MaskedVector::Decode(bytes);
  if (!vector.ok()) return 0;
  CHOIR_CHECK(vector->Encode() == bytes);
  MaskedVector twice = *vector;
  CHOIR_CHECK(twice.AddEncoded(bytes).ok());
  vector->Add(*vector);
  CHOIR_CHECK(vector->Encode() == twice.Encode());
  return 0;
}
