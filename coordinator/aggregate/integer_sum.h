// Exact weighted sums of updates.
//
// Each value is put on a fixed-point grid, q = round(x * 2^fixed_point_bits),
// ties to even, and multiplied by its client's weight in integers. Integer
// addition has no order, so the sum is the same for every arrival order, number
// of threads and restart.
//
// Bounds: |q| <= 2^31, since |x| <= 2^(31 - fixed_point_bits) is required. The
// sum keeps a proven bound on its largest element, the sum of weight * max|q|
// over the updates, and refuses an update that would take it past 2^63 - 1.
// Nothing wraps. The bound has no order either.
//
// Encoding, little-endian (docs/wire_format.md):
//   "CHS1"                4 bytes
//   layout digest         32 bytes
//   fixed_point_bits      uint32
//   number of updates     uint64
//   total weight          uint64
//   bound                 uint64, the largest magnitude of an element
//   number of elements    uint64
//   elements              int64 each
#ifndef CHOIR_COORDINATOR_AGGREGATE_INTEGER_SUM_H_
#define CHOIR_COORDINATOR_AGGREGATE_INTEGER_SUM_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "privacy/secagg/grid.h"
#include "proto/codec/layout.h"

namespace choir::aggregate {

inline constexpr int kMinFixedPointBits = 8;
inline constexpr int kMaxFixedPointBits = 28;

// Threads: one thread at a time per object; threads add to sums of their own,
// which are then merged. Memory: 8 bytes per element.
class IntegerSum {
 public:
  // An empty sum. INVALID_ARGUMENT if fixed_point_bits is outside 8..28.
  static absl::StatusOr<IntegerSum> Create(const codec::Layout& layout,
                                           int fixed_point_bits);

  // A sum that was made elsewhere, of `num_updates` updates.
  // Errors: INVALID_ARGUMENT as for Create(), for a digest that is none, for
  // more updates than weight, and for an element of -2^63.
  static absl::StatusOr<IntegerSum> FromSums(const std::string& layout_digest,
                                             int fixed_point_bits,
                                             std::vector<int64_t> sums,
                                             uint64_t num_updates,
                                             uint64_t total_weight);

  // Adds `weight` times `update`, which has num_elements() elements. On any
  // error the sum is unchanged.
  // Errors: INVALID_ARGUMENT for another size, a weight of 0, a value that is
  // not finite or beyond the grid; RESOURCE_EXHAUSTED if the sum could
  // overflow, naming the remedy.
  absl::Status Add(absl::Span<const float> update, uint64_t weight);

  // Adds a sum over the same layout and grid. INVALID_ARGUMENT if they differ,
  // RESOURCE_EXHAUSTED as for Add(); then unchanged.
  absl::Status Merge(const IntegerSum& other);

  // The same sum gives the same bytes, whether it was made of updates or of
  // other sums.
  std::string Encode() const;
  // INVALID_ARGUMENT for what Encode() cannot have written, including elements
  // beyond the bound.
  static absl::StatusOr<IntegerSum> Decode(absl::string_view bytes);

  // The weighted mean, sums / total_weight / 2^fixed_point_bits.
  // FAILED_PRECONDITION for an empty sum.
  absl::StatusOr<std::vector<double>> MeanUpdate() const;

  const std::string& layout_digest() const { return layout_digest_; }
  int fixed_point_bits() const { return fixed_point_bits_; }
  int64_t num_elements() const { return static_cast<int64_t>(sums_.size()); }
  uint64_t num_updates() const { return num_updates_; }
  uint64_t total_weight() const { return total_weight_; }
  absl::Span<const int64_t> sums() const { return sums_; }

 private:
  IntegerSum() = default;
  // Bound and weight after adding; RESOURCE_EXHAUSTED if either overflows.
  absl::Status Reserve(uint64_t added_bound, uint64_t added_weight,
                       uint64_t* bound, uint64_t* weight) const;

  std::string layout_digest_;
  int fixed_point_bits_ = 0;
  uint64_t num_updates_ = 0;
  uint64_t total_weight_ = 0;
  uint64_t bound_ = 0;
  std::vector<int64_t> sums_;
};

// Plain and secret sums are on the same grid.
using secagg::Quantize;

}  // namespace choir::aggregate

#endif  // CHOIR_COORDINATOR_AGGREGATE_INTEGER_SUM_H_
