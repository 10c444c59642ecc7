// The names and shapes of the tensors behind a flat vector.
#ifndef CHOIR_PROTO_CODEC_LAYOUT_H_
#define CHOIR_PROTO_CODEC_LAYOUT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace choir::codec {

struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
  int64_t num_elements() const;
  bool operator==(const TensorSpec& other) const {
    return name == other.name && shape == other.shape;
  }
};

// Tensors in order of their names, one after another, row-major. Immutable.
class Layout {
 public:
  Layout() = default;
  // Sorts by name. INVALID_ARGUMENT for a repeated or empty name, a dimension
  // below 1, or more than 2^40 elements in all.
  static absl::StatusOr<Layout> Create(std::vector<TensorSpec> tensors);

  const std::vector<TensorSpec>& tensors() const { return tensors_; }
  int64_t num_elements() const { return num_elements_; }
  // First element of tensor `index` in the flat vector.
  int64_t offset(size_t index) const { return offsets_[index]; }
  // SHA-256, hexadecimal, of the canonical text "name d0xd1...\n" per tensor.
  const std::string& digest() const { return digest_; }

 private:
  std::vector<TensorSpec> tensors_;
  std::vector<int64_t> offsets_;
  int64_t num_elements_ = 0;
  std::string digest_;
};

}  // namespace choir::codec

#endif  // CHOIR_PROTO_CODEC_LAYOUT_H_
