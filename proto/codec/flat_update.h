// The bytes of one client's update: a flat float32 vector over a layout.
//
// Format, little-endian (docs/wire_format.md has a worked example):
//   "CHU1"               4 bytes
//   layout digest        32 bytes
//   number of elements   uint64
//   elements             float32 each
#ifndef CHOIR_PROTO_CODEC_FLAT_UPDATE_H_
#define CHOIR_PROTO_CODEC_FLAT_UPDATE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "proto/codec/layout.h"

namespace choir::codec {

inline constexpr char kFlatUpdateMagic[4] = {'C', 'H', 'U', '1'};
inline constexpr uint64_t kFlatUpdateHeaderBytes = 44;

// Size of the encoding of an update over `layout`.
uint64_t EncodedUpdateBytes(const Layout& layout);

// `values` must have layout.num_elements() elements.
std::string EncodeFlatUpdate(const Layout& layout,
                             absl::Span<const float> values);

// Checks magic, layout and size, that every element is finite and that its
// magnitude is at most `max_magnitude`; INVALID_ARGUMENT names the first
// difference (a tensor's name, never a value of a model).
absl::StatusOr<std::vector<float>> DecodeFlatUpdate(absl::string_view bytes,
                                                    const Layout& layout,
                                                    double max_magnitude);

}  // namespace choir::codec

#endif  // CHOIR_PROTO_CODEC_FLAT_UPDATE_H_
