#include "proto/codec/flat_update.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/sha256.h"
#include "base/status_macros.h"

namespace choir::codec {
namespace {

// The tensor that holds element `index` of the flat vector.
const std::string& TensorAt(const Layout& layout, int64_t index) {
  size_t tensor = 0;
  while (tensor + 1 < layout.tensors().size() &&
         layout.offset(tensor + 1) <= index) {
    ++tensor;
  }
  return layout.tensors()[tensor].name;
}

}  // namespace

uint64_t EncodedUpdateBytes(const Layout& layout) {
  return kFlatUpdateHeaderBytes +
         static_cast<uint64_t>(layout.num_elements()) * sizeof(float);
}

std::string EncodeFlatUpdate(const Layout& layout,
                             absl::Span<const float> values) {
  CHOIR_CHECK(static_cast<int64_t>(values.size()) == layout.num_elements());
  const absl::StatusOr<base::Sha256Digest> digest =
      base::DigestFromHex(layout.digest());
  CHOIR_CHECK(digest.ok());
  std::string bytes(EncodedUpdateBytes(layout), '\0');
  char* out = bytes.data();
  std::memcpy(out, kFlatUpdateMagic, 4);
  std::memcpy(out + 4, digest->data(), 32);
  const uint64_t count = values.size();
  static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
                "the codec writes the machine's own byte order");
  std::memcpy(out + 36, &count, 8);
  std::memcpy(out + 44, values.data(), values.size() * sizeof(float));
  return bytes;
}

absl::StatusOr<std::vector<float>> DecodeFlatUpdate(absl::string_view bytes,
                                                    const Layout& layout,
                                                    double max_magnitude) {
  if (bytes.size() < kFlatUpdateHeaderBytes ||
      std::memcmp(bytes.data(), kFlatUpdateMagic, 4) != 0) {
    return absl::InvalidArgumentError(
        "not an update: it does not begin with a CHU1 header");
  }
  CHOIR_ASSIGN_OR_RETURN(const base::Sha256Digest digest,
                         base::DigestFromHex(layout.digest()));
  if (std::memcmp(bytes.data() + 4, digest.data(), 32) != 0) {
    base::Sha256Digest other;
    std::memcpy(other.data(), bytes.data() + 4, 32);
    return absl::InvalidArgumentError(absl::StrCat(
        "update has layout ", base::ToHex(other).substr(0, 16),
        "..., the round needs ", layout.digest().substr(0, 16), "..."));
  }
  uint64_t count = 0;
  std::memcpy(&count, bytes.data() + 36, 8);
  if (count != static_cast<uint64_t>(layout.num_elements()) ||
      bytes.size() != EncodedUpdateBytes(layout)) {
    return absl::InvalidArgumentError(
        absl::StrCat("update claims ", count, " elements in ", bytes.size(),
                     " bytes; the layout has ", layout.num_elements(),
                     " elements in ", EncodedUpdateBytes(layout), " bytes"));
  }
  std::vector<float> values(count);
  std::memcpy(values.data(), bytes.data() + 44, count * sizeof(float));
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) {
      return absl::InvalidArgumentError(
          absl::StrCat("update has a value that is not finite in tensor '",
                       TensorAt(layout, static_cast<int64_t>(i)), "'"));
    }
    if (std::fabs(values[i]) > max_magnitude) {
      return absl::InvalidArgumentError(absl::StrCat(
          "update has a value beyond +-", max_magnitude, " in tensor '",
          TensorAt(layout, static_cast<int64_t>(i)),
          "'; lower the learning rate, clip the update, or use fewer "
          "fixed_point_bits"));
    }
  }
  return values;
}

}  // namespace choir::codec
