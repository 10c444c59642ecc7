#include "coordinator/aggregate/integer_sum.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/sha256.h"
#include "base/status_macros.h"

namespace choir::aggregate {
namespace {

constexpr char kMagic[4] = {'C', 'H', 'S', '1'};
constexpr size_t kHeaderBytes = 4 + 32 + 4 + 4 * 8;
constexpr uint64_t kMaxBound =
    static_cast<uint64_t>(std::numeric_limits<int64_t>::max());

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "the encoding is the machine's own byte order");

absl::Status CheckBits(int bits) {
  if (bits >= kMinFixedPointBits && bits <= kMaxFixedPointBits) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("fixed_point_bits is ", bits, "; it must be ",
                   kMinFixedPointBits, " to ", kMaxFixedPointBits));
}

template <typename T>
void Append(const T& value, std::string& out) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

template <typename T>
T Load(absl::string_view bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

uint64_t Magnitude(int64_t value) {
  return value < 0 ? 0 - static_cast<uint64_t>(value)
                   : static_cast<uint64_t>(value);
}

uint64_t LargestMagnitude(const std::vector<int64_t>& sums) {
  uint64_t largest = 0;
  for (const int64_t element : sums) {
    largest = std::max(largest, Magnitude(element));
  }
  return largest;
}

}  // namespace

absl::StatusOr<IntegerSum> IntegerSum::Create(const codec::Layout& layout,
                                              int fixed_point_bits) {
  CHOIR_RETURN_IF_ERROR(CheckBits(fixed_point_bits));
  IntegerSum sum;
  sum.layout_digest_ = layout.digest();
  sum.fixed_point_bits_ = fixed_point_bits;
  sum.sums_.assign(static_cast<size_t>(layout.num_elements()), 0);
  return sum;
}

absl::StatusOr<IntegerSum> IntegerSum::FromSums(
    const std::string& layout_digest, int fixed_point_bits,
    std::vector<int64_t> sums, uint64_t num_updates, uint64_t total_weight) {
  CHOIR_RETURN_IF_ERROR(CheckBits(fixed_point_bits));
  CHOIR_RETURN_IF_ERROR(base::DigestFromHex(layout_digest).status());
  IntegerSum sum;
  sum.layout_digest_ = layout_digest;
  sum.fixed_point_bits_ = fixed_point_bits;
  sum.sums_ = std::move(sums);
  sum.num_updates_ = num_updates;
  sum.total_weight_ = total_weight;
  sum.bound_ = LargestMagnitude(sum.sums_);
  if (sum.bound_ > kMaxBound || total_weight > kMaxBound ||
      num_updates > total_weight) {
    return absl::InvalidArgumentError(
        absl::StrCat("no sum of ", num_updates, " updates has total weight ",
                     total_weight, " and elements up to ", sum.bound_));
  }
  return sum;
}

absl::Status IntegerSum::Reserve(uint64_t added_bound, uint64_t added_weight,
                                 uint64_t* bound, uint64_t* weight) const {
  if (added_bound > kMaxBound - bound_ ||
      added_weight > kMaxBound - total_weight_) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the sum of ", num_updates_ + 1, " updates with total weight ",
        total_weight_, " + ", added_weight,
        " could pass 2^63; use fewer fixed_point_bits (now ", fixed_point_bits_,
        "), a lower max_examples_per_client or weighting = \"uniform\""));
  }
  *bound = bound_ + added_bound;
  *weight = total_weight_ + added_weight;
  return absl::OkStatus();
}

absl::Status IntegerSum::Add(absl::Span<const float> update, uint64_t weight) {
  if (update.size() != sums_.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "update has ", update.size(), " elements, the sum ", sums_.size()));
  }
  if (weight == 0) {
    return absl::InvalidArgumentError("weight of an update is 0");
  }
  float largest = 0.0f;
  bool finite = true;
  for (const float x : update) {
    const float size = std::fabs(x);
    finite &= size <= std::numeric_limits<float>::max();
    largest = size > largest ? size : largest;
  }
  const double limit = std::ldexp(1.0, 31 - fixed_point_bits_);
  if (!finite || largest > limit) {
    return absl::InvalidArgumentError(absl::StrCat(
        "update has a value that is not finite or beyond +-", limit,
        ", the range of fixed_point_bits = ", fixed_point_bits_));
  }
  const uint64_t largest_q =
      static_cast<uint64_t>(Quantize(largest, fixed_point_bits_));
  if (largest_q != 0 && weight > kMaxBound / largest_q) {
    uint64_t unused = 0;
    return Reserve(std::numeric_limits<uint64_t>::max(), weight, &unused,
                   &unused);
  }
  uint64_t bound = 0;
  uint64_t total = 0;
  CHOIR_RETURN_IF_ERROR(Reserve(weight * largest_q, weight, &bound, &total));
  bound_ = bound;
  total_weight_ = total;
  ++num_updates_;
  const int64_t factor = static_cast<int64_t>(weight);
  for (size_t i = 0; i < sums_.size(); ++i) {
    sums_[i] += factor * Quantize(update[i], fixed_point_bits_);
  }
  return absl::OkStatus();
}

absl::Status IntegerSum::Merge(const IntegerSum& other) {
  if (other.layout_digest_ != layout_digest_ ||
      other.fixed_point_bits_ != fixed_point_bits_ ||
      other.sums_.size() != sums_.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "sums differ in layout or grid: ", layout_digest_.substr(0, 16),
        "... with ", fixed_point_bits_, " bits and ",
        other.layout_digest_.substr(0, 16), "... with ",
        other.fixed_point_bits_, " bits"));
  }
  uint64_t bound = 0;
  uint64_t total = 0;
  CHOIR_RETURN_IF_ERROR(
      Reserve(other.bound_, other.total_weight_, &bound, &total));
  bound_ = bound;
  total_weight_ = total;
  num_updates_ += other.num_updates_;
  for (size_t i = 0; i < sums_.size(); ++i) sums_[i] += other.sums_[i];
  return absl::OkStatus();
}

std::string IntegerSum::Encode() const {
  const absl::StatusOr<base::Sha256Digest> digest =
      base::DigestFromHex(layout_digest_);
  CHOIR_CHECK(digest.ok());
  std::string out;
  out.reserve(kHeaderBytes + sums_.size() * sizeof(int64_t));
  out.append(kMagic, sizeof(kMagic));
  out.append(reinterpret_cast<const char*>(digest->data()), digest->size());
  Append(static_cast<uint32_t>(fixed_point_bits_), out);
  Append(num_updates_, out);
  Append(total_weight_, out);
  Append(LargestMagnitude(sums_), out);
  Append(static_cast<uint64_t>(sums_.size()), out);
  out.append(reinterpret_cast<const char*>(sums_.data()),
             sums_.size() * sizeof(int64_t));
  return out;
}

absl::StatusOr<IntegerSum> IntegerSum::Decode(absl::string_view bytes) {
  if (bytes.size() < kHeaderBytes ||
      std::memcmp(bytes.data(), kMagic, sizeof(kMagic)) != 0) {
    return absl::InvalidArgumentError(
        "not a sum: it does not begin with a CHS1 header");
  }
  IntegerSum sum;
  base::Sha256Digest digest;
  std::memcpy(digest.data(), bytes.data() + 4, digest.size());
  sum.layout_digest_ = base::ToHex(digest);
  const uint32_t bits = Load<uint32_t>(bytes, 36);
  sum.fixed_point_bits_ =
      static_cast<int>(bits <= kMaxFixedPointBits ? bits : 0);
  CHOIR_RETURN_IF_ERROR(CheckBits(sum.fixed_point_bits_));
  sum.num_updates_ = Load<uint64_t>(bytes, 40);
  sum.total_weight_ = Load<uint64_t>(bytes, 48);
  sum.bound_ = Load<uint64_t>(bytes, 56);
  const uint64_t count = Load<uint64_t>(bytes, 64);
  const uint64_t rest = bytes.size() - kHeaderBytes;
  if (rest % sizeof(int64_t) != 0 || count != rest / sizeof(int64_t)) {
    return absl::InvalidArgumentError(
        absl::StrCat("sum claims ", count, " elements in ", bytes.size(),
                     " bytes; that does not fit"));
  }
  if (sum.bound_ > kMaxBound || sum.total_weight_ > kMaxBound ||
      sum.num_updates_ > sum.total_weight_ ||
      (sum.num_updates_ == 0) != (sum.total_weight_ == 0)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "sum of ", sum.num_updates_, " updates claims total weight ",
        sum.total_weight_, " and bound ", sum.bound_, ", which cannot be"));
  }
  sum.sums_.resize(count);
  if (rest > 0) {
    std::memcpy(sum.sums_.data(), bytes.data() + kHeaderBytes, rest);
  }
  const uint64_t largest = LargestMagnitude(sum.sums_);
  if (largest != sum.bound_) {
    return absl::InvalidArgumentError(
        absl::StrCat("sum claims a bound of ", sum.bound_,
                     "; its largest element has a magnitude of ", largest));
  }
  return sum;
}

absl::StatusOr<std::vector<double>> IntegerSum::MeanUpdate() const {
  if (total_weight_ == 0) {
    return absl::FailedPreconditionError("the sum is empty: it has no mean");
  }
  const double weight = static_cast<double>(total_weight_);
  const double step = std::ldexp(1.0, -fixed_point_bits_);
  std::vector<double> mean(sums_.size());
  for (size_t i = 0; i < sums_.size(); ++i) {
    mean[i] = static_cast<double>(sums_[i]) / weight * step;
  }
  return mean;
}

}  // namespace choir::aggregate
